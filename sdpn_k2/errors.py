"""Errors that mean "the input cannot be used", and the utterances that are skipped because of them."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Iterator, NamedTuple, Sequence

MAX_SKIPPED_SHARE = 0.05


class InputError(ValueError):
    """Bad input, a ValueError; the message is one line that says where, what is wrong and what to do.

    Command-line tools print the message without a traceback and exit with status 1.
    """


class Skipped(NamedTuple):
    """An utterance, recording or file that is skipped, and why.

    Streams yield it in place of the item, so that the consumer counts and reports it.
    """

    key: str
    reason: str

    def __str__(self) -> str:
        return f"'{self.key}': {self.reason}"


def describe_os_error(error: OSError) -> str:
    """Return one line about a failed file operation that nobody turned into an InputError.

    Files are opened by name, so an error without one comes from a stream that was given: the standard output.
    """
    if error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO):
        return f"standard output: cannot write: {error.strerror}"
    return str(error)


@contextlib.contextmanager
def error_context(where: object) -> Iterator[None]:
    """Prefix the InputErrors raised inside with ``where`` (a file, or an utterance) and a colon.

    Examples:
        >>> with error_context("data/wav.scp"):
        ...     raise InputError("line 3: expected a key and a file")
        Traceback (most recent call last):
            ...
        sdpn_k2.errors.InputError: data/wav.scp: line 3: expected a key and a file
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_skipped(
    skipped: Sequence[Skipped],
    total: int,
    *,
    where: object,
    what: str = "utterances",
    max_share: float = MAX_SKIPPED_SHARE,
    option: str = "",
) -> None:
    """Fail if too much was skipped to continue with the rest.

    >>> check_skipped([Skipped("u1", "silent")], 10, where="train")
    Traceback (most recent call last):
        ...
    sdpn_k2.errors.InputError: train: 1 of 10 utterances cannot be used (at most 5 %); the first is 'u1': silent

    Args:
        skipped: the skipped items.
        total: number of items, including those skipped.
        where: file or folder of the items, for the message.
        what: the items' name in the plural, for the message.
        max_share: largest share of ``total`` that may be skipped.
        option: command-line option that sets ``max_share``, for the message.

    Raises:
        InputError: more than ``max_share`` of the items, or all of them, were skipped.
    """
    if skipped and (len(skipped) > max_share * total or len(skipped) == total):
        limit = f"at most {100 * max_share:g} %" + (f", see {option}" if option else "")
        raise InputError(
            f"{where}: {len(skipped)} of {total} {what} cannot be used ({limit}); the first is {skipped[0]}"
        )


def check_skip_bad(
    skipped: Sequence[Skipped], total: int, skip_bad: bool, *, where: object, what: str = "utterances"
) -> None:
    """Fail as ``check_skipped`` does; ``skip_bad`` (the option ``--skip-bad``) accepts any share but all."""
    share = 1.0 if skip_bad else MAX_SKIPPED_SHARE
    check_skipped(skipped, total, where=where, what=what, max_share=share, option="--skip-bad")
