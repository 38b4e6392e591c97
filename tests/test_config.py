"""The configuration: what the recipe's files say, overrides, and errors that help."""

from pathlib import Path

import pytest

from sdpn_k2.config import Config, config_differences, config_from_dict, config_to_dict, config_to_yaml, load_config
from sdpn_k2.errors import InputError

CONF = Path(__file__).resolve().parents[1] / "egs" / "voxceleb" / "conf"


def test_the_published_recipe_is_the_default_and_is_spelt_out():
    loaded = load_config(CONF / "sdpn.yaml")
    # What concerns the machine and the log, not the method, may differ.
    allowed = {
        "train.workers",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.keep_every",
    }
    assert {key for key, _, _ in config_differences(Config(), loaded)} <= allowed


def test_every_key_is_in_the_full_recipe():
    import yaml

    def keys(tree, prefix=""):
        return {
            k
            for name, v in tree.items()
            for k in (keys(v, f"{prefix}{name}.") if isinstance(v, dict) else {prefix + name})
        }

    assert keys(yaml.safe_load((CONF / "sdpn.yaml").read_text())) == keys(config_to_dict(Config()))


def test_small_recipe():
    config = load_config(CONF / "sdpn_small.yaml")
    assert (config.model.channels, config.model.embedding_dim, config.objective.num_prototypes) == (128, 192, 128)
    assert config.train.ema_momentum == (0.99, 1.0)


def test_round_trip(tmp_path):
    config = load_config(
        None, ["train.batch_size=128", "augment.noise_snr=[1, 2]", "train.steps=7", "train.final_lr=1e-6"]
    )
    assert (config.train.batch_size, config.augment.noise_snr, config.train.final_lr) == (128, (1.0, 2.0), 1e-6)
    (tmp_path / "c.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config == config_from_dict(config_to_dict(config), "here")


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.batchsize=3", r"unknown key train.batchsize; did you mean train.batch_size\?"),
        ("batch_size=3", r"unknown key batch_size; did you mean train.batch_size\?"),
        ("trian.steps=3", "unknown key trian"),
        ("train.batch_size=big", "train.batch_size should be of type int, not 'big'"),
        ("train.batch_size=true", "should be of type int"),
        ("train.batch_size=1", "at least 2"),
        ("augment.noise_snr=3", "should be 2 values"),
        ("train=3", "should be a mapping"),
        ("train.precision=fp8", "choose auto, float32 or bfloat16"),
        ("model.channels=100", "multiple of model.res2net_scale"),
        ("train.warmup=1.5", "fraction of the run"),
        ("train.base_lr=.inf", "train.base_lr is inf; it should be finite"),
        ("train.base_lr=1e45", r"train.base_lr is 1e\+45; it should be at most 1e9"),
        ("train.steps=0", "train.steps should be at least 1"),
        ("train.momentum=1.5", "train.momentum is 1.5; it should lie in 0..1"),
        ("model.channels=0", "model.channels should be at least 1"),
        ("model.res2net_scale=0", "model.res2net_scale should be at least 1"),
        ("augment.mask_prob=3", "augment.mask_prob is 3; it should lie in 0..1"),
        ("augment.noise_snr=[15, 0]", r"augment.noise_snr is \[15, 0\]; .* the lower end first"),
        ("augment.music_snr=[5, .inf]", "augment.music_snr .* should be finite"),
        ("augment.babble_speakers=[3, 2]", "augment.babble_speakers .* the lower end first"),
        ("augment.babble_speakers=[0, 2]", "augment.babble_speakers should be at least 1"),
        ("train.clip_norm=0", "train.clip_norm should be positive"),
        ("augment.bank_gb=0", "augment.bank_gb and augment.rir_seconds should be positive"),
        ("objective.num_prototypes=1", "at least 2"),
        ("train.base_lr=-1", "cannot be negative"),
        ("seed", "expected section.key=value"),
        ("features.frame_shift_ms=0", "features.frame_shift_ms is 0; at 16000 Hz that is less than 1 sample$"),
        ("features.frame_length_ms=0.06", "features.frame_length_ms is 0.06; .* less than 2 samples"),
        ("features.frame_shift_ms=.inf", "features.frame_shift_ms is inf; it should be finite"),
        ("features.num_mel_bins=0", "features.num_mel_bins should be at least 1"),
        ("features.low_freq=8000", r"low_freq \(8000\) and features.high_freq \(0\) should be in order and inside"),
        ("features.high_freq=8001", "inside 0..8000 Hz"),
        ("features.high_freq=-7990", "should be in order"),
        ("features.sample_rate=0", "features.frame_length_ms is 25; at 0 Hz"),
        ("augment.noise_snr=[1", r"--set augment.noise_snr=\[1: not valid YAML"),
        ("seed=2020-13-45", "--set seed=2020-13-45: not valid YAML"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(InputError, match=message):
        load_config(None, [override])


def test_the_upper_edge_may_count_from_nyquist():
    assert load_config(None, ["features.high_freq=-400"]).features.high_freq == -400


def test_bad_files(tmp_path):
    (tmp_path / "broken.yaml").write_text("train: [1, 2\n")
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1  # caf\xe9\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    with pytest.raises(InputError, match="latin.yaml: not valid YAML"):
        load_config(tmp_path / "latin.yaml")
    with pytest.raises(InputError, match="should be a mapping"):
        load_config(tmp_path / "list.yaml")
    with pytest.raises(InputError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    assert load_config(tmp_path / "empty.yaml") == Config()
