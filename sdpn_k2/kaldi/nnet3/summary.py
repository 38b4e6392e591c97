"""The text of nnet3-info: context, parameters, nodes with their dimensions, and components with their statistics."""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.nnet3.components import Component
from sdpn_k2.kaldi.nnet3.computation import Computer
from sdpn_k2.kaldi.nnet3.raw_network import Network, component_dims

_PERCENTILES = ((0, 1, 2, 5), (10, 20, 50, 80, 90), (95, 98, 99, 100))
_PARAMETERS = ("LinearParams", "BiasParams", "Params", "Scales", "Offsets")


def describe(network: Network) -> str:
    """Return what nnet3-info prints about a network."""
    dims = network.dims()
    lines = []
    inputs = [name for name, node in network.nodes.items() if node.kind == "input-node"]
    if inputs == ["input"] and "output" in network.nodes:
        left, right = context(network)
        lines += [f"left-context: {left}", f"right-context: {right}"]
    lines += [f"num-parameters: {sum(map(num_parameters, network.components.values()))}"]
    lines += [f"modulus: {network.modulus()}"]
    for node in network.nodes.values():
        line = node.line()
        if node.kind == "component-node":
            line += " input-dim={} output-dim={}".format(*component_dims(network.component_of(node)))
        elif node.kind == "output-node":
            line = line.replace(" objective=", f" dim={dims[node.name]} objective=")
        lines.append(line)
    lines += [f"component name={each.name} type={info(each)}" for each in network.components.values()]
    return "\n".join(lines) + "\n"


def context(network: Network) -> Tuple[int, int]:
    """Return how many frames at the start and at the end of an input have no output of their own, as Kaldi counts.

    Raises:
        InputError: no output can be computed from any input of up to 6400 frames.
    """
    modulus = network.modulus()
    window = 100
    while window <= 6400:
        contexts = []
        for start in range(modulus):  # the window begins at this time
            there = _window(network, start, window)
            good = np.flatnonzero(there)
            if len(good):
                stop = good[0] + np.argmin(np.append(there[good[0] :], False))
                contexts.append((int(good[0]), int(window - stop)))
        if len(contexts) == modulus:
            return max(left for left, _ in contexts), max(right for _, right in contexts)
        window *= 2
    raise InputError("no output of the network can be computed, whatever the length of the input")


def _window(network: Network, start: int, window: int) -> np.ndarray:
    times = np.arange(start, start + window)
    return Computer(network, first_frame=start).available(window, times)


def num_parameters(component: Component) -> int:
    """Return the number of parameters that training changes."""
    own = sum(component.fields[name].size for name in _PARAMETERS if name in component.fields)
    trained = "LearningRate" in component.fields
    return (own if trained else 0) + sum(map(num_parameters, component.parts))


def info(component: Component) -> str:
    """Return the type of a component and what Kaldi prints about it."""
    return component.type + "".join(f", {item}" for item in _items(component))


def _items(component: Component) -> Iterator[str]:
    type_, fields = component.type, component.fields
    if "Dim" in fields and type_ in _PLAIN:
        yield f"dim={fields['Dim']}"
    else:
        yield f"input-dim={component_dims(component)[0]}"
        yield f"output-dim={component_dims(component)[1]}"
    if "LearningRate" in fields:
        yield f"learning-rate={fields['LearningRate']:g}"
        if fields.get("IsGradient"):
            yield "is-gradient=true"
        for field, name in (
            ("LearningRateFactor", "learning-rate-factor"),
            ("L2Regularize", "l2-regularize"),
            ("MaxChange", "max-change"),
        ):
            if field in fields:
                yield f"{name}={fields[field]:g}"
    yield from _DETAILS.get(type_, lambda component: iter(()))(component)
    for part in component.parts:
        yield f"sub-component = {{ {info(part)} }}"


def _affine_details(component: Component) -> Iterator[str]:
    fields = component.fields
    if fields.get("OrthonormalConstraint", 0) != 0:
        yield f"orthonormal-constraint={fields['OrthonormalConstraint']:g}"
    if "TimeOffsets" in fields:
        yield "time-offsets=" + ",".join(map(str, fields["TimeOffsets"]))
    if "NumBlocks" in fields:
        yield f"num-blocks={fields['NumBlocks']}"
    if "NumRepeats" in fields:
        yield f"num-repeats={fields['NumRepeats']}"
    norms = component.type in _WITH_NORMS
    yield from _matrix_statistics("linear-params", fields["LinearParams"], norms)
    yield from _bias_statistics(fields["BiasParams"])
    yield from _natural_gradient(component)


