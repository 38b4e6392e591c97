"""Rspecifiers and wspecifiers: ``ark,s,cs:file``, ``scp:file``, ``ark,scp,t:file.ark,file.scp``."""

from typing import NamedTuple, Optional

from sdpn_k2.errors import InputError


class Specifier(NamedTuple):
    """A parsed rspecifier or wspecifier."""

    text: str
    archive: Optional[str]  # extended filename after ark:
    script: Optional[str]  # extended filename after scp:
    options: frozenset


def is_table(specifier: str) -> bool:
    """Whether a tool's argument is a table (``ark:…``, ``scp,p:…``) rather than a single file."""
    before, colon, _ = specifier.partition(":")
    return bool(colon) and not {"ark", "scp"}.isdisjoint(before.split(","))


def parse_rspecifier(rspecifier: str) -> Specifier:
    """Split ``ark,s,cs:file`` and the like.

    Raises:
        InputError: neither ``ark`` nor ``scp``, or both, or an option that does not exist.
    """
    return _parse(rspecifier, "rspecifier", {"o", "no", "s", "ns", "cs", "ncs", "p", "np", "b", "t", "bg"}, both=False)


def parse_wspecifier(wspecifier: str) -> Specifier:
    """Split ``ark,scp,t:file.ark,file.scp`` and the like.

    Raises:
        InputError: neither ``ark`` nor ``scp``, or an option that does not exist.
    """
    return _parse(wspecifier, "wspecifier", {"b", "t", "f", "nf", "p"}, both=True)


def _parse(text: str, what: str, known, both: bool) -> Specifier:
    before, colon, name = text.partition(":")
    words = before.split(",")
    options = [word for word in words if word not in ("ark", "scp")]
    if not colon or len(options) == len(words):
        raise InputError(f"{text!r} is no {what}: it should start with ark: or scp:")
    unknown = [option for option in options if option not in known]
    if unknown:
        raise InputError(f"{text!r}: {what}s have no option {unknown[0]!r}")
    for option in options:  # the last of an option and its negation holds
        if option.startswith("n") and option[1:] in known:
            options = [other for other in options if other != option[1:]]
    archive, script = "ark" in words, "scp" in words
    if archive and script:
        if not both:
            raise InputError(f"{text!r} is no {what}: choose ark: or scp:")
        first, comma, second = name.partition(",")
        if not comma:
            raise InputError(f"{text!r} is no {what}: write ark,scp:file.ark,file.scp")
        return (
            Specifier(text, first, second, frozenset(options))
            if words.index("ark") < words.index("scp")
            else Specifier(text, second, first, frozenset(options))
        )
    return Specifier(text, name if archive else None, name if script else None, frozenset(options))
