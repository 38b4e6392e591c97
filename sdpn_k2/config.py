"""The configuration: one tree of frozen dataclasses, read from YAML, every key overridable.

The defaults are the published recipe (Chen et al., "Self-Distillation Prototypes Network", arXiv 2308.02774);
``egs/voxceleb/conf/sdpn.yaml`` spells them out. Each field's type gives the range of its values. An unknown key is an
error that suggests the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Dict, Iterator, List, Literal, Mapping, Optional, Sequence, Tuple, Type

import yaml

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.pcm import INT16_SCALE

# Products of a few numbers below this bound are finite in float32.
LARGEST = 1e9


@dataclass(frozen=True)
class Range:
    """Valid values of a number; ``above`` and ``below`` exclude the bound itself."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        bounds = (("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below))
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if math.isfinite(bound))


Whole = Annotated[int, Range(least=0, most=LARGEST)]
Count = Annotated[int, Range(least=1, most=LARGEST)]
Several = Annotated[int, Range(least=2, most=LARGEST)]
Real = Annotated[float, Range(least=-LARGEST, most=LARGEST)]
NonNegative = Annotated[float, Range(least=0, most=LARGEST)]
Positive = Annotated[float, Range(above=0, most=LARGEST)]
Fraction = Annotated[float, Range(least=0, most=1)]
Share = Annotated[float, Range(above=0, most=1)]
MIN_CROP_SECONDS = 0.2
# What checkpoints did before there were these keys. Later defaults differ.
BEFORE = {"features.silence": "keep", "augment.gate_prob": 0.0}
CropSeconds = Annotated[float, Range(least=MIN_CROP_SECONDS, most=LARGEST)]
SpeedFactor = Annotated[float, Range(least=0.5, most=2)]


@dataclass(frozen=True)
class Section:
    """Base of the configuration's dataclasses: converts and checks every field when an instance is made."""

    PREFIX: ClassVar[str]  # of the section's keys, for messages

    def __post_init__(self) -> None:
        """Raise InputError, naming the key, for a value of a wrong type or out of range."""
        kinds = _field_types(type(self))
        for name, kind in kinds.items():
            if not dataclasses.is_dataclass(kind):
                object.__setattr__(self, name, _convert(getattr(self, name), kind, self.PREFIX + name))


@dataclass(frozen=True)
class FeaturesConfig(Section):
    """What the encoder sees, before instance normalisation over time.

    fbank: Kaldi's (``compute-fbank-feats`` with dither 0). melspec: 3D-Speaker's, for its released weights; there
    low_freq is 0, and scale is 1 in extraction and 32768 in training. silence: digital silence is left out (drop), or
    normalised and embedded like speech, as published (keep); auto is drop for fbank and keep for melspec.
    """

    PREFIX: ClassVar[str] = "features."
    kind: Literal["fbank", "melspec"] = "fbank"
    sample_rate: Count = 16000
    num_mel_bins: Count = 80
    frame_length_ms: NonNegative = 25.0
    frame_shift_ms: NonNegative = 10.0
    low_freq: NonNegative = 20.0
    high_freq: Real = 0.0  # as in Kaldi: an offset from the Nyquist frequency when <= 0
    scale: Positive = INT16_SCALE  # factor for samples in ±1; fbank needs Kaldi's
    silence: Literal["auto", "drop", "keep"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.silence == "auto":
            object.__setattr__(self, "silence", "drop" if self.kind == "fbank" else "keep")
        _require(
            self.kind == "melspec" or self.scale == INT16_SCALE,
            f"features.scale is {self.scale:g}; Kaldi's fbank needs {INT16_SCALE:g} (other scales are for melspec)",
        )
        for name, least in (("frame_length_ms", 2), ("frame_shift_ms", 1)):
            _require(
                round(self.sample_rate * getattr(self, name) / 1000) >= least,
                f"features.{name} is {getattr(self, name):g}, less than {least} samples at {self.sample_rate} Hz",
            )
        nyquist = self.sample_rate / 2
        high = self.high_freq if self.high_freq > 0 else nyquist + self.high_freq
        _require(
            self.low_freq < high <= nyquist,
            f"features.low_freq ({self.low_freq:g}) should be below features.high_freq ({self.high_freq:g}), "
            f"and both within 0..{nyquist:g} Hz",
        )


@dataclass(frozen=True)
class CropsConfig(Section):
    """Multi-crop views of one utterance."""

    PREFIX: ClassVar[str] = "crops."
    num_global: Count = 1
    global_seconds: CropSeconds = 4.0
    num_local: Count = 4
    local_seconds: CropSeconds = 2.0
    min_seconds: NonNegative = 1.0  # shorter utterances are not used for training
    growth: Tuple[Share, ...] = (1.0,)  # shares of these lengths, each for an equal part of the run

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.num_global == 1,
            f"crops.num_global is {self.num_global}; SDPN's teacher sees exactly 1 global crop",
        )
        _require(bool(self.growth), "crops.growth is empty; [1.0] means crops of full length throughout")
        shortest = min(self.growth) * min(self.global_seconds, self.local_seconds)
        _require(
            shortest >= MIN_CROP_SECONDS,
            f"crops.growth makes crops of {shortest:g} s; they should be at least {MIN_CROP_SECONDS:g} s",
        )


