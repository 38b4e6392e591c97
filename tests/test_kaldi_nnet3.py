"""nnet3 networks against a second implementation: in float64, one time after another, by Kaldi's definitions."""

import functools
import re
import tracemalloc

import numpy as np
import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.nnet3 import components
from sdpn_k2.kaldi.nnet3.components import Component, encode_component, read_component
from sdpn_k2.kaldi.nnet3.computation import Computer
from sdpn_k2.kaldi.nnet3.raw_network import Network, parse_node, read_network, write_network
from sdpn_k2.kaldi.nnet3.summary import context, describe

F = np.float32
RANDOM = np.random.default_rng(1)


def normal(*shape):
    return RANDOM.normal(size=shape).astype(F)


def affine(name, inputs, outputs):
    fields = {"LearningRate": F(0.1), "LinearParams": normal(outputs, inputs), "BiasParams": normal(outputs)}
    return Component(name, "AffineComponent", fields, [])


def statistics(name, dim, input_period, output_period, variance=True):
    fields = {"InputDim": dim, "InputPeriod": input_period, "OutputPeriod": output_period, "IncludeVarinance": variance}
    return Component(name, "StatisticsExtractionComponent", fields, [])


def pooling(name, dim, period, left, right, logs=0, deviations=True):
    fields = {"InputDim": dim, "InputPeriod": period, "LeftContext": left, "RightContext": right}
    fields.update(NumLogCountFeatures=logs, OutputStddevs=deviations, VarianceFloor=F(1e-10))
    return Component(name, "StatisticsPoolingComponent", fields, [])


def network_of(lines, *parts):
    nodes = [parse_node(line) for line in lines]
    return Network({node.name: node for node in nodes}, {part.name: part for part in parts})


# The second implementation: the value of a node at a time is a vector, or None if it cannot be computed.


def both(function):
    return lambda *values: None if any(value is None for value in values) else function(*values)


