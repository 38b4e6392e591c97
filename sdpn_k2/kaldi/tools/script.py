"""The command line of the small scripts in utils/: ``script.pl [options] arguments``, its help and its errors."""

import os
import signal
import sys
from types import SimpleNamespace
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from sdpn_k2.errors import InputError


def run(
    main: Callable,
    usage: str,
    arguments: Tuple[int, Optional[int]],
    flags: Iterable[str] = (),
    values: Optional[Mapping[str, str]] = None,
) -> None:
    """Call ``main(options, *arguments)`` with the command line's, and exit: 1 with one line where it raises InputError.

    Args:
        usage: the text for --help.
        arguments: how many there may be, from and to (None: any number).
        flags: options without a value, such as ``--exclude``: options.exclude is True where it is given.
        values: options with a value, such as ``--utt-prefix x`` or ``--utt-prefix=x``, and their defaults.
    """
    # As any filter: end quietly when the reader of a pipe ends.
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
    warn(message)
    sys.exit(1)


def tell(message: str) -> None:
    print(f"{os.path.basename(sys.argv[0])}: {message}")


def warn(message: str) -> None:
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)


def whole_number(text: str, what: str, least: int = 0) -> int:
    if not text.isdigit() or int(text) < least:
        raise InputError(f"{what} must be a whole number from {least} on, got '{text}'")
    return int(text)


def number(text: str, what: str) -> float:
    """A number that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{what} must be a number from 0 on, got '{text}'")
    return value


def read_lines(path: str) -> List[bytes]:
    """All lines of a file, or of standard input for "-", each with its line end."""
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
            key = key.replace("_", "-")  # alike, as for parse_options.sh
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