@dataclass(frozen=True)
class AugmentConfig(Section):
    """Augmentation of local crops, each on its own."""

    PREFIX: ClassVar[str] = "augment."
    clean_prob: Fraction = 1 / 6  # no effect
    single_prob: Fraction = 3 / 6  # one effect; the remaining crops get reverberation, then noise
    single_reverb_prob: Fraction = 0.25  # probability that the one effect is reverberation, not noise
    noise_snr: Tuple[Real, Real] = (0.0, 15.0)  # dB, uniform
    babble_snr: Tuple[Real, Real] = (13.0, 20.0)
    music_snr: Tuple[Real, Real] = (5.0, 15.0)
    babble_speakers: Tuple[Count, Count] = (3, 7)
    speed_factors: Tuple[SpeedFactor, ...] = ()  # one is drawn per utterance, e.g. from [0.9, 1.0, 1.1]; empty: off
    telephone_prob: Fraction = 0.0  # after reverberation and noise: 300 to 3400 Hz, and G.711's μ-law or A-law
    mask_prob: Fraction = 0.2  # per utterance
    time_mask_frames: Whole = 9  # widths are uniform in 0..this
    freq_mask_bins: Whole = 5
    gate_prob: Fraction = 0.0  # probability that a crop goes through a noise gate, which leaves zeros between words
    gate_share: Tuple[Fraction, Fraction] = (0.1, 0.5)  # quietest part of the crop that the gate mutes, uniform
    bank_gb: Positive = 2.0  # device memory for noise and impulse responses; more noise is used part by part
    rotate_steps: Count = 1000  # steps for which a part is used
    rir_seconds: Positive = 1.5  # longer impulse responses are cut

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise_snr", "babble_snr", "music_snr", "babble_speakers", "gate_share"):
            low, high = getattr(self, name)
            _require(low <= high, f"augment.{name} is [{low:g}, {high:g}]; the lower bound comes first")
        _require(
            self.clean_prob + self.single_prob <= 1,
            f"augment.clean_prob ({self.clean_prob:g}) and augment.single_prob ({self.single_prob:g}) "
            "should add up to at most 1",
        )


@dataclass(frozen=True)
class ModelConfig(Section):
    """ECAPA-TDNN encoder and projection MLP."""

    PREFIX: ClassVar[str] = "model."
    channels: Count = 1024
    attention_channels: Count = 128
    se_channels: Count = 128
    res2net_scale: Count = 8
    embedding_dim: Count = 512
    mlp_hidden_dim: Count = 2048
    projection_dim: Count = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.channels % self.res2net_scale == 0,
            f"model.channels ({self.channels}) should be a multiple of model.res2net_scale ({self.res2net_scale})",
        )


@dataclass(frozen=True)
class ObjectiveConfig(Section):
    """Prototypes and losses."""

    PREFIX: ClassVar[str] = "objective."
    num_prototypes: Several = 1024
    temperature: Positive = 0.1  # tau
    sharpening: Positive = 0.25  # T: the teacher's p^(1/T), renormalised
    sinkhorn_iterations: Count = 3
    me_weight: NonNegative = 1.0
    dr_weight: NonNegative = 0.1  # mu
    dim_reg: Literal["koleo", "off_diagonal", "frobenius"] = "koleo"  # L_DR


@dataclass(frozen=True)
class DinoConfig(Section):
    """The baseline (``method: dino``)."""

    PREFIX: ClassVar[str] = "dino."
    num_outputs: Count = 65536
    student_temperature: Positive = 0.1
    teacher_temperature: Positive = 0.04
    centre_momentum: Fraction = 0.9
    frozen_epochs: Whole = 1  # the output layer does not learn in these


