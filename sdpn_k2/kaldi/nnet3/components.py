"""The components of nnet3 networks: their parameters as Kaldi stores them, and what they compute.

A component is a type and a list of fields, ``<Dim> 40 <ValueAvg> [ ]``. All types share one syntax, so one reader
serves them. The type of a value shows in the file, except that binary integers look like floats: ``_INTEGERS`` lists
the names of the fields that hold integers. Dropout and the masks of SpecAugment do nothing outside of training.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import matrix
from sdpn_k2.kaldi.formats.io import InputStream

# Fields that hold an int32, a list of int32, a double, or two numbers; other numbers are floats.
_INTEGERS = frozenset(
    (
        *("Dim", "InputDim", "OutputDim", "BlockDim", "Rank", "RankIn", "RankOut", "RankInOut", "UpdatePeriod"),
        *("NumBlocks", "NumRepeats", "InputPeriod", "OutputPeriod", "LeftContext", "RightContext", "TimePeriod"),
        *("NumLogCountFeatures", "TimeMaskMaxFrames", "SpecAugmentMaxRegions", "MaxRowsProcess", "NumComponents"),
        *("NumElementsClipped", "NumElementsProcessed"),
    )
)
_INTEGER_LISTS = frozenset(("TimeOffsets", "ColumnMap", "Sizes"))
_DOUBLES = frozenset(("Count", "OderivCount", "NumDimsSelfRepaired", "NumDimsProcessed"))
_PAIRS = frozenset(("AlphaInOut", "RankInOut"))
_NORM_FLOOR = np.float32(2.0**-66)
_LOG_FLOOR = np.float32(1e-20)

Apply = Callable[[np.ndarray, bool], np.ndarray]


class Component(NamedTuple):
    """A component of a network.

    Attributes:
        name: its name in the network.
        type: Kaldi's name for its class, such as AffineComponent.
        fields: names and values in the order of the file. Values are bool, int, np.float32, np.float64, arrays, tuples
            of two numbers, or None for a name that stands alone.
        parts: the components inside a CompositeComponent.
    """

    name: str
    type: str
    fields: Dict[str, Any]
    parts: List[Component]

    def get(self, field: str) -> Any:
        """Return the value of a field that must be there."""
        if field not in self.fields:
            raise InputError(f"component {self.name}: {self.type} without <{field}>")
        return self.fields[field]


class Layer(NamedTuple):
    """What a component computes from each row.

    ``apply(rows, owned)`` maps ``(n, input_dim)`` to ``(n, output_dim)``; if ``owned``, it may overwrite its input.
    """

    input_dim: int
    output_dim: int
    apply: Apply


# Reading and writing


def read_component(stream: InputStream, binary: bool, name: str) -> Component:
    """Read a component, from its ``<Type>`` to its ``</Type>``.

    Raises:
        InputError: the type is unknown or is not a layer of a feed-forward network, or the file is damaged.
    """
    opening = matrix.read_token(stream, binary)
    type_ = opening[1:-1]
    if not (opening.startswith("<") and opening.endswith(">")):
        raise stream.fail(f"component {name}: expected a type such as <AffineComponent>, got {opening!r}")
    if type_ not in LAYERS and type_ not in TIMED and type_ != "CompositeComponent":
        raise stream.fail(f"component {name} has the type {type_}, which is not supported (feed-forward networks only)")
    fields: Dict[str, Any] = {}
    parts: List[Component] = []
    while True:
        token = matrix.read_token(stream, binary)
        if token == f"</{type_}>":
            return Component(name, type_, fields, parts)
        if not (token.startswith("<") and token.endswith(">")) or len(token) < 3 or token[1:-1] in fields:
            raise stream.fail(f"component {name}: expected a field of {type_} or its end, got {token!r}")
        field = token[1:-1]
        fields[field] = _read_value(stream, binary, field)
        if type_ == "CompositeComponent" and field == "NumComponents":
            parts += [read_component(stream, binary, f"{name} {number}") for number in range(fields[field])]


def _read_value(stream: InputStream, binary: bool, field: str) -> Any:
    if not binary:
        stream.skip_blanks()
    following = stream.peek(3)
    if following.startswith(b"<"):
        return None
    if field in _INTEGER_LISTS:
        return matrix.read_integers(stream, binary)
    if binary and following in (b"FV ", b"DV "):
        return matrix.read_vector(stream, binary)
    if binary and (following in (b"FM ", b"DM ") or following[:2] == b"CM"):
        return matrix.read_matrix(stream, binary)
    if following.startswith(b"["):
        rows = stream.peek(2)[1:] == b"\n"
        if rows:
            return matrix.read_matrix(stream, binary)
        # Kaldi keeps these in double precision.
        return matrix.read_vector(stream, binary, np.float64 if field in ("StatsMean", "StatsVar") else np.float32)
    if following[:1] in (b"T", b"F"):
        stream.read(1 if binary else 2)
        return following[:1] == b"T"
    if field in _INTEGERS:
        numbers: List[Any] = [matrix.read_int32(stream, binary) for _ in range(1 + (field in _PAIRS))]
    else:
        kind = np.float64 if field in _DOUBLES or (binary and following[:1] == b"\x08") else np.float32
        numbers = [kind(matrix.read_float(stream, binary)) for _ in range(1 + (field in _PAIRS))]
    return tuple(numbers) if field in _PAIRS else numbers[0]


def encode_component(component: Component, binary: bool) -> bytes:
    """Return the bytes that read_component reads."""
    result = [matrix.encode_token(f"<{component.type}>")]
    for field, value in component.fields.items():
        result.append(matrix.encode_token(f"<{field}>"))
        result += [_encode_value(each, binary) for each in (value if isinstance(value, tuple) else (value,))]
        if field == "NumComponents":
            result += [encode_component(part, binary) for part in component.parts]
    result.append(matrix.encode_token(f"</{component.type}>"))
    return b"".join(result)


def _encode_value(value: Any, binary: bool) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bool):
        return (b"T" if value else b"F") + (b"" if binary else b" ")
    if isinstance(value, int):
        return matrix.encode_int32(value, binary)
    if isinstance(value, np.ndarray) and value.dtype.kind == "i":
        return matrix.encode_integers(value, binary)
    if isinstance(value, np.ndarray):
        return matrix.encode_vector(value, binary) if value.ndim == 1 else matrix.encode_matrix(value, binary)
    return matrix.encode_float(float(value), binary, double=isinstance(value, np.float64))


# What the components compute


def layer_of(component: Component) -> Layer:
    """Return what a component computes from each row; raise InputError if its parameters do not fit together."""
    if component.type == "CompositeComponent":
        return _chain([layer_of(part) for part in component.parts], component)
    if component.type not in LAYERS:
        raise InputError(
            f"component {component.name}: {component.type} inside of a CompositeComponent is not supported"
        )
    return LAYERS[component.type](component)


def _chain(layers: List[Layer], component: Component) -> Layer:
    if not layers or any(first.output_dim != second.input_dim for first, second in zip(layers, layers[1:])):
        raise InputError(f"component {component.name}: the dimensions of its parts do not match")

    def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
        for layer in layers:
            rows = layer.apply(rows, owned)
            owned = True
        return rows

    return Layer(layers[0].input_dim, layers[-1].output_dim, apply)


def _check(good: bool, component: Component) -> None:
    if not good:
        raise InputError(f"component {component.name}: the sizes of the parameters of {component.type} do not match")


def affine(weights: np.ndarray, bias: Optional[np.ndarray]) -> Apply:
    """Return the function ``rows @ weights.T + bias``; weights are ``(output_dim, input_dim)``."""
    transposed = weights.T

    def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
        result: np.ndarray = rows @ transposed
        if bias is not None:
            result += bias
        return result

    return apply


def _affine(component: Component) -> Layer:
    weights, bias = component.get("LinearParams"), component.get("BiasParams")
    _check(weights.ndim == 2 and weights.size > 0 and len(weights) == len(bias), component)
    return Layer(weights.shape[1], weights.shape[0], affine(weights, bias))


def _linear(component: Component) -> Layer:
    weights = component.get("Params")
    _check(weights.ndim == 2 and weights.size > 0, component)
    return Layer(weights.shape[1], weights.shape[0], affine(weights, None))


def _block_affine(component: Component) -> Layer:
    """Multiply each block of columns by its own rows of the parameters."""
    blocks, weights, bias = component.get("NumBlocks"), component.get("LinearParams"), component.get("BiasParams")
    _check(weights.ndim == 2 and blocks > 0 and len(bias) == len(weights) and len(bias) % blocks == 0, component)
    return _blocks(weights.reshape(blocks, len(weights) // blocks, weights.shape[1]), bias)


def _repeated_affine(component: Component) -> Layer:
    """Multiply each block of columns by the same parameters."""
    repeats, weights, bias = component.get("NumRepeats"), component.get("LinearParams"), component.get("BiasParams")
    _check(weights.ndim == 2 and repeats > 0 and len(bias) == len(weights), component)
    return _blocks(np.repeat(weights[None], repeats, axis=0), np.tile(bias, repeats))


def _blocks(weights: np.ndarray, bias: np.ndarray) -> Layer:
    blocks, output_size, input_size = weights.shape

    def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
        result = np.empty((len(rows), blocks * output_size), np.float32)
        for block in range(blocks):
            part = rows[:, block * input_size : (block + 1) * input_size]
            result[:, block * output_size : (block + 1) * output_size] = part @ weights[block].T
        result += bias
        return result

    return Layer(blocks * input_size, blocks * output_size, apply)


def _elementwise(function: Callable[[np.ndarray, np.ndarray], object]) -> Callable[[Component], Layer]:
    """Return the builder of a layer that computes ``function(rows, out)``."""

    def build(component: Component) -> Layer:
        def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
            out = rows if owned else np.empty(rows.shape, np.float32)
            function(rows, out)
            return out

        dim = component.get("Dim")
        return Layer(dim, dim, apply)

    return build


def _identity(component: Component) -> Layer:
    dim = component.get("Dim" if "Dim" in component.fields else "InputDim")
    return Layer(dim, dim, lambda rows, owned: rows)


def _sigmoid(rows: np.ndarray, out: np.ndarray) -> None:
    np.multiply(rows, np.float32(0.5), out=out)
    np.tanh(out, out=out)
    out += np.float32(1)
    out *= np.float32(0.5)


def _log_softmax(rows: np.ndarray, out: np.ndarray) -> None:
    np.subtract(rows, rows.max(axis=1, keepdims=True), out=out)
    out -= np.log(np.exp(out).sum(axis=1, keepdims=True))


def _softmax(rows: np.ndarray, out: np.ndarray) -> None:
    _log_softmax(rows, out)
    np.exp(out, out=out)


def _logarithm(rows: np.ndarray, out: np.ndarray) -> None:
    np.maximum(rows, _LOG_FLOOR, out=out)
    np.log(out, out=out)


def _scale_and_offset(
    dim: int, scale: Optional[np.ndarray], offset: Optional[np.ndarray], component: Component
) -> Layer:
    """Return ``rows * scale + offset``; shorter vectors are repeated for each block of columns."""
    for vector in (scale, offset):
        _check(vector is None or (vector.ndim == 1 and len(vector) > 0 and dim % len(vector) == 0), component)
    scales = None if scale is None else np.tile(scale, dim // len(scale))
    offsets = None if offset is None else np.tile(offset, dim // len(offset))

    def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
        out = rows if owned else rows.astype(np.float32)
        if scales is not None:
            out *= scales
        if offsets is not None:
            out += offsets
        return out

    return Layer(dim, dim, apply)


def _batch_norm(component: Component) -> Layer:
    count, mean, variance = (component.get(field) for field in ("Count", "StatsMean", "StatsVar"))
    _check(len(mean) == len(variance) == component.get("BlockDim"), component)
    if not count > 0:
        raise InputError(f"component {component.name}: BatchNormComponent without statistics (its count is 0)")
    # Kaldi's steps: sums in double, all else in single precision. The last bit matters: after pooling, it decides on
    # the standard deviation of a constant unit.
    mean, variance, inverse = mean.astype(np.float64), variance.astype(np.float64), np.float32(1 / count)
    squares = ((variance + np.square(mean)) * count).astype(np.float32) * inverse
    offset = -((mean * count).astype(np.float32) * inverse)
    variance = np.maximum(squares - np.square(offset), 0) + component.get("Epsilon")
    scale = (variance.astype(np.float64) ** -0.5).astype(np.float32) * component.get("TargetRms")
    return _scale_and_offset(component.get("Dim"), scale, offset * scale, component)


def _normalize(component: Component) -> Layer:
    """Scale each block of each row to the root-mean-square ``TargetRms``; the log of the old one may follow."""
    dim = component.get("InputDim" if "InputDim" in component.fields else "Dim")
    size, rms = component.fields.get("BlockDim", dim), component.fields.get("TargetRms", np.float32(1))
    _check(size > 0 and dim % size == 0, component)
    with_log = bool(component.fields.get("AddLogStddev", False))

    def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
        blocks = rows.reshape(len(rows), dim // size, size)
        power = np.einsum("ijk,ijk->ij", blocks, blocks)[:, :, None] / np.float32(size * rms * rms)
        power = np.maximum(power, _NORM_FLOOR)
        out = blocks / np.sqrt(power)
        if with_log:
            out = np.concatenate([out, 0.5 * np.log(power) + np.log(rms)], axis=2)
        return np.asarray(out.reshape(len(rows), -1), np.float32)

    return Layer(dim, dim + (dim // size if with_log else 0), apply)


def _dims(component: Component) -> Any:
    input_dim, output_dim = component.get("InputDim"), component.get("OutputDim")
    _check(0 < output_dim <= input_dim and input_dim % output_dim == 0, component)
    return input_dim, output_dim


def _pnorm(component: Component) -> Layer:
    input_dim, output_dim = _dims(component)

    def apply(rows: np.ndarray, owned: bool) -> np.ndarray:
        groups = rows.reshape(len(rows), output_dim, -1)
        return np.asarray(np.sqrt(np.einsum("ijk,ijk->ij", groups, groups)))

    return Layer(input_dim, output_dim, apply)


def _product(component: Component) -> Layer:
    input_dim, output_dim = _dims(component)
    return Layer(input_dim, output_dim, lambda rows, owned: rows.reshape(len(rows), -1, output_dim).prod(axis=1))


def _sum_blocks(component: Component) -> Layer:
    input_dim, output_dim = _dims(component)
    scale = np.float32(component.fields.get("Scale", 1))
    return Layer(input_dim, output_dim, lambda rows, owned: rows.reshape(len(rows), -1, output_dim).sum(axis=1) * scale)


def _sum_groups(component: Component) -> Layer:
    sizes = component.get("Sizes")
    _check(len(sizes) > 0 and bool((sizes > 0).all()), component)
    starts = np.cumsum(sizes) - sizes
    return Layer(int(sizes.sum()), len(sizes), lambda rows, owned: np.add.reduceat(rows, starts, axis=1))


def _permute(component: Component) -> Layer:
    columns = component.get("ColumnMap")
    _check(np.array_equal(np.sort(columns), np.arange(len(columns))), component)
    return Layer(len(columns), len(columns), lambda rows, owned: rows[:, columns])


def _constant(component: Component) -> Layer:
    output = component.get("Output")
    return Layer(component.get("InputDim"), len(output), lambda rows, owned: np.tile(output, (len(rows), 1)))


def _scale(field: str) -> Callable[[Component], Layer]:
    return lambda component: _scale_and_offset(len(component.get(field)), component.get(field), None, component)


def _offset(field: str) -> Callable[[Component], Layer]:
    return lambda component: _scale_and_offset(
        component.fields.get("Dim", len(component.get(field))), None, component.get(field), component
    )


def _scales_and_offsets(component: Component) -> Layer:
    return _scale_and_offset(component.get("Dim"), component.get("Scales"), component.get("Offsets"), component)


LAYERS: Dict[str, Callable[[Component], Layer]] = {
    "AffineComponent": _affine,
    "NaturalGradientAffineComponent": _affine,
    "FixedAffineComponent": _affine,
    "LinearComponent": _linear,
    "BlockAffineComponent": _block_affine,
    "RepeatedAffineComponent": _repeated_affine,
    "NaturalGradientRepeatedAffineComponent": _repeated_affine,
    "RectifiedLinearComponent": _elementwise(lambda rows, out: np.maximum(rows, 0, out=out)),
    "SigmoidComponent": _elementwise(_sigmoid),
    "TanhComponent": _elementwise(lambda rows, out: np.tanh(rows, out=out)),
    "ExpComponent": _elementwise(lambda rows, out: np.exp(rows, out=out)),
    "LogComponent": _elementwise(_logarithm),
    "LogSoftmaxComponent": _elementwise(_log_softmax),
    "SoftmaxComponent": _elementwise(_softmax),
    "NormalizeComponent": _normalize,
    "BatchNormComponent": _batch_norm,
    "ScaleAndOffsetComponent": _scales_and_offsets,
    "PerElementScaleComponent": _scale("Params"),
    "NaturalGradientPerElementScaleComponent": _scale("Params"),
    "PerElementOffsetComponent": _offset("Offsets"),
    "FixedScaleComponent": _scale("Scales"),
    "FixedBiasComponent": _offset("Bias"),
    "PnormComponent": _pnorm,
    "ElementwiseProductComponent": _product,
    "SumBlockComponent": _sum_blocks,
    "SumGroupComponent": _sum_groups,
    "PermuteComponent": _permute,
    "ConstantFunctionComponent": _constant,
    "NoOpComponent": _identity,
    "ClipGradientComponent": _identity,
    "ScaleGradientComponent": _identity,
    "DropoutComponent": _identity,
    "GeneralDropoutComponent": _identity,
    "SpecAugmentTimeMaskComponent": _identity,
}

# Components that look at several times.
TIMED = ("TdnnComponent", "StatisticsExtractionComponent", "StatisticsPoolingComponent")


def tdnn_offsets(component: Component) -> List[int]:
    """Return the times of the rows that a TdnnComponent appends, relative to the time of its output."""
    return [int(offset) for offset in component.get("TimeOffsets")]


def tdnn_layer(component: Component) -> Layer:
    """Return what a TdnnComponent computes from the rows of all its times side by side."""
    weights, bias = component.get("LinearParams"), component.get("BiasParams")
    _check(weights.ndim == 2 and len(bias) in (0, len(weights)), component)
    _check(len(tdnn_offsets(component)) > 0 and weights.shape[1] % len(tdnn_offsets(component)) == 0, component)
    return Layer(weights.shape[1], weights.shape[0], affine(weights, bias if len(bias) else None))


def statistics_of(component: Component, rows: np.ndarray, counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the statistics of groups of rows: their count, their sum and, if wanted, the sum of their squares.

    Args:
        component: a StatisticsExtractionComponent.
        rows: ``(n, dim)``.
        counts: ``(groups,)``, rows in each group.
        starts: ``(groups,)``, first row of each group.
    """
    dim = component.get("InputDim")
    result = np.empty((len(counts), extraction_dim(component)), np.float32)
    result[:, 0] = counts
    parts = [rows, np.square(rows)] if component.get("IncludeVarinance") else [rows]
    for number, part in enumerate(parts):
        sums = part if len(part) == len(counts) else np.add.reduceat(part, starts, axis=0)
        result[:, 1 + number * dim : 1 + (number + 1) * dim] = sums
    return result


