"""Descriptors: how the input of a node of a network is put together from other nodes, and at which times.

``Append(Offset(a, -2), a, Offset(a, 2))`` at time t is the row of node ``a`` at t - 2, then at t, then at t + 2. A
descriptor parses its text, names the times that it needs of each node, and computes rows. Times are sorted arrays of
int64 without duplicates; values are float32 of shape ``(times, dim)``.
"""

from __future__ import annotations

import math
import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError

Range = Tuple[float, float]  # first and last time
Fetch = Callable[[str, np.ndarray], np.ndarray]  # rows of a node at some times

_TOKEN = re.compile(r"\s*([(),]|[^\s(),]+)")
_NEW = ("Append", "Const", "Sum", "Scale", "Switch", "IfDefined", "Failover")
EVERYWHERE: Range = (-math.inf, math.inf)


class Node(NamedTuple):
    """The output of another node at the same time."""

    name: str


class Descriptor(NamedTuple):
    """A function of descriptors: ``Offset(source, -2)`` is ("Offset", (source,), (-2,))."""

    kind: str
    sources: Tuple[Any, ...]  # Nodes and Descriptors
    numbers: Tuple[Any, ...] = ()


Source = Union[Node, Descriptor]
# Number of sources (None: any) and types of the numbers. Those of Scale and Const come before the sources.
_FORMS: Dict[str, Tuple[Optional[int], Tuple[type, ...]]] = {
    "Append": (None, ()),
    "Sum": (None, ()),
    "Switch": (None, ()),
    "Failover": (2, ()),
    "IfDefined": (1, ()),
    "Offset": (1, (int, int)),
    "Round": (1, (int,)),
    "ReplaceIndex": (1, (str, int)),
    "Scale": (1, (float,)),
    "Const": (0, (float, int)),
}


def parse(text: str) -> Source:
    """Parse a descriptor; raise InputError if it is malformed, or shifts another index than the time."""
    tokens = _TOKEN.findall(text)
    source, end = _parse(tokens, 0, text)
    if end != len(tokens):
        raise InputError(f"'{text}' is not a valid descriptor: '{tokens[end]}' follows its end")
    return source


def _parse(tokens: Sequence[str], start: int, text: str) -> Tuple[Source, int]:
    word = tokens[start] if start < len(tokens) else ""
    if not word or word in "(),":
        raise InputError(f"'{text}' is not a valid descriptor: expected a name, got '{word or 'its end'}'")
    if word not in _FORMS or tokens[start + 1 : start + 2] != ["("]:
        return Node(word), start + 1
    count, types = _FORMS[word]
    first = word in ("Scale", "Const")
    sources: List[Source] = []
    numbers: List[Any] = []
    position = start + 1
    while tokens[position : position + 1] in (["("], [","]):
        position += 1
        takes_number = len(numbers) < len(types) and (first or len(sources) == count)
        if takes_number:
            try:
                numbers.append(types[len(numbers)](tokens[position]))
            except (ValueError, IndexError):
                raise InputError(f"'{text}' is not a valid descriptor: {word} needs a number") from None
            position += 1
        else:
            source, position = _parse(tokens, position, text)
            sources.append(source)
    fewest = len(types) - (word == "Offset")  # the offset of x may be left out
    if tokens[position : position + 1] != [")"] or len(numbers) < fewest or len(sources) != (count or len(sources)):
        raise InputError(f"'{text}' is not a valid descriptor: wrong arguments of {word}")
    if not sources and word != "Const":
        raise InputError(f"'{text}' is not a valid descriptor: {word} has no arguments")
    descriptor = Descriptor(word, tuple(sources), tuple(numbers))
    is_time = {"Offset": not any(numbers[1:]), "ReplaceIndex": numbers[:1] == ["t"] or numbers == ["x", 0]}
    if not is_time.get(word, True):
        raise InputError(f"'{text}': only the time can be shifted or replaced, not another index")
    if word == "Round" and numbers[0] < 1:
        raise InputError(f"'{text}' is not a valid descriptor: times can be rounded to multiples of 1 or more")
    return descriptor, position + 1