def _bias_statistics(bias: np.ndarray) -> Iterator[str]:
    yield f"bias-{_mean_and_stddev(bias)}" if len(bias) else "has-bias=false"


def _linear_details(component: Component) -> Iterator[str]:
    fields = component.fields
    yield from _matrix_statistics("params", fields["Params"], True)
    if fields.get("OrthonormalConstraint", 0) != 0:
        yield f"orthonormal-constraint={fields['OrthonormalConstraint']:g}"
    yield f"use-natural-gradient={_boolean(fields.get('UseNaturalGradient', True))}"
    yield from _natural_gradient(component)


def _natural_gradient(component: Component) -> Iterator[str]:
    fields = component.fields
    if component.type == "TdnnComponent" and not fields.get("UseNaturalGradient", True):
        yield "use-natural-gradient=false"
        return
    if "RankInOut" in fields:
        yield "rank-in={}".format(fields["RankInOut"][0])
        yield "rank-out={}".format(fields["RankInOut"][1])
    elif "RankIn" in fields:
        yield f"rank-in={fields['RankIn']}"
        yield f"rank-out={fields['RankOut']}"
    elif "NumSamplesHistory" in fields and "Rank" in fields:
        yield f"rank={fields['Rank']}"
        yield f"update-period={fields['UpdatePeriod']}"
        yield f"num-samples-history={fields['NumSamplesHistory']:g}"
        yield f"alpha={fields['Alpha']:g}"
        return
    if "NumSamplesHistory" in fields:
        yield f"num-samples-history={fields['NumSamplesHistory']:g}"
        yield f"update-period={fields.get('UpdatePeriod', 4)}"
    if "AlphaInOut" in fields:
        yield "alpha-in={:g}".format(fields["AlphaInOut"][0])
        yield "alpha-out={:g}".format(fields["AlphaInOut"][1])
    elif "Alpha" in fields:
        yield f"alpha={fields['Alpha']:g}"


def _scale_details(component: Component) -> Iterator[str]:
    scales = component.get("Params")
    yield f"scales-min={scales.min():g}"
    yield f"scales-max={scales.max():g}"
    yield f"scales-{_mean_and_stddev(scales)}"
    yield from _natural_gradient(component)


def _scale_and_offset_details(component: Component) -> Iterator[str]:
    if component.fields.get("UseNaturalGradient", True):
        yield f"rank={component.get('Rank')}"
    yield f"scales-{_mean_and_stddev(component.get('Scales'))}"
    yield f"offsets-{_mean_and_stddev(component.get('Offsets'))}"


def _batch_norm_details(component: Component) -> Iterator[str]:
    fields = component.fields
    yield f"block-dim={fields['BlockDim']}"
    yield f"epsilon={fields['Epsilon']:g}"
    yield f"target-rms={fields['TargetRms']:g}"
    yield f"count={fields['Count']:g}"
    yield f"test-mode={_boolean(fields['TestMode'])}"
    if fields["Count"] > 0:
        yield f"data-mean={summarize(fields['StatsMean'])}"
        yield f"data-stddev={summarize(np.sqrt(np.maximum(fields['StatsVar'], 0)))}"


def _nonlinear_details(component: Component) -> Iterator[str]:
    fields = component.fields
    if "BlockDim" in fields:
        yield f"block-dim={fields['BlockDim']}"
    for name, field in (
        ("lower-threshold", "SelfRepairLowerThreshold"),
        ("upper-threshold", "SelfRepairUpperThreshold"),
    ):
        if field in fields:
            yield f"self-repair-{name}={fields[field]:g}"
    if fields.get("SelfRepairScale", 0) != 0:
        yield f"self-repair-scale={fields['SelfRepairScale']:g}"
    values = fields.get("ValueAvg", np.zeros(0))
    if fields.get("Count", 0) > 0 and len(values):
        yield f"count={fields['Count']:.3g}"
        processed = fields.get("NumDimsProcessed", 0)
        yield f"self-repaired-proportion={fields['NumDimsSelfRepaired'] / processed if processed else 0:g}"
        yield f"value-avg={summarize(values)}"
        if len(fields["DerivAvg"]):
            yield f"deriv-avg={summarize(fields['DerivAvg'])}"
    if fields.get("OderivCount", 0) > 0 and len(fields.get("OderivRms", ())):
        yield f"oderiv-rms={summarize(fields['OderivRms'])}"
        yield f"oderiv-count={fields['OderivCount']:g}"


def _normalize_details(component: Component) -> Iterator[str]:
    fields = component.fields
    yield f"target-rms={fields.get('TargetRms', 1):g}"
    yield f"add-log-stddev={_boolean(fields.get('AddLogStddev', False))}"
    if "BlockDim" in fields:
        yield f"block-dim={fields['BlockDim']}"