DESCRIPTORS = {
    "Append": lambda *a: lambda t: both(lambda *x: np.concatenate(x))(*(f(t) for f in a)),
    "Sum": lambda *a: lambda t: both(lambda *x: sum(x))(*(f(t) for f in a)),
    "Scale": lambda c, a: lambda t: both(lambda x: c * x)(a(t)),
    "Const": lambda c, dim: lambda t: np.full(dim, float(c)),
    "Offset": lambda a, o: lambda t: a(t + o),
    "Round": lambda a, m: lambda t: a(t // m * m),
    "Switch": lambda *a: lambda t: a[t % len(a)](t),
    "ReplaceIndex": lambda a, _, value: lambda t: a(value),
    "Failover": lambda a, b: lambda t: b(t) if a(t) is None else a(t),
    "IfDefined": lambda a: lambda t: np.zeros(4) if a(t) is None else a(t),
    "t": "t",
}


def reference(network, features):
    """Return the functions of time of all nodes."""
    values = dict(DESCRIPTORS)
    for node in network.nodes.values():
        if node.kind == "input-node":
            function = lambda t: features[t].astype(np.float64) if 0 <= t < len(features) else None
        else:
            text = re.search(r"(?:input|input-node)=(.*?)(?: objective=| dim-offset=|$)", node.line())[1]
            function = node_function(network, node, eval(text, values))
        values[node.name] = functools.lru_cache(None)(function)
    return values


def node_function(network, node, source):
    if node.kind == "output-node":
        return source
    if node.kind == "dim-range-node":
        return lambda t: both(lambda x: x[node.dim_offset : node.dim_offset + node.dim])(source(t))
    component = network.component_of(node)
    f = component.fields
    if component.type == "AffineComponent":
        return lambda t: both(lambda x: f["LinearParams"].astype(float) @ x + f["BiasParams"])(source(t))
    if component.type == "TdnnComponent":
        parts = lambda t: both(lambda *x: np.concatenate(x))(*(source(t + int(o)) for o in f["TimeOffsets"]))
        return lambda t: both(lambda x: f["LinearParams"].astype(float) @ x + f["BiasParams"])(parts(t))
    if component.type == "RectifiedLinearComponent":
        return lambda t: both(lambda x: np.maximum(x, 0))(source(t))

    if component.type == "NoOpComponent":
        return source

    def extract(t):
        start = t // f["OutputPeriod"] * f["OutputPeriod"]
        rows = [source(u) for u in range(start, start + f["OutputPeriod"], f["InputPeriod"])]
        rows = [row for row in rows if row is not None]
        squares = [sum(row * row for row in rows)] if f["IncludeVarinance"] else []
        return np.concatenate([[len(rows)], sum(rows), *squares]) if rows else None

    def pool(t):
        if t % f["InputPeriod"]:
            return None
        rows = [source(u) for u in range(t - f["LeftContext"], t + f["RightContext"] + 1, f["InputPeriod"])]
        rows = [row for row in rows if row is not None]
        if not rows:
            return None
        total = sum(rows)
        means = total[1:] / total[0]
        if f["OutputStddevs"]:
            half = len(means) // 2
            variance = np.maximum(means[half:] - means[:half] ** 2, f["VarianceFloor"])
            means = np.concatenate([means[:half], np.sqrt(variance)])
        return np.concatenate([np.full(f["NumLogCountFeatures"], np.log(total[0])), means])

    return extract if component.type == "StatisticsExtractionComponent" else pool


RELU = Component("relu", "RectifiedLinearComponent", {"Dim": 4}, [])
NETWORKS = {
    "append": ["component-node name=a component=a12 input=Append(Offset(input, -2), input, Offset(input, 3))"],
    "sum": ["component-node name=a component=a4 input=Sum(Scale(0.5, Offset(input, 1)), Const(2, 4), input)"],
    "if defined": ["component-node name=a component=a8 input=Append(input, IfDefined(Offset(input, 4)))"],
    "failover": ["component-node name=a component=a4 input=Failover(Offset(input, -3), input)"],
    "round": ["component-node name=a component=a8 input=Append(input, Round(input, 3))"],
    "switch": ["component-node name=a component=a4 input=Switch(input, Offset(input, 1), Offset(input, -1))"],
    "first frame": ["component-node name=a component=a8 input=Append(input, ReplaceIndex(input, t, 0))"],
    "columns": [
        "dim-range-node name=part input-node=input dim-offset=1 dim=2",
        "component-node name=a component=a4 input=Append(part, Offset(part, 1))",
    ],
    "tdnn": ["component-node name=a component=tdnn input=input"],
    "shared": [
        "component-node name=b component=a4 input=input",
        "component-node name=r component=relu input=b",
        "component-node name=a component=a12 input=Append(b, r, Sum(b, Offset(r, 2)))",
    ],
    "aliases": [
        "component-node name=b component=a4 input=input",
        "component-node name=same component=noop input=b",
        "component-node name=r component=relu input=same",
        "component-node name=r2 component=relu input=input",
        "component-node name=a component=a12 input=Append(b, r, r2)",
    ],
    "statistics over all": [
        "component-node name=s component=s11 input=Sum(input, Offset(input, 1))",
        "component-node name=a component=all input=s",
    ],
    "statistics of windows": [
        "component-node name=s component=s26 input=Offset(input, -1)",
        "component-node name=p component=window input=s",
        "component-node name=a component=a13 input=Append(input, Round(p, 6))",
    ],
    "statistics of statistics": [
        "component-node name=s component=s11 input=input",
        "component-node name=p component=near input=s",
        "component-node name=b component=a8 input=Sum(p, Scale(2, Offset(p, 1)))",
        "component-node name=s2 component=s13 input=b",
        "component-node name=a component=means input=s2",
    ],
    "no variance": [
        "component-node name=s component=plain input=input",
        "component-node name=a component=plainly input=s",
    ],
}
PARTS = [
    *(affine(f"a{dim}", dim, 4) for dim in (4, 8, 12, 13)),
    RELU,
    Component("noop", "NoOpComponent", {"Dim": 4}, []),
    Component(
        "tdnn",
        "TdnnComponent",
        {"TimeOffsets": np.array([-3, 0, 1], np.int32), "LinearParams": normal(5, 12), "BiasParams": normal(5)},
        [],
    ),
    statistics("s11", 4, 1, 1),
    statistics("s13", 4, 1, 3),
    statistics("s26", 4, 2, 6),
    statistics("plain", 4, 1, 2, variance=False),
    pooling("all", 9, 1, 0, 10000, logs=1),
    pooling("window", 9, 6, 12, 6, logs=1),
    pooling("near", 9, 1, 2, 2),
    pooling("means", 9, 3, 9, 30, deviations=True),
    pooling("plainly", 5, 2, 4, 8, logs=2, deviations=False),
]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("frames", [1, 6, 40])
def test_networks_follow_their_definition(name, frames, monkeypatch):
    monkeypatch.setattr("sdpn_k2.kaldi.nnet3.computation.BLOCK_FRAMES", 7)
    network = network_of(["input-node name=input dim=4", *NETWORKS[name], "output-node name=output input=a"], *PARTS)
    features = normal(frames, 4)
    expected = reference(network, features)["output"]
    computer = Computer(network)
    times = np.arange(-20, frames + 20)
    there = computer.available(frames, times)
    assert [expected(int(t)) is not None for t in times] == there.tolist()
    for chosen in (times[there], times[there][:1], times[there][::5]):
        if len(chosen):
            ours = computer.compute(features, chosen)
            theirs = np.array([expected(int(t)) for t in chosen])
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3 if "stat" in name else 1e-4)
    if not there.all():
        with pytest.raises(InputError, match="too few"):
            computer.compute(features, times)


