"""Words of a line as Kaldi splits them: at the blanks of ASCII only.

``str.split`` and ``str.strip`` also cut at U+0085, U+00A0, U+3000 and other Unicode blanks, which may be part of an id.
"""

from __future__ import annotations

import re
from typing import List

BLANKS = " \t\n\v\f\r"
_KEY = re.compile(r"[^\0-\x20\x7f\udcff]+")  # \udcff is the byte 255, a blank in Latin-1


def split(text: str, limit: int = -1) -> List[str]:
    """Return the words of ``text``; after ``limit`` words, the rest is one element, with its blanks at the end."""
    if text.isascii() and text.isprintable():  # str.split is faster, and these characters make no difference
        return text.split(None, limit)
    parts = text.encode("utf-8", "surrogateescape").split(None, limit)
    return [part.decode("utf-8", "surrogateescape") for part in parts]


def strip(text: str) -> str:
    """Return ``text`` without the blanks at its ends."""
    return text.strip(BLANKS)


def is_key(text: str) -> bool:
    """Return whether Kaldi accepts ``text`` as a key: a word without blanks and control characters."""
    return _KEY.fullmatch(text) is not None
