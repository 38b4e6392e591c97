"""Raw nnet3 networks: nodes, components, and the files that hold them.

A raw model is ``<Nnet3>``, a line for each node, an empty line, and the components. The lines are those of Kaldi's
configuration files: ``component-node name=tdnn1 component=tdnn1.affine input=Append(Offset(input, -1), input)``.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats import matrix
from sdpn_k2.kaldi.formats.io import InputStream, open_input, open_output
from sdpn_k2.kaldi.formats.words import split
from sdpn_k2.kaldi.nnet3 import components, descriptors
from sdpn_k2.kaldi.nnet3.components import Component
from sdpn_k2.kaldi.nnet3.descriptors import Source

# The keys that each kind of line must have, and those that it may have.
_KEYS = {
    "input-node": (("name", "dim"), ()),
    "component-node": (("name", "component", "input"), ()),
    "output-node": (("name", "input"), ("objective",)),
    "dim-range-node": (("name", "input-node", "dim-offset", "dim"), ()),
}
# The edits that set a field of components, and the name of their value.
_SETTERS = {
    "set-learning-rate": ("LearningRate", "learning-rate"),
    "set-learning-rate-factor": ("LearningRateFactor", "learning-rate-factor"),
    "set-dropout-proportion": ("DropoutProportion", "proportion"),
}
_VALUE = re.compile(r"([\w-]+)=(.*?)\s*(?=\s[\w-]+=|$)")


class NetworkNode(NamedTuple):
    """A node of a network, as its configuration line gives it.

    Attributes:
        kind: input-node, component-node, output-node or dim-range-node.
        name: its name.
        input: where its input comes from; None for input nodes.
        component: name of the component of a component node.
        dim: dimension of an input node or dim-range node.
        dim_offset: first column of a dim-range node in its input.
        objective: objective of an output node.
    """

    kind: str
    name: str
    input: Optional[Source] = None
    component: str = ""
    dim: int = 0
    dim_offset: int = 0
    objective: str = ""

    @property
    def source(self) -> Source:
        """Where the input comes from (not for input nodes)."""
        assert self.input is not None
        return self.input

    def line(self) -> str:
        """Return the configuration line of the node, without dimensions."""
        if self.kind == "input-node":
            return f"input-node name={self.name} dim={self.dim}"
        text = descriptors.text_of(self.source)
        if self.kind == "component-node":
            return f"component-node name={self.name} component={self.component} input={text}"
        if self.kind == "output-node":
            return f"output-node name={self.name} input={text} objective={self.objective}"
        return f"dim-range-node name={self.name} input-node={text} dim-offset={self.dim_offset} dim={self.dim}"


class Network:
    """A network: its nodes and its components, each in order and by name.

    Attributes:
        nodes: the nodes.
        components: the components.
    """

    def __init__(self, nodes: Dict[str, NetworkNode], components_: Dict[str, Component]):
        self.nodes = nodes
        self.components = components_

    def component_of(self, node: NetworkNode) -> Component:
        """Return the component of a component node."""
        return self.components[node.component]

    def order(self, output: str) -> List[str]:
        """Return the nodes that an output needs, each after its sources.

        Raises:
            InputError: a node depends on itself: the network is recurrent.
        """
        done: Dict[str, bool] = {}  # whether a node is finished; the others wait for their sources
        stack = [output]
        result = []
        while stack:
            name = stack[-1]
            if done.get(name):
                stack.pop()
                continue
            node = self.nodes[name]
            waiting = [source for source in _sources(node) if not done.get(source)]
            if not waiting:
                done[name] = True
                result.append(name)
                stack.pop()
            elif any(source in done for source in waiting):
                raise InputError(f"node {name} depends on itself: recurrent networks are not supported")
            else:
                done[name] = False
                stack += waiting[:1]
        return result

    def dims(self) -> Dict[str, int]:
        """Return the dimension of each node; raise InputError if the dimensions of the network do not match."""
        result: Dict[str, int] = {}
        for output in self.nodes:
            for name in self.order(output):
                if name not in result:
                    result[name] = self._dim(self.nodes[name], result)
        return result

    def _dim(self, node: NetworkNode, dims: Dict[str, int]) -> int:
        if node.kind == "input-node":
            return node.dim
        given = descriptors.dim_of(node.source, dims)
        if node.kind == "output-node":
            return given
        if node.kind == "dim-range-node":
            if not 0 <= node.dim_offset <= node.dim_offset + node.dim <= given:
                raise InputError(f"node {node.name}: its columns are not within the {given} of its input")
            return node.dim
        component = self.component_of(node)
        input_dim, output_dim = component_dims(component)
        if input_dim != given:
            raise InputError(f"node {node.name}: its input has {given} dimensions, {component.type} needs {input_dim}")
        return output_dim

    def modulus(self) -> int:
        """Return the number of frames by which the input may be shifted without changing what is computed."""
        result = 1
        for node in self.nodes.values():
            if node.input is not None:
                result = int(np.lcm(result, descriptors.modulus_of(node.input)))
        for component in self.components.values():
            if component.type == "StatisticsExtractionComponent":
                result = int(np.lcm(result, component.get("OutputPeriod")))
        return result

    # Editing

    def add_config(self, lines: Iterator[str]) -> None:
        """Add nodes from a configuration file, or replace those of the same name, as ``nnet3-copy --nnet-config``.

        Raises:
            InputError: a line is malformed or defines a component, or the new network does not fit together.
        """
        for node in _parse_lines(lines):
            self.nodes.pop(node.name, None)
            self.nodes[node.name] = node
        self.check()

    def check(self) -> None:
        """Check that nodes refer to existing nodes and components."""
        for node in self.nodes.values():
            for source in _sources(node):
                if source not in self.nodes:
                    raise InputError(f"node {node.name}: there is no node '{source}'")
                if self.nodes[source].kind == "output-node":
                    raise InputError(f"node {node.name}: the output node '{source}' cannot be an input")
            if node.kind == "component-node" and node.component not in self.components:
                raise InputError(f"node {node.name}: there is no component '{node.component}'")

    def edit(self, command: str) -> None:
        """Apply a command of ``nnet3-copy --edits``, such as "remove-orphans" or "rename-node old-name=a new-name=b".

        Raises:
            InputError: the command is unknown or malformed.
        """
        word, _, rest = command.partition(" ")
        values = dict(_VALUE.findall(rest))
        if word in ("remove-orphans", "remove-orphan-nodes") and set(values) <= {"remove-orphan-inputs"}:
            self._remove_orphan_nodes(inputs=values.get("remove-orphan-inputs", "false")[:1] in ("t", "T"))
            if word == "remove-orphans":
                self._remove_orphan_components()
        elif word == "remove-orphan-components" and not values:
            self._remove_orphan_components()
        elif word == "remove-output-nodes" and set(values) == {"name"}:
            outputs = [name for name, node in self.nodes.items() if node.kind == "output-node"]
            for name in matching(outputs, values["name"]):
                del self.nodes[name]
        elif word == "rename-node" and set(values) == {"old-name", "new-name"}:
            self._rename(values["old-name"], values["new-name"])
        elif word in _SETTERS and _SETTERS[word][1] in values and set(values) <= {"name", _SETTERS[word][1]}:
            field, key = _SETTERS[word]
            self.set_field(field, _number(values[key], command), values.get("name", "*"))
        else:
            raise InputError(f"'{command}' is not a valid or supported edit")
        self.check()

    def set_field(self, field: str, value: float, pattern: str = "*") -> None:
        """Set a field of all components that have it and whose name matches the pattern (with ``*``)."""
        for name in matching(self.components, pattern):
            fields = self.components[name].fields
            if field == "LearningRateFactor" and "LearningRate" in fields:
                others = {key: each for key, each in fields.items() if key != field}
                self.components[name] = self.components[name]._replace(
                    fields={field: np.float32(value), **others} if value != 1 else others
                )
            elif field in fields:
                fields[field] = np.float32(value)

    def scale(self, factor: float) -> None:
        """Multiply the parameters of all layers that are trained."""
        for component in self.components.values():
            if "LearningRate" in component.fields:
                for field in ("LinearParams", "BiasParams", "Params", "Scales", "Offsets", "Output"):
                    if field in component.fields:
                        component.fields[field] = component.fields[field] * np.float32(factor)

    def _remove_orphan_nodes(self, inputs: bool) -> None:
        kept: Set[str] = set()
        for name, node in self.nodes.items():
            if node.kind == "output-node":
                kept.update(self.order(name))
        self.nodes = {
            name: node
            for name, node in self.nodes.items()
            if name in kept or (node.kind == "input-node" and not inputs)
        }

    def _remove_orphan_components(self) -> None:
        used = {node.component for node in self.nodes.values()}
        self.components = {name: component for name, component in self.components.items() if name in used}

    def _rename(self, old: str, new: str) -> None:
        if old not in self.nodes or new in self.nodes:
            raise InputError(
                f"cannot rename node '{old}' to '{new}': {'it exists' if new in self.nodes else 'no such node'}"
            )
        nodes = {}
        for node in self.nodes.values():
            if node.input is not None:
                node = node._replace(input=descriptors.rename(node.input, old, new))
            if node.name == old:
                node = node._replace(name=new)
            nodes[node.name] = node
        self.nodes = nodes


def matching(names: Any, pattern: str) -> List[str]:
    """Return the names that match a pattern in which ``*`` stands for anything; raise InputError if none does."""
    expression = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    found = [name for name in names if expression.fullmatch(name)]
    if not found:
        raise InputError(f"no name matches '{pattern}'")
    return found


def component_dims(component: Component) -> Tuple[int, int]:
    """Return input and output dimension of a component."""
    if component.type == "TdnnComponent":
        layer = components.tdnn_layer(component)
        return layer.input_dim // len(components.tdnn_offsets(component)), layer.output_dim
    if component.type == "StatisticsExtractionComponent":
        return component.get("InputDim"), components.extraction_dim(component)
    if component.type == "StatisticsPoolingComponent":
        return component.get("InputDim"), components.pooling_dim(component)
    layer = components.layer_of(component)
    return layer.input_dim, layer.output_dim


def _sources(node: NetworkNode) -> List[str]:
    return [] if node.input is None else list(descriptors.nodes_of(node.input))


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"'{where}': expected a number, got '{text}'") from None


# Files


def read_network(rxfilename: str) -> Network:
    """Read a raw model in binary or text form.

    Raises:
        InputError: the file is not a raw model or is damaged, or has a component that is not supported.
    """
    with open_input(rxfilename) as stream:
        binary = matrix.read_binary_mark(stream)
        token = matrix.read_token(stream, binary)
        if token != "<Nnet3>":
            kind = "an acoustic model (.mdl): extract its raw network" if token == "<TransitionModel>" else "damaged"
            raise InputError(
                f"{stream.name}: expected <Nnet3>, got {token}: this file is no raw nnet3 model, or {kind}"
            )
        return _read_body(stream, binary)


def _read_body(stream: InputStream, binary: bool) -> Network:
    lines = []
    stream.read_through(b"\n")  # the end of the line of <Nnet3>
    while True:
        line = stream.read_through(b"\n").decode("utf-8", "surrogateescape")
        if not line.endswith("\n"):
            raise stream.fail("cut short: no empty line after the nodes of the network")
        if line == "\n":
            break
        lines.append(line)
    nodes = {}
    for node in _parse_lines(iter(lines)):
        if node.name in nodes:
            raise InputError(f"{stream.name}: two nodes are named '{node.name}'")
        nodes[node.name] = node
    matrix.expect_token(stream, binary, "<NumComponents>")
    components_: Dict[str, Component] = {}
    for _ in range(matrix.read_int32(stream, binary)):
        if not binary:
            stream.skip_blanks()
        matrix.expect_token(stream, binary, "<ComponentName>")
        name = matrix.read_token(stream, binary)
        components_[name] = components.read_component(stream, binary, name)
    matrix.expect_token(stream, binary, "</Nnet3>")
    network = Network(nodes, components_)
    network.check()
    return network


def write_network(wxfilename: str, network: Network, binary: bool = True) -> None:
    """Write a raw model."""
    end = b"" if binary else b"\n"
    with open_output(wxfilename) as stream:
        stream.write((matrix.BINARY_MARK if binary else b"") + b"<Nnet3> \n")
        for node in network.nodes.values():
            stream.write(node.line().encode("utf-8", "surrogateescape") + b"\n")
        stream.write(b"\n<NumComponents> " + matrix.encode_int32(len(network.components), binary) + end)
        for component in network.components.values():
            name = matrix.encode_token("<ComponentName>") + matrix.encode_token(component.name)
            stream.write(name + components.encode_component(component, binary) + end)
        stream.write(b"</Nnet3> ")


def _parse_lines(lines: Iterator[str]) -> Iterator[NetworkNode]:
    for line in lines:
        text = " ".join(split(line.partition("#")[0]))
        if text:
            yield parse_node(text)


def parse_node(line: str) -> NetworkNode:
    """Parse a configuration line of a node; raise InputError if it is malformed, or is the line of a component."""
    kind, _, rest = line.partition(" ")
    if kind == "component":
        raise InputError(f"'{line}': new components are not supported; only nodes can be added")
    if kind not in _KEYS:
        raise InputError(f"'{line}' is not a valid line of a network (expected {', '.join(_KEYS)})")
    required, allowed = _KEYS[kind]
    values = dict(_VALUE.findall(rest))
    unknown = set(values) - {*required, *allowed}
    missing = [key for key in required if key not in values]
    if unknown or missing:
        what = f"unknown value '{min(unknown)}'" if unknown else f"'{missing[0]}=' is missing"
        raise InputError(f"'{line}' is not a valid line of a network: {what}")
    try:
        dim, offset = int(values.get("dim", 0)), int(values.get("dim-offset", 0))
    except ValueError:
        raise InputError(f"'{line}': a dimension is not a number") from None
    if "dim" in values and dim <= 0:
        raise InputError(f"'{line}': a dimension must be above zero")
    source = values.get("input", values.get("input-node"))
    return NetworkNode(
        kind,
        values["name"],
        None if source is None else descriptors.parse(source),
        values.get("component", ""),
        dim,
        offset,
        values.get("objective", "linear"),
    )