def extraction_dim(component: Component) -> int:
    """Return the dimension of the output of a StatisticsExtractionComponent."""
    _check(
        min(component.get(field) for field in ("InputDim", "InputPeriod", "OutputPeriod")) > 0
        and component.get("OutputPeriod") % component.get("InputPeriod") == 0,
        component,
    )
    return int(1 + component.get("InputDim") * (1 + component.get("IncludeVarinance")))


def pooling_dim(component: Component) -> int:
    """Return the dimension of the output of a StatisticsPoolingComponent."""
    left, right, period = (component.get(field) for field in ("LeftContext", "RightContext", "InputPeriod"))
    _check(period > 0 and min(left, right) >= 0 and left % period == 0 and right % period == 0, component)
    _check(component.get("InputDim") > 1, component)
    _check(not component.get("OutputStddevs") or component.get("InputDim") % 2 == 1, component)
    return int(component.get("NumLogCountFeatures") + component.get("InputDim") - 1)


def pool(component: Component, sums: np.ndarray) -> np.ndarray:
    """Return the output of a StatisticsPoolingComponent, float32 ``(n, dim)``.

    Args:
        component: the component.
        sums: float32 ``(n, input_dim)``, statistics that are summed over the times of each output.
    """
    counts = sums[:, :1]
    means: np.ndarray = sums[:, 1:] * (np.float32(1) / counts)
    if component.get("OutputStddevs"):
        dim = means.shape[1] // 2
        variance = means[:, dim:] - np.square(means[:, :dim])
        means[:, dim:] = np.sqrt(np.maximum(variance, component.get("VarianceFloor")))
    return np.concatenate([np.repeat(np.log(counts), component.get("NumLogCountFeatures"), axis=1), means], axis=1)
