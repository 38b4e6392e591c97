"""Names that become parts of file names and command lines: those of sets and experiments."""

import re

from sdpn_k2.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it is safe everywhere; Kaldi's scripts pass it on through a shell.

    >>> check_name("vox1-o", "set")
    'vox1-o'

    Args:
        name: the name.
        what: what it names, and where it comes from, for the message.

    Raises:
        InputError: the name is empty or too long, has other characters than letters, digits, ``_``, ``-`` and ``.``, or
            begins with ``-`` or ``.``.
    """
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise InputError(
            f"{what}: {name!a} is not a valid name; rename it, with at most 100 letters, digits, _, - and . "
            "and a letter, digit or _ first"
        )
    return name
