"""The command line of the small scripts in utils/: ``script.pl [options] arguments``, with help and one-line errors."""

import os
import signal
import sys
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, List, Mapping, NoReturn, Optional, Tuple

from sdpn_k2.errors import InputError, describe_os_error


def run(
    main: Callable[..., Any],
    usage: str,
    *,
    arguments: Tuple[int, Optional[int]],
    flags: Iterable[str] = (),
    values: Optional[Mapping[str, str]] = None,
    lists: Iterable[str] = (),
    unparsed: bool = False,
) -> NoReturn:
    """Call ``main(options, *arguments)`` with this process's command line, and exit.

    The exit status is what ``main`` returns, or 1 after one line on stderr if it raises InputError or OSError.

    Args:
        main: the script.
        usage: the text for --help.
        arguments: fewest and most arguments (None: no limit).
        flags: options without a value, such as ``--exclude``: options.exclude is True if it is given.
        values: options with a value, such as ``--utt-prefix x`` or ``--utt-prefix=x``, and their defaults.
        lists: options with a value that may be given repeatedly: options.rir_set_parameters is the list of the values.
        unparsed: pass on all words but --help as arguments, for scripts with options of another form.

    As in Kaldi's Perl and Python scripts, the beginning of an option's name suffices where it is unique.
    """
    # Like any filter, end quietly when the reader of a pipe ends.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        if unparsed and not {"--help", "-h"} & set(sys.argv[1:]):
            options, words = SimpleNamespace(), sys.argv[1:]
        else:
            options, words = _parse(sys.argv[1:], usage, list(flags), dict(values or {}), list(lists))
        fewest, most = arguments
        if len(words) < fewest or (most is not None and len(words) > most):
            raise InputError(f"wrong number of arguments ({len(words)}); --help shows the usage")
        sys.exit(main(options, *words))
    except InputError as error:
        warn(str(error))
    except OSError as error:
        warn(describe_os_error(error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1)


def info(message: str) -> None:
    """Print a message to stdout, after the script's name."""
    print(f"{_script_name()}: {message}")


def warn(message: str) -> None:
    """Print a message to stderr, after the script's name."""
    print(f"{_script_name()}: {message}", file=sys.stderr)


def _script_name() -> str:
    """Return the name that recipes call: x.sh for an x.py that has an x.sh beside it."""
    path, extension = os.path.splitext(sys.argv[0])
    return os.path.basename(f"{path}.sh" if extension == ".py" and os.path.exists(f"{path}.sh") else sys.argv[0])


def whole_number(text: str, what: str, least: int = 0) -> int:
    """Return the number in ``text``; ``what`` names it in the error."""
    if not text.isdigit() or int(text) < least:
        raise InputError(f"{what} must be a whole number of at least {least}, got '{text}'")
    return int(text)


def number(text: str, what: str) -> float:
    """Return the number in ``text``, which must not be negative; ``what`` names it in the error."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise InputError(f"{what} must be a number of at least 0, got '{text}'")
    return value


def boolean(text: str, what: str) -> bool:
    """Return whether ``text`` is "true", as opposed to "false"; ``what`` names it in the error."""
    if text not in ("true", "false"):
        raise InputError(f"{what} must be true or false, got '{text}'")
    return text == "true"


def whole_numbers(text: str, what: str) -> List[int]:
    """Return the numbers of a list such as "15:10:-5"; ``what`` names it in the error."""
    try:
        return [int(part) for part in text.split(":")]
    except ValueError:
        raise InputError(f"{what} must be whole numbers with colons between them, got '{text}'") from None


def read_lines(path: str) -> List[bytes]:
    """Return all lines of a file, or of standard input for "-"; each ends with a newline."""
    if path == "-":
        lines = sys.stdin.buffer.readlines()
    else:
        with open(path, "rb") as stream:
            lines = stream.readlines()
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    return lines


def _parse(
    argv: List[str], usage: str, flags: List[str], values: Dict[str, str], lists: List[str]
) -> Tuple[SimpleNamespace, List[str]]:
    options = SimpleNamespace(
        **{_name(flag): False for flag in flags},
        **{_name(key): values[key] for key in values},
        **{_name(key): [] for key in lists},
    )
    words: List[str] = []
    rest = iter(argv)
    for word in rest:
        key, equals, value = word.partition("=")
        if key.startswith("--"):
            key = _whole_name(key.replace("_", "-"), [*flags, *values, *lists])  # parse_options.sh accepts both, too
        if word in ("--help", "-h"):
            print(usage.strip())
            sys.exit(0)
        elif key in flags and not equals:
            setattr(options, _name(key), True)
        elif key in values or key in lists:
            given = value if equals else next(rest, None)
            if given is None:
                raise InputError(f"option {key} needs a value")
            if key in lists:
                getattr(options, _name(key)).append(given)
            else:
                setattr(options, _name(key), given)
        elif word.startswith("-") and word != "-":
            raise InputError(f"invalid option {word} (--help lists the options)")
        else:
            words.append(word)
    return options, words


def _whole_name(key: str, names: List[str]) -> str:
    """Return the only option that begins with ``key``; if it is an option itself, or none or several do, return it."""
    begun = [name for name in names if name.startswith(key)]
    return begun[0] if key not in names and len(begun) == 1 and key != "--" else key


def _name(option: str) -> str:
    return option.lstrip("-").replace("-", "_")
