"""The configuration: the recipe's files, overrides, and helpful errors."""

from pathlib import Path

import pytest

from sdpn_k2.config import (
    Config,
    TrainConfig,
    config_differences,
    config_from_dict,
    config_to_dict,
    config_to_yaml,
    load_config,
)
from sdpn_k2.errors import InputError

CONF = Path(__file__).resolve().parents[1] / "egs" / "voxceleb" / "conf"


def test_the_published_recipe_spells_out_the_defaults():
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
        ("train.batchsize=3", r"train.batchsize; .* train.batch_size\?"),
        ("batch_size=3", r"batch_size; .* train.batch_size\?"),
        ("trian.steps=3", "trian"),
        ("train.batch_size=big", "train.batch_size .* int, .*'big'"),
        ("train.batch_size=true", "train.batch_size .* int, .*True"),
        ("train.batch_size=1.5", "train.batch_size .* int, .*1.5"),
        ("train.batch_size=1", "train.batch_size is 1; .* at least 2"),
        ("train.batch_size={x: 1}", "train.batch_size .* int, .*{'x': 1}"),
        ("augment.noise_snr=3", "augment.noise_snr .* 2 values"),
        ("augment.noise_snr=[1, 2, 3]", "augment.noise_snr .* 2 values"),
        ("augment.speed_factors=1.1", "augment.speed_factors .*1.1"),
        ("augment.speed_factors=[1, 3]", "augment.speed_factors is 3; .* at least 0.5 and at most 2"),
        ("train=3", "train should"),
        ("train.precision=fp8", "train.precision is 'fp8'; .*auto, float32, bfloat16"),
        ("train.precision=on", "train.precision is .*auto, float32, bfloat16"),
        ("method=simclr", "method is 'simclr'; .*sdpn, dino"),
        ("input=mfcc", "input is 'mfcc'; .*waveform, fbank"),
        ("objective.dim_reg=none", "objective.dim_reg is .*koleo, off_diagonal, frobenius"),
        ("model.channels=100", r"model.channels \(100\) .* model.res2net_scale \(8\)"),
        ("train.warmup=1.5", "train.warmup is 1.5; .* below 1"),
        ("train.base_lr=.inf", r"train.base_lr is inf; .* at most 1e\+09"),
        ("train.base_lr=.nan", "train.base_lr is nan"),
        ("train.base_lr=1e45", r"train.base_lr is 1e\+45; .* at most 1e\+09"),
        ("train.base_lr=-1", "train.base_lr is -1; .* at least 0"),
        ("train.steps=0", "train.steps is 0; .* at least 1"),
        ("train.micro_batch_size=1", "train.micro_batch_size is 1; .* at least 2"),
        ("train.micro_batch_size=5", r"train.micro_batch_size \(5\) .* train.batch_size \(384\)"),
        ("train.momentum=1.5", "train.momentum is 1.5; .* at most 1"),
        ("train.ema_momentum=[0.9, 1.1]", "train.ema_momentum is 1.1; .* at most 1"),
        ("train.clip_norm=0", "train.clip_norm is 0; .* above 0"),
        ("model.channels=0", "model.channels is 0; .* at least 1"),
        ("model.res2net_scale=0", "model.res2net_scale is 0; .* at least 1"),
        ("crops.num_global=2", "crops.num_global is 2; .* 1 "),
        ("crops.local_seconds=0.1", "crops.local_seconds is 0.1; .* at least 0.2"),
        ("crops.growth=[]", "crops.growth is empty"),
        ("crops.growth=[0, 1]", "crops.growth is 0; .* above 0"),
        ("crops.growth=[0.05, 1]", "crops.growth makes crops of 0.1 s; .* at least 0.2 s"),
        ("augment.mask_prob=3", "augment.mask_prob is 3; .* at most 1"),
        ("augment.single_prob=0.9", r"augment.clean_prob \(0.16.* augment.single_prob \(0.9\)"),
        ("augment.noise_snr=[15, 0]", r"augment.noise_snr is \[15, 0\]"),
        ("augment.music_snr=[5, .inf]", "augment.music_snr is inf"),
        ("augment.babble_speakers=[3, 2]", r"augment.babble_speakers is \[3, 2\]"),
        ("augment.babble_speakers=[0, 2]", "augment.babble_speakers is 0; .* at least 1"),
        ("augment.bank_gb=0", "augment.bank_gb is 0; .* above 0"),
        ("objective.num_prototypes=1", "objective.num_prototypes is 1; .* at least 2"),
        ("objective.temperature=0", "objective.temperature is 0; .* above 0"),
        ("dino.teacher_temperature=0", "dino.teacher_temperature is 0; .* above 0"),
        ("seed", "--set seed: .*section.key=value"),
        ("seed=-1", "seed is -1; .* at least 0"),
        ("seed=1.5", "seed .* int, .*1.5"),
        ("features.frame_shift_ms=0", "features.frame_shift_ms is 0, .* 1 samples at 16000 Hz"),
        ("features.frame_length_ms=0.06", "features.frame_length_ms is 0.06, .* 2 samples"),
        ("features.frame_shift_ms=.inf", "features.frame_shift_ms is inf"),
        ("features.num_mel_bins=0", "features.num_mel_bins is 0; .* at least 1"),
        ("features.low_freq=8000", r"features.low_freq \(8000\) .* features.high_freq \(0\)"),
        ("features.high_freq=8001", r"features.high_freq \(8001\), .* 0..8000 Hz"),
        ("features.high_freq=-7990", r"features.high_freq \(-7990\)"),
        ("features.sample_rate=0", "features.sample_rate is 0; .* at least 1"),
        ("features.scale=1", "features.scale is 1; .* 32768"),
        ("augment.noise_snr=[1", r"--set augment.noise_snr=\[1: .*YAML"),
        ("seed=2020-13-45", "--set seed=2020-13-45: .*YAML"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(InputError, match=message):
        load_config(None, [override])


@pytest.mark.parametrize("setting", ["features.kind=melspec", "augment.speed_factors=[0.9, 1.0]"])
def test_stored_fbank_excludes_settings_that_need_waveforms(setting):
    assert load_config(None, [setting])
    with pytest.raises(InputError, match=f"{setting[:13]}.* input=waveform"):
        load_config(None, [setting, "input=fbank"])


def test_values_are_checked_together_in_any_order():
    config = load_config(None, ["train.micro_batch_size=5", "train.batch_size=10"])
    assert (config.train.micro_batch_size, config.train.batch_size) == (5, 10)


def test_on_and_off_are_words():
    assert load_config(None, ["train.compile=off"]).train.compile == "off"
    assert load_config(None, ["train.compile=on"]).train.compile == "on"


def test_each_section_checks_its_values():
    assert TrainConfig(base_lr=1, ema_momentum=[0.5, 1]) == TrainConfig(base_lr=1.0, ema_momentum=(0.5, 1.0))
    with pytest.raises(InputError, match="^train.batch_size is 0"):
        TrainConfig(batch_size=0)
    with pytest.raises(InputError, match="^step.pt: train.batch_size is 0"):
        config_from_dict({"train": {"batch_size": 0}}, "step.pt")


def test_the_upper_edge_may_count_from_nyquist():
    assert load_config(None, ["features.high_freq=-400"]).features.high_freq == -400


def test_bad_files(tmp_path):
    (tmp_path / "broken.yaml").write_text("train: [1, 2\n")
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1  # caf\xe9\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "empty.yaml").write_text("")
    for name in ("broken.yaml", "latin.yaml", "list.yaml", "none.yaml"):
        with pytest.raises(InputError, match=f"{tmp_path}/{name}: "):
            load_config(tmp_path / name)
    assert load_config(tmp_path / "empty.yaml") == Config()