def test_memory_does_not_grow_with_the_input():
    lines = [
        "input-node name=input dim=4",
        "component-node name=b component=wide input=Append(Offset(input, -1), input, Offset(input, 1))",
        "component-node name=s component=s129 input=b",
        "component-node name=a component=long input=s",
        "output-node name=output input=a",
    ]
    parts = [affine("wide", 12, 64), statistics("s129", 64, 1, 1), pooling("long", 129, 1, 0, 1000000)]
    computer = Computer(network_of(lines, *parts))
    features = normal(300000, 4)
    computer.compute(features[:2000], np.zeros(1, int))
    tracemalloc.start()
    computer.compute(features, np.zeros(1, int))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(features)  # bytes; the activations alone would take 820 per frame


# Components


def component(type_, dim=6, **fields):
    return Component("c", type_, {**({"Dim": dim} if dim else {}), **fields}, [])


WEIGHTS, BIAS = normal(4, 6), normal(4)
SIMPLE = {
    "affine": (
        component("NaturalGradientAffineComponent", 0, LinearParams=WEIGHTS, BiasParams=BIAS),
        lambda x: WEIGHTS @ x + BIAS,
    ),
    "linear": (component("LinearComponent", 0, Params=WEIGHTS), lambda x: WEIGHTS @ x),
    "block affine": (
        component("BlockAffineComponent", 0, NumBlocks=2, LinearParams=WEIGHTS[:, :3], BiasParams=BIAS),
        lambda x: np.concatenate([WEIGHTS[:2, :3] @ x[:3], WEIGHTS[2:, :3] @ x[3:]]) + BIAS,
    ),
    "repeated affine": (
        component("RepeatedAffineComponent", 0, NumRepeats=2, LinearParams=WEIGHTS[:2, :3], BiasParams=BIAS[:2]),
        lambda x: np.concatenate([WEIGHTS[:2, :3] @ x[:3] + BIAS[:2], WEIGHTS[:2, :3] @ x[3:] + BIAS[:2]]),
    ),
    "sigmoid": (component("SigmoidComponent"), lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (component("TanhComponent"), np.tanh),
    "exp": (component("ExpComponent"), np.exp),
    "log": (component("LogComponent"), lambda x: np.log(np.maximum(x, 1e-20))),
    "log softmax": (component("LogSoftmaxComponent"), lambda x: x - np.log(np.exp(x).sum())),
    "softmax": (component("SoftmaxComponent"), lambda x: np.exp(x) / np.exp(x).sum()),
    "relu": (component("RectifiedLinearComponent"), lambda x: np.maximum(x, 0)),
    "normalize": (
        component("NormalizeComponent", 0, InputDim=6, TargetRms=F(0.5), AddLogStddev=True),
        lambda x: np.append(0.5 * x / np.sqrt((x @ x) / 6), np.log(np.sqrt((x @ x) / 6))),
    ),
    "normalize blocks": (
        component("NormalizeComponent", 0, InputDim=6, BlockDim=3, TargetRms=F(1), AddLogStddev=False),
        lambda x: np.concatenate([part / np.sqrt(part @ part / 3) for part in (x[:3], x[3:])]),
    ),
    "batch norm": (
        component(
            "BatchNormComponent",
            BlockDim=3,
            Epsilon=F(0.01),
            TargetRms=F(2),
            Count=np.float64(7),
            StatsMean=np.array([1, 2, 3], F),
            StatsVar=np.array([1, 4, 0], F),
        ),
        lambda x: np.tile(2 / np.sqrt(np.array([1.01, 4.01, 0.01])), 2) * (x - [1, 2, 3, 1, 2, 3]),
    ),
    "scale and offset": (
        component("ScaleAndOffsetComponent", Scales=WEIGHTS[0, :2], Offsets=WEIGHTS[1, :2]),
        lambda x: x * np.tile(WEIGHTS[0, :2], 3) + np.tile(WEIGHTS[1, :2], 3),
    ),
    "scale": (component("PerElementScaleComponent", 0, Params=WEIGHTS[0]), lambda x: x * WEIGHTS[0]),
    "offset": (component("PerElementOffsetComponent", 0, Offsets=WEIGHTS[0]), lambda x: x + WEIGHTS[0]),
    "fixed scale": (component("FixedScaleComponent", 0, Scales=WEIGHTS[0]), lambda x: x * WEIGHTS[0]),
    "fixed bias": (component("FixedBiasComponent", 0, Bias=WEIGHTS[0]), lambda x: x + WEIGHTS[0]),
    "pnorm": (
        component("PnormComponent", 0, InputDim=6, OutputDim=2),
        lambda x: [np.linalg.norm(x[:3]), np.linalg.norm(x[3:])],
    ),
    "product": (component("ElementwiseProductComponent", 0, InputDim=6, OutputDim=3), lambda x: x[:3] * x[3:]),
    "sum of blocks": (
        component("SumBlockComponent", 0, InputDim=6, OutputDim=2, Scale=F(0.5)),
        lambda x: (x[:2] + x[2:4] + x[4:]) / 2,
    ),
    "sum of groups": (
        component("SumGroupComponent", 0, Sizes=np.array([1, 3, 2], np.int32)),
        lambda x: [x[0], x[1:4].sum(), x[4:].sum()],
    ),
    "permute": (
        component("PermuteComponent", 0, ColumnMap=np.array([5, 0, 1, 4, 2, 3], np.int32)),
        lambda x: x[[5, 0, 1, 4, 2, 3]],
    ),
    "constant": (component("ConstantFunctionComponent", 0, InputDim=6, Output=BIAS), lambda x: BIAS),
    "dropout": (component("DropoutComponent", DropoutProportion=F(0.5), DropoutPerFrame=True), lambda x: x),
    "general dropout": (
        component("GeneralDropoutComponent", BlockDim=3, TimePeriod=0, DropoutProportion=F(0.5), Continuous=None),
        lambda x: x,
    ),
    "mask": (
        component("SpecAugmentTimeMaskComponent", ZeroedProportion=F(0.2), TimeMaskMaxFrames=9, TestMode=None),
        lambda x: x,
    ),
    "no-op": (component("NoOpComponent", BackpropScale=F(1)), lambda x: x),
    "chain": (
        Component(
            "c",
            "CompositeComponent",
            {"MaxRowsProcess": 100, "NumComponents": 2},
            [
                Component("c 0", "LinearComponent", {"Params": WEIGHTS}, []),
                Component("c 1", "RectifiedLinearComponent", {"Dim": 4}, []),
            ],
        ),
        lambda x: np.maximum(WEIGHTS @ x, 0),
    ),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_components_follow_their_definition(name):
    part, function = SIMPLE[name]
    layer = components.layer_of(part)
    rows = normal(5, 6)
    expected = np.array([function(row) for row in rows.astype(np.float64)])
    for owned in (False, True):
        given = rows.copy()
        result = layer.apply(given, owned)
        assert result.dtype == np.float32 and result.shape == (5, layer.output_dim)
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-6)
        if not owned:
            np.testing.assert_array_equal(given, rows)


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.parametrize("binary", [True, False])
def test_components_survive_a_file(name, binary, tmp_path):
    part = SIMPLE[name][0]
    (tmp_path / "x").write_bytes(encode_component(part, binary))
    with open_input(str(tmp_path / "x")) as stream:
        again = read_component(stream, binary, "c")
        assert stream.read() == b""
    assert list(again.fields) == list(part.fields) and len(again.parts) == len(part.parts)
    for field, value in part.fields.items():
        np.testing.assert_allclose(again.fields[field], value, rtol=1e-6) if value is not None else None
    assert encode_component(again, binary) == encode_component(part, binary)


def test_parameters_must_fit():
    for part in (
        component("AffineComponent", 0, LinearParams=WEIGHTS, BiasParams=BIAS[:3]),
        component("BlockAffineComponent", 0, NumBlocks=3, LinearParams=WEIGHTS, BiasParams=BIAS),
        component("PnormComponent", 0, InputDim=6, OutputDim=4),
        component("PermuteComponent", 0, ColumnMap=np.array([1, 1], np.int32)),
        component("ScaleAndOffsetComponent", Scales=WEIGHTS[0, :4], Offsets=WEIGHTS[1, :4]),
        component("AffineComponent", 0, LinearParams=WEIGHTS),
    ):
        with pytest.raises(InputError, match="component c"):
            components.layer_of(part)


def test_context_and_description(tmp_path):
    lines = ["input-node name=input dim=4", *NETWORKS["append"], "output-node name=output input=a"]
    network = network_of(lines, *[part for part in PARTS if part.name == "a12"])
    assert context(network) == (2, 3)
    write_network(str(tmp_path / "x.raw"), network, binary=False)
    text = describe(read_network(str(tmp_path / "x.raw")))
    assert "left-context: 2\nright-context: 3\nnum-parameters: 52\nmodulus: 1\n" in text
    rounded = network_of(
        ["input-node name=input dim=4", "output-node name=output input=Round(Offset(input, 2), 3)"],
    )
    assert rounded.modulus() == 3 and context(rounded) == (0, 2)