def _dropout_details(component: Component) -> Iterator[str]:
    fields = component.fields
    if "BlockDim" in fields:
        yield f"block-dim={fields['BlockDim']}"
    yield f"dropout-proportion={fields['DropoutProportion']:g}"
    if fields.get("TimePeriod", 0):
        yield f"time-period={fields['TimePeriod']}"
    if "DropoutPerFrame" in fields:
        yield f"dropout-per-frame={_boolean(fields['DropoutPerFrame'])}"
    if "Continuous" in fields:
        yield "continuous=true"


def _mask_details(component: Component) -> Iterator[str]:
    yield f"zeroed-proportion={component.get('ZeroedProportion'):g}"
    yield f"time-mask-max-frames={component.get('TimeMaskMaxFrames')}"


def _fixed_affine_details(component: Component) -> Iterator[str]:
    yield from _matrix_statistics("linear-params", component.get("LinearParams"), False)
    yield f"bias-{_mean_and_stddev(component.get('BiasParams'))}"


def _fixed_scale_details(component: Component) -> Iterator[str]:
    yield f"scales-{_mean_and_stddev(component.get('Scales'))}"


def _fixed_bias_details(component: Component) -> Iterator[str]:
    yield f"bias-{_mean_and_stddev(component.get('Bias'))}"


_NONLINEAR = (
    *("RectifiedLinearComponent", "SigmoidComponent", "TanhComponent", "LogSoftmaxComponent", "SoftmaxComponent"),
    *("ExpComponent", "LogComponent"),
)
_WITH_NORMS = ("AffineComponent", "NaturalGradientAffineComponent", "TdnnComponent")
_AFFINE = (
    *_WITH_NORMS,
    *("BlockAffineComponent", "RepeatedAffineComponent", "NaturalGradientRepeatedAffineComponent"),
)
_PLAIN = (
    *_NONLINEAR,
    *("BatchNormComponent", "NoOpComponent", "DropoutComponent", "GeneralDropoutComponent"),
    *("SpecAugmentTimeMaskComponent", "ClipGradientComponent"),
)
_DETAILS: Any = {
    **dict.fromkeys(_NONLINEAR, _nonlinear_details),
    **dict.fromkeys(_AFFINE, _affine_details),
    **dict.fromkeys(("PerElementScaleComponent", "NaturalGradientPerElementScaleComponent"), _scale_details),
    **dict.fromkeys(("DropoutComponent", "GeneralDropoutComponent"), _dropout_details),
    "LinearComponent": _linear_details,
    "ScaleAndOffsetComponent": _scale_and_offset_details,
    "BatchNormComponent": _batch_norm_details,
    "NormalizeComponent": _normalize_details,
    "SpecAugmentTimeMaskComponent": _mask_details,
    "FixedAffineComponent": _fixed_affine_details,
    "FixedScaleComponent": _fixed_scale_details,
    "FixedBiasComponent": _fixed_bias_details,
}


def _boolean(value: object) -> str:
    return "true" if value else "false"


def _mean_and_stddev(values: np.ndarray) -> str:
    exact = values.astype(np.float64)
    return f"{{mean,stddev}}={exact.mean():.4g},{exact.std():.4g}"


def _matrix_statistics(name: str, values: np.ndarray, norms: bool) -> Iterator[str]:
    exact = values.astype(np.float64)
    yield f"{name}-rms={np.sqrt(np.square(exact).mean()):.4g}"
    if norms:
        yield f"{name}-row-norms={summarize(np.sqrt(np.square(exact).sum(axis=1)))}"
        yield f"{name}-col-norms={summarize(np.sqrt(np.square(exact).sum(axis=0)))}"


def summarize(vector: np.ndarray) -> str:
    """Return a vector of less than 10 numbers, or the percentiles, mean and standard deviation of a longer one."""
    if len(vector) < 10:
        return "[ " + "".join(f"{_short(float(value))} " for value in vector) + "]"
    ordered = np.sort(vector)
    groups: List[str] = []
    names: List[str] = []
    for group in _PERCENTILES:
        names.append(",".join(map(str, group)))
        groups.append(",".join(_short(float(ordered[(len(vector) - 1) * percentile // 100])) for percentile in group))
    exact = vector.astype(np.float64)
    return f"[percentiles({' '.join(names)})=({' '.join(groups)}), mean={exact.mean():.3g}, stddev={exact.std():.3g}]"


def _short(value: float) -> str:
    size = abs(value)
    if 10.0 <= size < 10000.0:
        return f"{value:.0f}"
    if size >= 1.0:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.01 else f"{value:.1g}"
