"""The configuration: one tree of frozen dataclasses, read from YAML, every key overridable.

The defaults are the published recipe (Chen et al., "Self-Distillation Prototypes Network", arXiv 2308.02774);
``egs/voxceleb/conf/sdpn.yaml`` spells them out. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence, Tuple

import yaml

from sdpn_k2.errors import InputError


@dataclass(frozen=True)
class FeaturesConfig:
    """What the encoder sees, before instance normalisation over time.

    fbank: Kaldi's (``compute-fbank-feats`` with dither 0). melspec: 3D-Speaker's, for its released weights; there
    low_freq is 0 and scale 1 in its extraction, 32768 in its training.
    """

    kind: str = "fbank"  # or melspec
    sample_rate: int = 16000
    num_mel_bins: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    low_freq: float = 20.0
    high_freq: float = 0.0  # as in Kaldi: an offset from the Nyquist frequency when <= 0
    scale: float = 32768.0  # of samples in ±1; Kaldi's for fbank


@dataclass(frozen=True)
class CropsConfig:
    """Multi-crop views of one utterance."""

    num_global: int = 1
    global_seconds: float = 4.0
    num_local: int = 4
    local_seconds: float = 2.0
    min_seconds: float = 1.0  # shorter utterances are not trained on


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of local crops, each on its own."""

    clean_prob: float = 1 / 6  # nothing is done
    single_prob: float = 3 / 6  # one effect; the rest gets reverberation, then noise
    single_reverb_prob: float = 0.25  # of one effect: reverberation, else noise
    noise_snr: Tuple[float, float] = (0.0, 15.0)  # dB, uniform
    babble_snr: Tuple[float, float] = (13.0, 20.0)
    music_snr: Tuple[float, float] = (5.0, 15.0)
    babble_speakers: Tuple[int, int] = (3, 7)
    speed_factors: Tuple[float, ...] = ()  # speeds an utterance may take, such as [0.9, 1.0, 1.1]; none: as it is
    mask_prob: float = 0.2  # per utterance
    time_mask_frames: int = 9  # widths are uniform in 0..this
    freq_mask_bins: int = 5
    bank_gb: float = 2.0  # device memory for noise, as int16; larger collections take turns in it
    rotate_steps: int = 1000  # steps of a turn
    rir_seconds: float = 1.5  # longer impulse responses are cut


@dataclass(frozen=True)
class ModelConfig:
    """ECAPA-TDNN encoder and projection MLP."""

    channels: int = 1024
    attention_channels: int = 128
    se_channels: int = 128
    res2net_scale: int = 8
    embedding_dim: int = 512
    mlp_hidden_dim: int = 2048
    projection_dim: int = 256


@dataclass(frozen=True)
class ObjectiveConfig:
    """Prototypes and losses."""

    num_prototypes: int = 1024
    temperature: float = 0.1  # tau
    sharpening: float = 0.25  # T: the teacher's p^(1/T), renormalised
    sinkhorn_iterations: int = 3
    me_weight: float = 1.0
    dr_weight: float = 0.1  # mu
    dim_reg: str = "koleo"  # L_DR: koleo, off_diagonal or frobenius


