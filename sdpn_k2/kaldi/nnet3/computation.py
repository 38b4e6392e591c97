"""Compute the output of a feed-forward network at some times, in blocks over time.

An output needs some times of some nodes, as far as the input reaches; a node is available at a time if all its sources
are. Statistics pooling sums what is available, so a short input gives an output too, and a long one is computed in
blocks: memory does not grow with the input. What is available depends only on the number of frames, so the plan of one
input serves all inputs of that length.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Dict, List, Optional, Set, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.nnet3 import components, descriptors
from sdpn_k2.kaldi.nnet3.descriptors import Range, Source
from sdpn_k2.kaldi.nnet3.raw_network import Network, NetworkNode

BLOCK_FRAMES = 1024  # frames that are computed at a time


class Computer:
    """Compute an output of a network.

    Args:
        network: the network; it must have one input node, named "input".
        output: name of the output node.
        capacity: number of input lengths whose plans are kept.
        first_frame: the time of the first frame of the input.

    Raises:
        InputError: there is no such node, the network is recurrent, or its dimensions do not match.
    """

    def __init__(self, network: Network, output: str = "output", capacity: int = 64, first_frame: int = 0):
        if output not in network.nodes or network.nodes[output].kind != "output-node":
            raise InputError(f"the network has no output node '{output}'")
        self._nodes = network.nodes
        self.order = network.order(output)
        inputs = [name for name in self.order if network.nodes[name].kind == "input-node"]
        if inputs not in ([], ["input"]):
            raise InputError(f"the network needs the input '{max(inputs)}'; only 'input' is supported")
        self.dims = network.dims()
        self.input_dim = self.dims["input"] if inputs else 0
        self.output_dim = self.dims[output]
        self._output = output
        self._steps = {
            name: _Step(network, network.nodes[name]) for name in self.order if network.nodes[name].kind != "input-node"
        }
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._capacity = capacity
        self._first_frame = first_frame

    def compute(self, features: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return the output at ``times``, sorted integers, float32 ``(times, output_dim)``.

        Args:
            features: ``(frames, input_dim)``.
            times: the times of the output.

        Raises:
            InputError: the features have another dimension, or are too short for the context of the network.
        """
        if features.shape[1] != self.input_dim:
            raise InputError(f"features of {features.shape[1]} dimensions, but the network needs {self.input_dim}")
        plan = self._plan(len(features), (int(times[0]), int(times[-1])))
        if not plan.available(self._output, times).all():
            raise InputError(f"{len(features)} frames are too few for the context of the network")
        return self._rows(descriptors.Node(self._output), times, plan, np.asarray(features, np.float32))

    def available(self, frames: int, times: np.ndarray) -> np.ndarray:
        """Return for each time whether ``frames`` frames suffice to compute the output there, as bool."""
        return self._plan(frames, (int(times[0]), int(times[-1]))).available(self._output, times)

    def _plan(self, frames: int, wanted: Range) -> _Plan:
        plan = self._plans.pop(frames, None)
        if plan is None or plan.wanted != wanted:
            given = (self._first_frame, self._first_frame + frames - 1)
            plan = _Plan(self._steps, self.order, given, wanted)
        self._plans[frames] = plan
        if len(self._plans) > self._capacity:
            self._plans.popitem(last=False)
        return plan

    def _rows(self, source: Source, times: np.ndarray, plan: _Plan, features: np.ndarray) -> np.ndarray:
        """Return the rows of a descriptor at available times."""
        needed: Dict[str, List[np.ndarray]] = {}
        users: Dict[str, int] = {}

        def need(source: Source, times: np.ndarray) -> None:
            for name, each in descriptors.requirements(source, times, plan.available):
                if len(each):
                    needed.setdefault(name, []).append(each)
                    users[name] = users.get(name, 0) + 1

        need(source, times)
        at: Dict[str, np.ndarray] = {}
        for name in reversed(self.order):
            if name in needed:
                at[name] = _union(needed[name])
                step = self._steps.get(name)
                if step is not None and not step.pools:
                    for each in step.input_times(at[name], plan.available):
                        need(step.source, each)

        values: Dict[str, np.ndarray] = {}
        own: Set[str] = set()  # the nodes whose values are not those of another node, too

        def fetch(name: str, times: np.ndarray) -> np.ndarray:
            return _at(values[name], at[name], times)

        for name in self.order:
            if name not in at:
                continue
            step = self._steps.get(name)
            if step is None:
                frames = np.arange(self._first_frame, self._first_frame + len(features))
                values[name] = _at(features, frames, at[name])
            elif step.pools:
                values[name] = self._pool(step, at[name], plan, features)
                own.add(name)
            else:
                parts = [
                    descriptors.compute(step.source, each, self.dims, fetch, plan.available)
                    for each in step.input_times(at[name], plan.available)
                ]
                rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
                owned = len(parts) > 1 or descriptors.is_new(step.source)
                if isinstance(step.source, descriptors.Node):
                    owned = owned or (step.source.name in own and users[step.source.name] == 1)
                values[name] = step.compute(rows, at[name], owned, plan.available)
                if owned or not np.may_share_memory(values[name], rows):
                    own.add(name)
        return descriptors.compute(source, times, self.dims, fetch, plan.available)

    def _pool(self, step: _Step, times: np.ndarray, plan: _Plan, features: np.ndarray) -> np.ndarray:
        """Return the output of a StatisticsPoolingComponent: sums over windows of its input, block by block.

        As in Kaldi, rows are added one by one in single precision. Where a unit is constant, its standard deviation is
        the rounding error of these sums, which is part of the result.
        """
        component = step.component
        assert component is not None
        left, right, period = (component.get(name) for name in ("LeftContext", "RightContext", "InputPeriod"))
        low, high = plan.span(step.source, (int(times[0]) - left, int(times[-1]) + right))
        inputs = np.arange(-(-low // period) * period, high + 1, period)
        inputs = inputs[descriptors.is_available(step.source, inputs, plan.available)]
        first = np.searchsorted(inputs, times - left)
        last = np.searchsorted(inputs, times + right, side="right")
        sums = np.zeros((len(times), component.get("InputDim")), np.float32)
        for start in range(int(first.min()), int(last.max()), BLOCK_FRAMES):
            rows = self._rows(step.source, inputs[start : start + BLOCK_FRAMES], plan, features)
            begin, end = np.clip(first - start, 0, len(rows)), np.clip(last - start, 0, len(rows))
            for number in np.flatnonzero(begin < end):
                window = rows[begin[number] : end[number]]
                sums[number] = np.add.reduce(np.concatenate([sums[number : number + 1], window]), axis=0)
        return components.pool(component, sums)


class _Step:
    """What one node does: which times it needs, and what it computes from them."""

    def __init__(self, network: Network, node: NetworkNode):
        self.node = node
        self.source = node.source
        self.component = network.component_of(node) if node.kind == "component-node" else None
        type_ = self.component.type if self.component else ""
        self.pools = type_ == "StatisticsPoolingComponent"
        self.extracts = type_ == "StatisticsExtractionComponent"
        self.offsets: Optional[List[int]] = None
        self._layer: Optional[components.Layer] = None
        if self.component is not None and type_ == "TdnnComponent":
            self.offsets = components.tdnn_offsets(self.component)
            self._layer = components.tdnn_layer(self.component)
        elif self.component is not None and not (self.pools or self.extracts):
            self._layer = components.layer_of(self.component)
        self.context = self._context()

    def _context(self) -> Tuple[int, int]:
        """Return how far before and after the time of an output the node looks."""
        if self.offsets is not None:
            return min(self.offsets), max(self.offsets)
        if self.component is not None and self.pools:
            return -self.component.get("LeftContext"), self.component.get("RightContext")
        if self.component is not None and self.extracts:
            return -self.component.get("OutputPeriod") + 1, self.component.get("OutputPeriod") - 1
        return 0, 0

    def reach(self, given: Range) -> Range:
        """Return a range of times outside of which the node is not available, given that of its input."""
        low, high = given
        before, after = self.context
        if self.pools or self.extracts:  # any of the times is enough
            return low - after, high - before
        return low - before, high - after

    def input_times(self, times: np.ndarray, available: descriptors.Available) -> List[np.ndarray]:
        """Return the times of the input that the node needs."""
        if self.offsets is not None:
            return [times + offset for offset in self.offsets]
        if self.extracts:
            return [self._groups(times, available)[0]]
        return [times]

    def is_available(self, times: np.ndarray, available: descriptors.Available) -> np.ndarray:
        """Return whether the node is available at each time, given which nodes before it are."""
        if self.component is None or self._layer is not None:
            parts = [descriptors.is_available(self.source, times + offset, available) for offset in self.offsets or [0]]
            return np.asarray(np.logical_and.reduce(parts))
        period = self.component.get("InputPeriod")
        if self.extracts:
            starts = times - times % self.component.get("OutputPeriod")
            inputs = range(0, self.component.get("OutputPeriod"), period)
            parts = [descriptors.is_available(self.source, starts + each, available) for each in inputs]
            return np.asarray(np.logical_or.reduce(parts))
        before, after = self.context
        inputs_ = np.arange(int(times[0]) + before, int(times[-1]) + after + 1)
        there = descriptors.is_available(self.source, inputs_, available) & (inputs_ % period == 0)
        running = np.concatenate([[0], np.cumsum(there)])
        first = times + before - inputs_[0]
        counts = running[first + after - before + 1] - running[first]
        return np.asarray((counts > 0) & (times % period == 0))

    def compute(self, rows: np.ndarray, times: np.ndarray, owned: bool, available: descriptors.Available) -> np.ndarray:
        """Return the rows of the node at ``times``, given those of its input; if ``owned``, they may be overwritten."""
        if self.component is not None and self.extracts:
            _, starts, counts = self._groups(times, available)
            return components.statistics_of(self.component, rows, counts, starts)
        if self.node.kind == "dim-range-node":
            return rows[:, self.node.dim_offset : self.node.dim_offset + self.node.dim]
        return rows if self._layer is None else self._layer.apply(rows, owned)

    def _groups(self, times: np.ndarray, available: descriptors.Available) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the inputs of an extraction, and the first of each output's and their number."""
        assert self.component is not None
        length, period = self.component.get("OutputPeriod"), self.component.get("InputPeriod")
        inputs = (times - times % length)[:, None] + np.arange(0, length, period)
        there = descriptors.is_available(self.source, inputs.ravel(), available).reshape(inputs.shape)
        counts = there.sum(axis=1)
        return inputs[there], np.cumsum(counts) - counts, counts


class _Plan:
    """Which nodes are available at which times, for some times of the input and of the output."""

    def __init__(self, steps: Dict[str, _Step], order: List[str], frames: Range, wanted: Range):
        self.wanted = wanted
        self._ranges: Dict[str, Range] = {}
        for name in order:
            step = steps.get(name)
            given = descriptors.reach(step.source, self._ranges) if step else frames
            self._ranges[name] = step.reach(given) if step else given
        spans: Dict[str, List[Range]] = {order[-1]: [wanted]}
        self._spans: Dict[str, Tuple[int, int]] = {}
        for name in reversed(order):
            low = max(self._ranges[name][0], min((each[0] for each in spans.get(name, [])), default=0))
            high = min(self._ranges[name][1], max((each[1] for each in spans.get(name, [])), default=-1))
            self._spans[name] = (int(low), int(high))
            step = steps.get(name)
            if step is not None and low <= high:
                before, after = step.context
                for source, span in descriptors.spans(step.source, (low + before, high + after)):
                    spans.setdefault(source, []).append(span)
        self._there: Dict[str, np.ndarray] = {}
        for name in order:
            low, high = self._spans[name]
            step = steps.get(name)
            times = np.arange(low, high + 1)
            if not len(times):
                self._there[name] = np.zeros(0, bool)
            elif step is None:
                self._there[name] = np.ones(len(times), bool)
            else:
                self._there[name] = step.is_available(times, self.available)

    def available(self, name: str, times: np.ndarray) -> np.ndarray:
        """Return whether a node is available at each time."""
        low, high = self._spans[name]
        there = self._there[name]
        if not len(there):
            return np.zeros(len(times), bool)
        inside = (times >= low) & (times <= high)
        result: np.ndarray = there[np.clip(times - low, 0, len(there) - 1)] & inside
        return result

    def span(self, source: Source, wanted: Range) -> Tuple[int, int]:
        """Return the part of a range of times in which the descriptor may be available."""
        low, high = descriptors.reach(source, self._ranges)
        return int(max(low, wanted[0])), int(min(high, wanted[1]))


def _union(arrays: List[np.ndarray]) -> np.ndarray:
    """Return the sorted union of sorted arrays of integers."""
    if len(arrays) == 1:
        return arrays[0]
    low, high = min(int(array[0]) for array in arrays), max(int(array[-1]) for array in arrays)
    there = np.zeros(high - low + 1, bool) if high - low < 8 * sum(map(len, arrays)) else None
    if there is None:
        return np.unique(np.concatenate(arrays))
    for array in arrays:
        there[array - low] = True
    return np.flatnonzero(there) + low


def _at(values: np.ndarray, sorted_times: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the rows of ``times`` among those of ``sorted_times``: a view, if they follow one another."""
    first = int(np.searchsorted(sorted_times, times[0]))
    end = first + len(times)
    if end <= len(sorted_times) and np.array_equal(sorted_times[first:end], times):
        return values[first:end]
    rows: np.ndarray = values[np.searchsorted(sorted_times, times)]
    return rows
