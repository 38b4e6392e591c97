"""``sdpn-k2 config``, and its check that training would compute the stored features."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from sdpn_k2.cli.config import config
from sdpn_k2.config import FeaturesConfig, config_differences, load_config
from sdpn_k2.data.fbank_config import check_fbank_config
from sdpn_k2.errors import InputError

CONF = Path(__file__).resolve().parents[1] / "egs" / "voxceleb" / "conf"


@pytest.mark.parametrize("name, fbank", [("sdpn", "fbank"), ("sdpn_small", "fbank"), ("sdpn_8k", "fbank_8k")])
def test_the_recipe_trains_on_the_features_it_stores(name, fbank):
    stored = CONF / f"{fbank}.conf"
    arguments = ["--config", str(CONF / f"{name}.yaml"), "--set", "seed=3", "--fbank-config", str(stored)]
    done = CliRunner().invoke(config, arguments)
    assert done.exit_code == 0, done.output
    tree = yaml.safe_load(done.output)
    assert tree["seed"] == 3 and tree["features"]["num_mel_bins"] == 80


@pytest.mark.parametrize(
    "features, options, message",
    [
        (
            FeaturesConfig(low_freq=300.0),
            "",
            r"fbank.conf: .*--low-freq=20.* --low-freq=300.*features.low_freq",
        ),
        (FeaturesConfig(num_mel_bins=40), "", "--num-mel-bins=80.* --num-mel-bins=40"),
        (FeaturesConfig(sample_rate=8000), "", "--sample-frequency=16000.* --sample-frequency=8000"),
        (FeaturesConfig(), "--dither=1.0  # Kaldi's default", "--dither=1.* --dither=0:"),
        (FeaturesConfig(), "--snip-edges=false", "--snip-edges=false.* --snip-edges=true:"),
        (FeaturesConfig(), "--low-frequency=20", "4.*--low-frequency=20"),
    ],
)
def test_different_features_are_refused(tmp_path, features, options, message):
    path = tmp_path / "fbank.conf"
    path.write_text(f"{(CONF / 'fbank.conf').read_text()}{options}\n")
    with pytest.raises(InputError, match=message):
        check_fbank_config(path, features)


def test_models_with_another_front_end_ignore_stored_features(tmp_path):
    check_fbank_config(tmp_path / "nowhere", FeaturesConfig(kind="melspec", num_mel_bins=64))


def test_one_value_is_printed():
    arguments = ["--config", str(CONF / "sdpn_8k.yaml"), "--key"]
    assert CliRunner().invoke(config, [*arguments, "features.sample_rate"]).output == "8000\n"
    for key, suggestion in (("features.sample_rat", "features.sample_rate"), ("batch_size", "train.batch_size")):
        error = CliRunner().invoke(config, [*arguments, key]).exception
        assert isinstance(error, InputError) and suggestion in str(error)


def test_the_8_khz_recipe_differs_from_the_published_one_in_what_it_says():
    wide, narrow = (load_config(CONF / f"{name}.yaml") for name in ("sdpn", "sdpn_8k"))
    assert {key for key, _, _ in config_differences(wide, narrow)} == {
        "features.sample_rate",
        "augment.telephone_prob",
    }
