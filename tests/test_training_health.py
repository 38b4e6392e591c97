"""Signs of collapse."""

from sdpn_k2.training.health import warn_of_collapse


def test_signs_of_collapse_are_logged(caplog):
    healthy = {"prototypes_in_use": 120.0, "effective_rank": 30.0, "mean_cosine": 0.1}
    assert warn_of_collapse(5, healthy, 128, 64) == []
    assert warn_of_collapse(5, healthy, 65536, 64) == []
    collapsed = {"prototypes_in_use": 2.0, "effective_rank": 1.2, "mean_cosine": 0.99}
    with caplog.at_level("WARNING"):
        assert len(warn_of_collapse(7, collapsed, 128, 64)) == 3
    assert "step 7: " in caplog.text and "2.0 of 128 prototypes" in caplog.text
