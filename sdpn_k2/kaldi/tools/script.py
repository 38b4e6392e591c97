"""The command line of the small scripts in utils/: ``script.pl [options] arguments``, with help and error messages."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from sdpn_k2.errors import InputError


def run(
    main: Callable[..., Any],
    usage: str,
    arguments: Tuple[int, Optional[int]],
    flags: Iterable[str] = (),
    values: Optional[Mapping[str, str]] = None,
) -> None:
    """Call ``main(options, *arguments)`` with the command line, and exit; an InputError becomes one line and status 1.

    Args:
        usage: the text that --help prints.
        arguments: fewest and most positional arguments (None: no limit).
        flags: options without a value, such as ``--exclude``; options.exclude is True if it is given.
        values: options with a value, such as ``--utt-prefix x`` or ``--utt-prefix=x``, and their defaults.
    """
    # Like any filter, end quietly when the reader of a pipe has gone away.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        options, words = _parse(sys.argv[1:], usage, list(flags), dict(values or {}))
        least, most = arguments
        if len(words) < least or (most is not None and len(words) > most):
            raise InputError(f"wrong number of arguments ({len(words)}); --help shows the usage")
        sys.exit(main(options, *words))
    except InputError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str) -> None:
    """Print a message on standard error, and exit with status 1."""
    warn(message)
    sys.exit(1)


def tell(message: str) -> None:
    """Print a message after the name of the script."""
    print(f"{os.path.basename(sys.argv[0])}: {message}")


def warn(message: str) -> None:
    """Print a message after the name of the script on standard error."""
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)


def whole_number(text: str, what: str, least: int = 0) -> int:
    """Parse a whole number of at least ``least``; ``what`` names it in the error."""
    if not text.isdigit() or int(text) < least:
        raise InputError(f"{what} must be a whole number of at least {least}, got '{text}'")
    return int(text)


def number(text: str, what: str) -> float:
    """Parse a number that is not negative; ``what`` names it in the error."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{what} must be a number of at least 0, got '{text}'")
    return value


def read_lines(path: str) -> List[bytes]:
    """Read all lines of a file, or of standard input for "-", each with its line end."""
    if path == "-":
        lines = sys.stdin.buffer.readlines()
    else:
        with open(path, "rb") as stream:
            lines = stream.readlines()
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    return lines


def _parse(argv: List[str], usage: str, flags: List[str], values: Dict[str, str]) -> Tuple[SimpleNamespace, List[str]]:
    options = SimpleNamespace(**{_name(flag): False for flag in flags}, **{_name(key): values[key] for key in values})
    words: List[str] = []
    rest = iter(argv)
    for word in rest:
        key, equals, value = word.partition("=")
        if key.startswith("--"):
            key = key.replace("_", "-")  # both are the same, as in parse_options.sh
        if word in ("--help", "-h"):
            print(usage.strip())
            sys.exit(0)
        elif key in flags and not equals:
            setattr(options, _name(key), True)
        elif key in values:
            setattr(options, _name(key), value if equals else next(rest, None))
            if getattr(options, _name(key)) is None:
                raise InputError(f"option {key} needs a value")
        elif word.startswith("-") and word != "-":
            raise InputError(f"invalid option {word} (--help lists the options)")
        else:
            words.append(word)
    return options, words


def _name(option: str) -> str:
    return option.lstrip("-").replace("-", "_")