def text_of(source: Source) -> str:
    """Return the text of a descriptor as Kaldi writes it."""
    if isinstance(source, Node):
        return source.name
    numbers = [f"{number:g}" if isinstance(number, float) else str(number) for number in source.numbers]
    if source.kind == "Offset":
        numbers = numbers[:1]
    sources = [text_of(each) for each in source.sources]
    arguments = numbers + sources if source.kind in ("Scale", "Const") else sources + numbers
    return f"{source.kind}({', '.join(arguments)})"


def nodes_of(source: Source) -> Iterator[str]:
    """Yield the names of all nodes in a descriptor."""
    if isinstance(source, Node):
        yield source.name
    else:
        for each in source.sources:
            yield from nodes_of(each)


def rename(source: Source, old: str, new: str) -> Source:
    """Return the descriptor with a node renamed."""
    if isinstance(source, Node):
        return Node(new) if source.name == old else source
    return source._replace(sources=tuple(rename(each, old, new) for each in source.sources))


def dim_of(source: Source, dims: Dict[str, int]) -> int:
    """Return the dimension of a descriptor, given those of the nodes; raise InputError if its parts do not match."""
    if isinstance(source, Node):
        return dims[source.name]
    if source.kind == "Const":
        return int(source.numbers[1])
    parts = [dim_of(each, dims) for each in source.sources]
    if source.kind == "Append":
        return sum(parts)
    if len(set(parts)) != 1:
        raise InputError(f"'{text_of(source)}': the dimensions {', '.join(map(str, parts))} are not the same")
    return parts[0]


def modulus_of(source: Source) -> int:
    """Return the number of frames by which the times of a descriptor may be shifted without changing its form."""
    if isinstance(source, Node):
        return 1
    own = {"Round": source.numbers[:1], "Switch": (len(source.sources),)}.get(source.kind, ())
    result = 1
    for each in [*own, *(modulus_of(each) for each in source.sources)]:
        result = result * each // math.gcd(result, each)
    return result


# Times


def _mapped(source: Descriptor, times: np.ndarray) -> np.ndarray:
    """Return the time of the source for each time of the descriptor; not sorted if they are replaced."""
    if source.kind == "Offset":
        return times + int(source.numbers[0])
    if source.kind == "Round":
        return np.asarray(times - times % int(source.numbers[0]))
    if source.kind == "ReplaceIndex" and source.numbers[0] == "t":
        return np.full_like(times, source.numbers[1])
    return times


def reach(source: Source, ranges: Dict[str, Range]) -> Range:
    """Return a range of times outside of which the descriptor cannot be computed, given those of the nodes."""
    if isinstance(source, Node):
        return ranges[source.name]
    parts = [reach(each, ranges) for each in source.sources]
    if source.kind in ("IfDefined", "Const"):
        return EVERYWHERE
    if source.kind == "ReplaceIndex" and source.numbers[0] == "t":
        low, high = parts[0]
        return EVERYWHERE if low <= source.numbers[1] <= high else (0, -1)
    if source.kind in ("Failover", "Switch"):
        return min(low for low, _ in parts), max(high for _, high in parts)
    low, high = max(low for low, _ in parts), min(high for _, high in parts)
    if source.kind == "Offset":
        return low - source.numbers[0], high - source.numbers[0]
    return low, high + (source.numbers[0] - 1 if source.kind == "Round" else 0)


def spans(source: Source, wanted: Range) -> Iterator[Tuple[str, Range]]:
    """Yield for each node in the descriptor the range of times that it may need for the range ``wanted``."""
    if isinstance(source, Node):
        yield source.name, wanted
        return
    low, high = wanted
    if source.kind == "Offset":
        low, high = low + source.numbers[0], high + source.numbers[0]
    elif source.kind == "Round":
        low = low - source.numbers[0] + 1
    elif source.kind == "ReplaceIndex" and source.numbers[0] == "t":
        low = high = source.numbers[1]
    for each in source.sources:
        yield from spans(each, (low, high))