@dataclass(frozen=True)
class TrainConfig(Section):
    """Optimisation. The run lasts ``epochs``, or ``steps`` where given."""

    PREFIX: ClassVar[str] = "train."
    batch_size: Several = 384  # utterances over all processes; batch normalisation needs two
    micro_batch_size: Optional[Several] = None  # utterances per forward pass of a process; null: all of its share
    epochs: NonNegative = 150.0
    steps: Optional[Count] = None
    base_lr: NonNegative = 0.4  # peak learning rate for a batch of 256; scales with the batch
    final_lr: NonNegative = 1e-5
    warmup: Annotated[float, Range(least=0, below=1)] = 10 / 150  # fraction of the run
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-5
    clip_norm: Positive = 3.0  # per tensor of the student
    prototype_lr_scale: NonNegative = 4.0
    ema_momentum: Tuple[Fraction, Fraction] = (0.996, 1.0)  # cosine from, to
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware multiplies it
    compile: Literal["auto", "on", "off"] = "auto"  # auto: on GPUs, in runs long enough to pay for it
    deterministic: Literal["on", "off"] = "off"  # on: repeat a run bit by bit on GPUs too, at some cost
    workers: Whole = 2  # loader processes per training process
    log_every: Count = 10  # steps
    checkpoint_every: Count = 1000  # steps
    keep_checkpoints: Count = 3  # the newest
    keep_every: Whole = 0  # also keep the first checkpoint of every so many epochs; 0: none
    evaluate_every: Whole = 0  # steps between EERs on dev trials, if any are given; 0: at every checkpoint

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(
            self.batch_size % (self.micro_batch_size or 1) == 0,
            f"train.micro_batch_size ({self.micro_batch_size}) does not divide train.batch_size ({self.batch_size})",
        )


