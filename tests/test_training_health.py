"""Signs of collapse."""

from sdpn_k2.config import load_config
from sdpn_k2.training.health import limits, warn_of_collapse


def config(num_prototypes):
    return load_config(None, [f"objective.num_prototypes={num_prototypes}", "train.batch_size=64"])


def test_signs_of_collapse_are_logged(caplog):
    healthy = {"prototypes_in_use": 120.0, "effective_rank": 30.0, "mean_cosine": 0.1}
    assert warn_of_collapse(5, healthy, config(128)) == []
    assert warn_of_collapse(5, healthy, config(65536)) == []
    collapsed = {"prototypes_in_use": 2.0, "effective_rank": 1.2, "mean_cosine": 0.99}
    with caplog.at_level("WARNING"):
        assert len(warn_of_collapse(7, collapsed, config(128))) == 3
    assert "step 7: " in caplog.text and "2.0 of 128 prototypes" in caplog.text


def test_limits_are_on_the_right_side():
    """A batch of 64 can use 64 of 128 prototypes, and 5 % of those are 3.2."""
    limit = limits(config(128))
    assert limit["prototypes_in_use"].is_crossed_by(3.1) and not limit["prototypes_in_use"].is_crossed_by(3.3)
    assert limit["effective_rank"].is_crossed_by(2.9) and not limit["effective_rank"].is_crossed_by(3.1)
    assert limit["mean_cosine"].is_crossed_by(0.91) and not limit["mean_cosine"].is_crossed_by(0.89)
    assert not any(each.is_crossed_by(float("nan")) for each in limit.values())