Available = Callable[[str, np.ndarray], np.ndarray]  # whether a node can be computed at some times


def is_available(source: Source, times: np.ndarray, available: Available) -> np.ndarray:
    """Return for each time whether the descriptor can be computed, as bool ``(times,)``."""
    if isinstance(source, Node):
        return available(source.name, times)
    mapped = _mapped(source, times)
    if source.kind in ("IfDefined", "Const"):
        return np.ones(len(times), bool)
    parts = [is_available(each, mapped, available) for each in source.sources]
    if source.kind == "Switch":
        return np.asarray(np.array(parts)[times % len(parts), np.arange(len(times))])
    result = parts[0]
    for part in parts[1:]:
        result = result | part if source.kind == "Failover" else result & part
    return result


def requirements(source: Source, times: np.ndarray, available: Available) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the times that the descriptor needs of each node; a node may come up several times."""
    if isinstance(source, Node):
        yield source.name, times
        return
    if source.kind == "Const" or not len(times):
        return
    for each, chosen in _selected(source, times, available):
        mapped = _mapped(source, times if chosen is None else times[chosen])
        if source.kind == "Round" and source.numbers[0] > 1:
            mapped = np.unique(mapped)
        elif source.kind == "ReplaceIndex" and source.numbers[0] == "t":
            mapped = mapped[:1]
        yield from requirements(each, mapped, available)


def _selected(
    source: Descriptor, times: np.ndarray, available: Available
) -> Iterator[Tuple[Source, Optional[np.ndarray]]]:
    """Yield the sources of a descriptor and the positions in ``times`` where they are used; None means all."""
    if source.kind == "Switch":
        for number, each in enumerate(source.sources):
            yield each, np.flatnonzero(times % len(source.sources) == number)
    elif source.kind == "IfDefined":
        yield source.sources[0], np.flatnonzero(is_available(source.sources[0], times, available))
    elif source.kind == "Failover":
        first = is_available(source.sources[0], times, available)
        yield source.sources[0], np.flatnonzero(first)
        yield source.sources[1], np.flatnonzero(~first)
    else:
        for each in source.sources:
            yield each, None


def is_new(source: Source) -> bool:
    """Return whether ``compute`` returns a new array rather than rows that ``fetch`` may return again."""
    return isinstance(source, Descriptor) and source.kind in _NEW and (source.kind != "Sum" or len(source.sources) > 1)


def compute(source: Source, times: np.ndarray, dims: Dict[str, int], fetch: Fetch, available: Available) -> np.ndarray:
    """Return the rows of the descriptor at ``times``, which must be available. The array may be a view."""
    if isinstance(source, Node):
        return fetch(source.name, times)
    if source.kind == "Const":
        return np.full((len(times), int(source.numbers[1])), source.numbers[0], np.float32)
    if source.kind == "Append":
        result = np.empty((len(times), dim_of(source, dims)), np.float32)
        column = 0
        for each in source.sources:
            part = compute(each, times, dims, fetch, available)
            result[:, column : column + part.shape[1]] = part
            column += part.shape[1]
        return result
    if source.kind == "Sum":
        total = compute(source.sources[0], times, dims, fetch, available)
        for each in source.sources[1:]:
            total = total + compute(each, times, dims, fetch, available)
        return total
    if source.kind == "Scale":
        scaled: np.ndarray = compute(source.sources[0], times, dims, fetch, available) * np.float32(source.numbers[0])
        return scaled
    if source.kind in ("Switch", "IfDefined", "Failover"):
        result = np.zeros((len(times), dim_of(source, dims)), np.float32)
        for each, chosen in _selected(source, times, available):
            if chosen is not None and len(chosen):
                result[chosen] = compute(each, times[chosen], dims, fetch, available)
        return result
    mapped = _mapped(source, times)
    if source.kind == "Offset":
        return compute(source.sources[0], mapped, dims, fetch, available)
    distinct, rows = np.unique(mapped, return_inverse=True)
    values = compute(source.sources[0], distinct, dims, fetch, available)
    return values if len(distinct) == len(times) else values[rows]