@dataclass(frozen=True)
class Config(Section):
    """Everything that decides what a run computes."""

    PREFIX: ClassVar[str] = ""
    seed: Annotated[int, Range(least=0, below=2**63)] = 0
    method: Literal["sdpn", "dino"] = "sdpn"
    input: Literal["waveform", "fbank"] = "waveform"  # fbank: the stored features of the cuts; no reverberation then
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    dino: DinoConfig = field(default_factory=DinoConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input == "fbank":
            _require(self.features.kind == "fbank", f"features.kind={self.features.kind} needs input=waveform")
            _require(not self.augment.speed_factors, "augment.speed_factors needs input=waveform")
            _require(not self.augment.telephone_prob, "augment.telephone_prob needs input=waveform")


def load_config(path: Optional[Path] = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration: defaults, then the YAML file, then ``section.key=value`` overrides.

    Raises:
        InputError: an unreadable or malformed file, a value of a wrong type or out of range, or an unknown key; the
            message suggests the nearest valid one.
    """
    values: Dict[str, Any] = {}
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot read the configuration: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path}: not valid YAML: {error}") from error
        content = _parse_yaml(text, str(path))
        _merge(values, {} if content is None else content, str(path))
    for override in overrides:
        source = f"--set {override}"
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"{source}: expected section.key=value, for example train.batch_size=128")
        tree: Any = _parse_yaml(text, source)
        for name in reversed(key.split(".")):
            tree = {name: tree}
        _merge(values, tree, source)
    with error_context("configuration"):
        return _make_config(values)


def config_from_dict(tree: Mapping[str, Any], source: str) -> Config:
    """Return the configuration that :func:`config_to_dict` stored in ``tree``; ``source`` names it in errors.

    A tree of an earlier release lacks later keys, which then get the values that the release behaved by.
    """
    values: Dict[str, Any] = {}
    for key, value in BEFORE.items():
        section, _, name = key.partition(".")
        values.setdefault(section, {})[name] = value
    _merge(values, tree, source)
    with error_context(source):
        return _make_config(values)


def config_to_dict(config: Config) -> Dict[str, Any]:
    """Return the configuration as plain dicts, lists, numbers and strings."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML, in the order of the dataclasses."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, default_flow_style=None)


def config_items(config: Config) -> Dict[str, Any]:
    """Return every key with its value, such as ``{"train.batch_size": 384}``."""
    return dict(_flatten(config_to_dict(config)))


def config_keys() -> List[str]:
    """Return all keys, such as ``train.batch_size``."""
    return list(config_items(Config()))


def config_value(config: Config, key: str) -> Any:
    """Return the value of a key such as ``features.sample_rate``. Raises InputError for an unknown one."""
    values = config_items(config)
    if key not in values:
        section, _, name = key.rpartition(".")
        raise InputError(f"unknown key {key}{_suggestion(name, section and section + '.')}")
    return values[key]


def config_differences(old: Config, new: Config) -> Iterator[Tuple[str, Any, Any]]:
    """Return ``(key, old value, new value)`` of every key in which two configurations differ."""
    flat_old, flat_new = config_items(old), config_items(new)
    return ((key, flat_old[key], value) for key, value in flat_new.items() if value != flat_old[key])


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _field_types(section: Type[Section]) -> Dict[str, Any]:
    """Return the types of a dataclass's fields, with their ranges."""
    types = typing.get_type_hints(section, include_extras=True)
    return {each.name: types[each.name] for each in dataclasses.fields(section)}


class _Loader(yaml.SafeLoader):
    """Refuses aliases, which can unpack to any size, and duplicate keys.

    A section may occur twice at the top level, since configurations are joined with ``cat``: its keys are merged.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node; refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=self.peek_event().start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping; merge its duplicate sections, and refuse other duplicate keys."""
        node = super().compose_mapping_node(anchor)
        seen: Dict[Tuple[str, str], Any] = {}
        for key, value in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else ("", str(id(key)))
            earlier = seen.setdefault(name, value)
            if earlier is value:
                continue
            if self.depth > 1 or not (isinstance(earlier, yaml.MappingNode) and isinstance(value, yaml.MappingNode)):
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
            given = {inner.value for inner, _ in value.value if isinstance(inner, yaml.ScalarNode)}
            kept = [pair for pair in earlier.value if pair[0].value not in given]
            earlier.value = kept + value.value
        node.value = [(key, value) for key, value in node.value if any(value is kept for kept in seen.values())]
        return node


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise InputError(f"{source}: not valid YAML: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist, a number that is too long
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error


def _merge(values: Dict[str, Any], tree: Any, source: str, section: Type[Section] = Config) -> None:
    """Write the keys of ``tree`` into ``values``, section by section. Raises InputError for unknown keys."""
    prefix = section.PREFIX
    if not isinstance(tree, Mapping):
        raise InputError(f"{source}: {prefix.rstrip('.') or 'the configuration'} should be a mapping of keys to values")
    types = _field_types(section)
    for name, value in tree.items():
        if name not in types:
            raise InputError(f"{source}: unknown key {prefix}{name}{_suggestion(str(name), prefix)}")
        if dataclasses.is_dataclass(types[name]):
            _merge(values.setdefault(name, {}), value, source, types[name])
        else:
            values[name] = value


def _make_config(values: Mapping[str, Any]) -> Config:
    """Return the configuration with ``values``, as :func:`_merge` arranges them, and defaults for the rest."""
    types = _field_types(Config)
    return Config(
        **{
            name: types[name](**value) if dataclasses.is_dataclass(types[name]) else value
            for name, value in values.items()
        }
    )


def _suggestion(name: str, prefix: str) -> str:
    keys = config_keys()
    by_leaf = difflib.get_close_matches(name, [key.rsplit(".", 1)[-1] for key in keys], n=1)
    full = difflib.get_close_matches(prefix + name, keys, n=1)
    if by_leaf:
        full = [key for key in keys if key.rsplit(".", 1)[-1] == by_leaf[0]]
    if full:
        return f"; did you mean {full[0]}?"
    return f"; valid sections: {', '.join(each.name for each in dataclasses.fields(Config))}"


def _convert(value: Any, kind: Any, key: str) -> Any:
    """Return ``value`` as ``kind``, the type of a field. Raise InputError if it does not fit.

    Kinds are int, float, Literal strings, numbers annotated with a :class:`Range`, Optional ones and tuples of them.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return None if value is None else _convert(value, arguments[0], key)
    if origin is tuple:
        return tuple(_convert(item, item_kind, key) for item, item_kind in _items(value, arguments, key))
    if origin is Literal:
        word = str(value).lower()
        # YAML 1.1 reads on and off as booleans.
        choice = word if word in arguments else {"true": "on", "yes": "on", "false": "off", "no": "off"}.get(word)
        _require(choice in arguments, f"{key} is {value!r}; it should be one of {', '.join(arguments)}")
        return choice
    if origin is Annotated:
        number = _convert(value, arguments[0], key)
        if number not in arguments[1]:
            # A long integer has no float to format.
            shown = f"{number:g}" if isinstance(number, float) or abs(number) < 1e300 else "too large"
            raise InputError(f"{key} is {shown}; it should be {arguments[1]}")
        return number
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-5 as a string
        except (ValueError, OverflowError):
            pass
    _require(
        isinstance(value, kind) and not isinstance(value, bool),
        f"{key} should be of type {kind.__name__}, not {value!r}",
    )
    return value


def _items(value: Any, kinds: Tuple[Any, ...], key: str) -> Sequence[Tuple[Any, Any]]:
    """Return the items of a list, each with its type. ``kinds`` are the arguments of a Tuple type."""
    if kinds[-1] is Ellipsis:
        _require(isinstance(value, (list, tuple)), f"{key} should be a list, such as [0.9, 1.0], not {value!r}")
        return [(item, kinds[0]) for item in value]
    _require(
        isinstance(value, (list, tuple)) and len(value) == len(kinds),
        f"{key} should be {len(kinds)} values, such as [0, 1], not {value!r}",
    )
    return list(zip(value, kinds))
