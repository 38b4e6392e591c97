"""Write the trial lists of evaluation sets in Kaldi's form."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Collection, Iterable, Iterator, Mapping

from sdpn_k2.data.audio_check import Scan
from sdpn_k2.data.audio_files import make_id
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.kaldi.backend.trials import Trial, read_trials

log = logging.getLogger(__name__)


def write_trials(
    source: Path,
    destination: Path,
    scan: Scan,
    *,
    aliases: Mapping[str, str | None] = MappingProxyType({}),
    read: Callable[[Path], Iterable[Trial]] = read_trials,
) -> int:
    """Write a trial list with its names replaced by utterance ids.

    Trials of skipped audio are dropped, and counted in the log.

    Args:
        source: the list, in any form that ``kaldi/backend/trials.py`` reads.
        destination: file to write.
        scan: the checked audio of the set.
        aliases: other names that a list may use for an utterance → its id, or None for an ambiguous name.
        read: how to read the list.

    Returns:
        The number of trials written.

    Raises:
        InputError: a malformed line (file:line), ids that are not in the set (the first few and their number), an
            ambiguous name, or no trials.
    """
    known = scan.good.keys() | {key for key, _ in scan.skipped}
    num_written = num_dropped = 0
    with atomic_output(destination, "w") as stream:
        for enroll, test, target in resolve_trials(source, known, aliases=aliases, read=read):
            if enroll in scan.good and test in scan.good:
                stream.write(f"{enroll} {test} {'target' if target else 'nontarget'}\n")
                num_written += 1
            else:
                num_dropped += 1
        if not num_written:
            raise InputError(f"{source}: no trials")
    if num_dropped:
        log.warning("%s: dropped %d trials of skipped audio", source, num_dropped)
    log.info("%s: %d trials", destination, num_written)
    return num_written


def check_trials(
    source: Path, known: Collection[str], aliases: Mapping[str, str | None] = MappingProxyType({})
) -> None:
    """Read a trial list before its audio, which may take hours to check.

    Raises:
        InputError: as :func:`write_trials`.
    """
    if not sum(1 for _ in resolve_trials(source, known, aliases=aliases)):
        raise InputError(f"{source}: no trials")


def resolve_trials(
    source: Path,
    known: Collection[str],
    *,
    aliases: Mapping[str, str | None] = MappingProxyType({}),
    read: Callable[[Path], Iterable[Trial]] = read_trials,
) -> Iterator[Trial]:
    """Yield the trials of a list with utterance ids in place of its names.

    A name may be an id, an alias, or the path of a file that became the id (``id10270/5r0dWxy17C8/00001.wav``).

    Raises:
        InputError: a malformed line (file:line); at the end, names that are unknown or ambiguous.
    """
    unknown: dict[str, None] = {}

    def resolve(name: str) -> str | None:
        if name in known:
            return name
        from_path = make_id(*re.sub(r"\.\w+$", "", name).split("/"))
        utterance = aliases.get(name, from_path if from_path in known else None)
        if utterance is None:
            unknown[name] = None
        return utterance

    for trial in read(source):
        enroll, test = resolve(trial.enroll), resolve(trial.test)
        if enroll is not None and test is not None:
            yield Trial(enroll, test, trial.target)
    ambiguous = next((name for name in unknown if name in aliases), None)
    if ambiguous is not None:
        raise InputError(f"{source}: '{ambiguous}' matches several utterances: use <speaker>/{ambiguous}")
    refuse_unknown(source, unknown)


def refuse_unknown(source: Path, names: Collection[str]) -> None:
    """Raise InputError if there are ``names``, the ids in the trial list ``source`` that are not in its set."""
    if names:
        first = ", ".join(sorted(names)[:3])
        more = ", …" if len(names) > 3 else ""
        raise InputError(f"{source}: {len(names)} ids are not in this set: {first}{more}")