@dataclass(frozen=True)
class DinoConfig:
    """The baseline (``method: dino``)."""

    num_outputs: int = 65536
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    frozen_epochs: int = 1  # the output layer does not learn in these


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. The run lasts ``epochs``, or ``steps`` where given."""

    batch_size: int = 384  # utterances, over all processes
    micro_batch_size: Optional[int] = None  # utterances of a process that go through the networks at once; null: all
    epochs: float = 150.0
    steps: Optional[int] = None
    base_lr: float = 0.4  # peak learning rate for a batch of 256; scales with the batch
    final_lr: float = 1e-5
    warmup: float = 10 / 150  # fraction of the run
    momentum: float = 0.9
    weight_decay: float = 5e-5
    clip_norm: float = 3.0  # per tensor of the student
    prototype_lr_scale: float = 4.0
    ema_momentum: Tuple[float, float] = (0.996, 1.0)  # cosine from, to
    precision: str = "auto"  # float32, bfloat16; auto: bfloat16 where the hardware multiplies it
    compile: str = "auto"  # on, off; auto: on GPUs, in runs long enough to pay for it
    workers: int = 2  # loader processes per training process
    log_every: int = 10  # steps
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 3  # the newest
    keep_every: int = 0  # also keep the first checkpoint of every so many epochs; 0: none
    evaluate_every: int = 0  # steps between EERs on dev trials, where such are given; 0: at every checkpoint


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes."""

    seed: int = 0
    method: str = "sdpn"  # or dino
    input: str = "waveform"  # or fbank: the stored features of the cuts; no reverberation then
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def load_config(path: Optional[Path] = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration: defaults, then the YAML file, then ``section.key=value`` overrides.

    Raises:
        InputError: unreadable or malformed file, unknown key (with the nearest valid one), value of a wrong type or
            out of range.
    """
    config = Config()
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot read the configuration: {error.strerror}") from error
        except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
            raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        config = _update(config, {} if tree is None else tree, str(path))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: expected section.key=value, for example train.batch_size=128")
        try:
            tree: Any = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(f"--set {override}: not valid YAML: {' '.join(str(error).split())}") from error
        for name in reversed(key.split(".")):
            tree = {name: tree}
        config = _update(config, tree, f"--set {override}")
    _check(config)
    return config


def config_from_dict(tree: Mapping[str, Any], source: str) -> Config:
    """The configuration stored in ``tree`` (as :func:`config_to_dict` made it); ``source`` names it in errors."""
    config = _update(Config(), tree, source)
    _check(config)
    return config


def config_to_dict(config: Config) -> dict:
    """The configuration as plain dicts, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_to_yaml(config: Config) -> str:
    """The resolved configuration as YAML, in the order of the dataclasses."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, default_flow_style=None)


def config_differences(old: Config, new: Config) -> Iterator[Tuple[str, Any, Any]]:
    """``(key, old value, new value)`` of every key in which two configurations differ."""
    flat_old, flat_new = dict(_flatten(config_to_dict(old))), dict(_flatten(config_to_dict(new)))
    return ((key, flat_old[key], value) for key, value in flat_new.items() if value != flat_old[key])


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _update(node: Any, tree: Any, source: str, prefix: str = "") -> Any:
    if not isinstance(tree, Mapping):
        raise InputError(f"{source}: {prefix.rstrip('.') or 'the configuration'} should be a mapping of keys to values")
    types = typing.get_type_hints(type(node))
    changes = {}
    for name, value in tree.items():
        if name not in types:
            raise InputError(f"{source}: unknown key {prefix}{name}{_nearest(str(name), prefix)}")
        current = getattr(node, name)
        if dataclasses.is_dataclass(current):
            changes[name] = _update(current, value, source, f"{prefix}{name}.")
        else:
            changes[name] = _convert(value, types[name], f"{source}: {prefix}{name}")
    return dataclasses.replace(node, **changes)


def _nearest(name: str, prefix: str) -> str:
    keys = [key for key, _ in _flatten(config_to_dict(Config()))]
    by_leaf = difflib.get_close_matches(name, [key.rsplit(".", 1)[-1] for key in keys], n=1)
    full = difflib.get_close_matches(prefix + name, keys, n=1)
    if by_leaf:
        full = [key for key in keys if key.rsplit(".", 1)[-1] == by_leaf[0]]
    return (
        f"; did you mean {full[0]}?"
        if full
        else f"; valid sections: {', '.join(f.name for f in dataclasses.fields(Config))}"
    )


def _convert(value: Any, kind: Any, where: str) -> Any:
    """``value`` as ``kind``: int, float, str, Optional[int] or a pair."""
    arguments = typing.get_args(kind)
    if type(None) in arguments:
        return None if value is None else _convert(value, arguments[0], where)
    if arguments and arguments[-1] is Ellipsis:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} should be a list, such as [0.9, 1.0], not {value!r}")
        return tuple(_convert(item, arguments[0], where) for item in value)
    if arguments:
        if not isinstance(value, (list, tuple)) or len(value) != len(arguments):
            raise InputError(f"{where} should be {len(arguments)} values, such as [0, 1], not {value!r}")
        return tuple(_convert(item, item_kind, where) for item, item_kind in zip(value, arguments))
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-5 as a string.
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"{where} should be of type {kind.__name__}, not {value!r}")
    return value


def _check(config: Config) -> None:
    def require(holds: bool, message: str) -> None:
        if not holds:
            raise InputError(f"configuration: {message}")

    crops, model, train, objective = config.crops, config.model, config.train, config.objective
    for key, value in _flatten(config_to_dict(config)):
        if isinstance(value, (int, float)):
            require(abs(value) < math.inf, f"{key} is {value}; it should be finite")
            # Products of such numbers are finite in float32.
            require(value <= 1e9 or isinstance(value, int), f"{key} is {value:g}; it should be at most 1e9")
            require(value >= 0 or key == "features.high_freq", f"{key} is {value}; it cannot be negative")
    for key in (
        "crops.num_global",
        "crops.num_local",
        "train.batch_size",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "objective.sinkhorn_iterations",
        "augment.rotate_steps",
        "dino.num_outputs",
        *(f"model.{size.name}" for size in dataclasses.fields(model)),
    ):
        section, name = key.split(".")
        require(getattr(getattr(config, section), name) >= 1, f"{key} should be at least 1")
    require(crops.num_global == 1, f"crops.num_global is {crops.num_global}; SDPN's teacher sees exactly 1 global crop")
    for name in ("global_seconds", "local_seconds"):
        require(getattr(crops, name) >= 0.2, f"crops.{name} should be at least 0.2 s")
    require(
        model.channels % model.res2net_scale == 0,
        f"model.channels ({model.channels}) should be a multiple of model.res2net_scale ({model.res2net_scale})",
    )
    require(objective.num_prototypes >= 2, "objective.num_prototypes should be at least 2")
    require(
        objective.temperature > 0 and objective.sharpening > 0,
        "objective.temperature and objective.sharpening should be positive",
    )
    features = config.features
    require(features.kind in ("fbank", "melspec"), f"features.kind is {features.kind}; choose fbank or melspec")
    require(
        features.kind == "melspec" or features.scale == 32768,
        f"features.scale is {features.scale:g}; Kaldi's fbank wants 32768, other scales are for features.kind=melspec",
    )
    require(features.scale > 0, "features.scale should be positive")
    require(features.num_mel_bins >= 1, "features.num_mel_bins should be at least 1")
    for name, least in (("frame_length_ms", 2), ("frame_shift_ms", 1)):
        require(
            round(features.sample_rate * getattr(features, name) / 1000) >= least,
            f"features.{name} is {getattr(features, name):g}; at {features.sample_rate} Hz that is less than "
            f"{least} sample{'s' * (least > 1)}",
        )
    nyquist = features.sample_rate / 2
    high = features.high_freq if features.high_freq > 0 else nyquist + features.high_freq
    require(
        features.low_freq < high <= nyquist,
        f"features.low_freq ({features.low_freq:g}) and features.high_freq ({features.high_freq:g}) should be in "
        f"order and inside 0..{nyquist:g} Hz",
    )
    require(config.method in ("sdpn", "dino"), f"method is {config.method}; choose sdpn or dino")
    require(config.input in ("waveform", "fbank"), f"input is {config.input}; choose waveform or fbank")
    require(config.input == "waveform" or features.kind == "fbank", "features.kind: melspec needs input: waveform")
    require(
        config.input == "waveform" or not config.augment.speed_factors, "augment.speed_factors needs input: waveform"
    )
    require(
        all(0.5 <= factor <= 2 for factor in config.augment.speed_factors), "augment.speed_factors should lie in 0.5..2"
    )
    require(
        objective.dim_reg in ("koleo", "off_diagonal", "frobenius"),
        f"objective.dim_reg is {objective.dim_reg}; choose koleo, off_diagonal or frobenius",
    )
    require(
        config.dino.student_temperature > 0 and config.dino.teacher_temperature > 0,
        "dino.student_temperature and dino.teacher_temperature should be positive",
    )
    if train.micro_batch_size is not None:
        require(train.micro_batch_size >= 2, "train.micro_batch_size should be at least 2")
        require(
            train.batch_size % train.micro_batch_size == 0,
            f"train.micro_batch_size ({train.micro_batch_size}) does not divide train.batch_size ({train.batch_size})",
        )
    require(train.batch_size >= 2, "train.batch_size should be at least 2: batch normalisation needs two utterances")
    require(
        train.precision in ("auto", "float32", "bfloat16"),
        f"train.precision is {train.precision}; choose auto, float32 or bfloat16",
    )
    require(train.compile in ("auto", "on", "off"), f"train.compile is {train.compile}; choose auto, on or off")
    require(train.steps is None or train.steps >= 1, "train.steps should be at least 1")
    require(train.clip_norm > 0, "train.clip_norm should be positive")
    require(train.warmup < 1, f"train.warmup is {train.warmup}; it is a fraction of the run, below 1")
    require(all(0 <= momentum <= 1 for momentum in train.ema_momentum), "train.ema_momentum should lie in 0..1")
    augment = config.augment
    for key, value in (
        ("augment.single_reverb_prob", augment.single_reverb_prob),
        ("train.momentum", train.momentum),
        ("augment.mask_prob", augment.mask_prob),
        ("dino.centre_momentum", config.dino.centre_momentum),
    ):
        require(value <= 1, f"{key} is {value:g}; it should lie in 0..1")
    for name in ("noise_snr", "babble_snr", "music_snr", "babble_speakers"):
        low, high = getattr(augment, name)
        require(
            -math.inf < low <= high < math.inf,
            f"augment.{name} is [{low:g}, {high:g}]; it should be finite, the lower end first",
        )
    require(augment.babble_speakers[0] >= 1, "augment.babble_speakers should be at least 1")
    require(
        augment.bank_gb > 0 and augment.rir_seconds > 0, "augment.bank_gb and augment.rir_seconds should be positive"
    )
    require(
        augment.clean_prob + augment.single_prob <= 1,
        "augment.clean_prob and augment.single_prob should sum to at most 1",
    )
