"""Kaldi's command line, ``tool [--name=value …] <positional arguments>``: the entry point of every tool.

A tool is a function of its parsed options and its positional arguments. Its docstring is what ``--help`` prints:

    @tool(options=[Option("scale", 1.0, "Factor")], arguments=(2, 2))
    def vector_scale(options: SimpleNamespace, rspecifier: str, wspecifier: str) -> int:
        '''Scale vectors.

        Usage: vector-scale [options] <vector-rspecifier> <vector-wspecifier>
        '''
        ...
        return done

``options.scale`` holds the value, converted to the type of the default (``-`` becomes ``_`` in names). The function
returns how many items it processed, or None, which means success. A count of 0 makes the exit status 1. A tool raises
InputError for bad input.
"""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError, describe_os_error, error_context
from sdpn_k2.kaldi.formats import io, log
from sdpn_k2.kaldi.formats.words import strip

Value = Union[bool, int, float, str]
Function = Callable[..., Optional[int]]


class Option(NamedTuple):
    """One option: its name without ``--``, its default, which also sets its type, and its help."""

    name: str
    default: Value
    help: str


STANDARD_OPTIONS = (
    Option("allow-pipes", True, "Run the commands in 'cmd |' and '| cmd'; SDPN_K2_ALLOW_PIPES=false also forbids them"),
    Option("config", "", "Configuration file to read (this option may be repeated)"),
    Option("help", False, "Print out usage message"),
    Option("print-args", True, "Print the command line arguments (to stderr)"),
    Option("verbose", 0, "Verbose level (higher->more logging)"),
)
BINARY = Option("binary", True, "Write in binary mode (only relevant if the output is a file, not a table)")


class Tool:
    """A command-line tool: a function of its options and arguments, under Kaldi's name."""

    def __init__(self, function: Function, options: Sequence[Option], arguments: Tuple[int, Optional[int]]):
        self.name = function.__name__.replace("_", "-")
        self.usage = inspect.cleandoc(function.__doc__ or "")
        self.options = tuple(options)
        self.arguments = arguments
        self.function = function

    def __call__(self, argv: Sequence[str]) -> int:
        """Run the tool with the arguments after its name; return the exit status."""
        log.start(self.name)
        _keep_freed_memory()
        try:
            status = self._run([str(argument) for argument in argv])
            sys.stdout.flush()
            return status
        except (io.ReaderGone, BrokenPipeError):
            # As with any filter, "tool ... | head" is not a failure.
            _discard_stdout()
            return io.SIGPIPE_STATUS
        except InputError as error:
            log.error(str(error), error)
        except OSError as error:
            log.error(describe_os_error(error), error)
        except MemoryError as error:
            log.error("out of memory", error)
        except KeyboardInterrupt as error:
            log.error("interrupted", error)
            return 130
        _discard_stdout()
        return 1

    def _run(self, argv: List[str]) -> int:
        if _asks_for_help(argv):
            self.print_usage()
            return 0
        options, positional = parse(self.options + STANDARD_OPTIONS, argv)
        log.start(self.name, options.verbose)
        if options.print_args:
            log.plain(_command_line(self.name, argv))
        fewest, most = self.arguments
        if len(positional) < fewest or (most is not None and len(positional) > most):
            self.print_usage()
            log.plain("Command line was: " + _command_line(self.name, argv))
            return 1
        with io.pipes_allowed(options.allow_pipes):
            done = self.function(options, *positional)
        return 1 if done is not None and not done else 0

    def print_usage(self) -> None:
        """Print the usage and every option with its type and default, in Kaldi's layout."""
        lines = ["", self.usage, ""]
        for title, options in (("Options:", self.options), ("Standard options:", STANDARD_OPTIONS)):
            if options:
                lines.append(title)
                lines += [
                    f"  --{option.name:<25} : {option.help} ({_describe(option.default)})" for option in sorted(options)
                ]
                lines.append("")
        log.plain("\n".join(lines))


def _keep_freed_memory() -> None:
    """Let malloc keep what is freed, for the next matrix.

    By default, glibc returns a few hundred kilobytes to the system at once, and each matrix then needs new pages. After
    a larger block was freed, glibc keeps twice as much as that block had.
    """
    block = np.empty(1 << 24, np.uint8)
    del block


def tool(options: Sequence[Option] = (), arguments: Tuple[int, Optional[int]] = (2, 2)) -> Callable[[Function], Tool]:
    """Turn a function ``(options, *positional) -> count`` into a Tool, whose usage is the function's docstring.

    Args:
        options: the tool's own options; every tool has the standard ones too.
        arguments: fewest and most positional arguments (None: no limit).
    """
    return lambda function: Tool(function, options, arguments)


def parse(declared: Sequence[Option], argv: Sequence[str]) -> Tuple[SimpleNamespace, List[str]]:
    """Parse a command line as Kaldi does: options first, then positional arguments; ``--`` ends the options.

    The files of ``--config`` are read first, wherever the option stands, so that the command line overrides them.

    Raises:
        InputError: an unknown option, a value of the wrong type, or a line of a configuration file without an option.
    """
    table = {option.name: option for option in declared}
    values = {option.name: option.default for option in declared}
    end = next((i for i, argument in enumerate(argv) if not argument.startswith("--") or argument == "--"), len(argv))
    for argument in argv[:end]:
        name, value = _split(argument)
        if name == "config":
            _read_config(value or "", table, values)
    for argument in argv[:end]:
        _set(argument, table, values)
    positional = list(argv[end:])
    if "--" in positional:
        positional.remove("--")
    return SimpleNamespace(**{name.replace("-", "_"): value for name, value in values.items()}), positional


def _asks_for_help(argv: Sequence[str]) -> bool:
    named = argv[: list(argv).index("--")] if "--" in argv else argv
    return any(argument.startswith("--") and _split(argument)[0] == "help" for argument in named)


def _split(argument: str) -> Tuple[str, Optional[str]]:
    """Split ``--Num_Bins=3`` into ("num-bins", "3"), and ``--flag`` into ("flag", None)."""
    name, equals, value = argument[2:].partition("=")
    return name.replace("_", "-").lower(), strip(value) if equals else None


def _set(argument: str, table: Dict[str, Option], values: Dict[str, Value]) -> None:
    """Set the option that ``--name=value`` names."""
    name, text = _split(argument)
    if name not in table:
        import difflib

        nearest = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean --{nearest[0]}?" if nearest else "--help lists the options"
        raise InputError(f"Invalid option {argument}: {hint}")
    values[name] = _convert(table[name], text, argument)


def _convert(option: Option, text: Optional[str], argument: str) -> Value:
    if isinstance(option.default, bool):
        word = "" if text is None else text.lower()
        if word not in ("", "true", "t", "1", "false", "f", "0"):
            raise InputError(f"Invalid option {argument}: expected true or false")
        return word not in ("false", "f", "0")
    if text is None:
        raise InputError(f"Invalid option {argument}: write --{option.name}=<value>")
    if isinstance(option.default, str):
        return text
    whole = isinstance(option.default, int)
    try:
        value = int(text) if whole else float(text)
        # int() and float() would accept 1_000.
        if "_" in text or value != value or (whole and not -(2**31) <= value < 2**31):
            raise ValueError
        return value
    except ValueError:
        expected = "an integer of 32 bits" if whole else "a number"
        raise InputError(f"Invalid option {argument}: expected {expected}") from None


def _read_config(path: str, table: Dict[str, Option], values: Dict[str, Value]) -> None:
    """Set options from a file of ``--name=value`` lines; ``#`` starts a comment."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read config file {path!r}: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(lines, 1):
        line = strip(line.partition("#")[0])
        if not line:
            continue
        if not line.startswith("--"):
            raise InputError(
                f"{path}: line {number}: expected an option of the form --x=y, got {line!r} "
                "(is this a file for a shell to source?)"
            )
        with error_context(f"{path}: line {number}"):
            _set(line, table, values)


def _describe(default: Value) -> str:
    if isinstance(default, bool):
        return f"bool, default = {str(default).lower()}"
    if isinstance(default, str):
        return f'string, default = "{default}"'
    return f"int, default = {default}" if isinstance(default, int) else f"float, default = {default:g}"


def _command_line(name: str, argv: Sequence[str]) -> str:
    """Return the command as Kaldi prints it: ready to paste into a shell, with a blank after every word."""
    return "".join(_quote(word) + " " for word in [name, *argv])


def _quote(word: str) -> str:
    if word and all((c.isascii() and c.isalnum()) or c in "[]~#^_-+=:.,/" for c in word):
        return word
    if "'" in word and not any(c in word for c in '"`$\\'):
        return f'"{word}"'
    return "'" + word.replace("'", "'\\''") + "'"


def _discard_stdout() -> None:
    """After a failure, prevent a second one when the interpreter flushes the closed pipe at exit."""
    import os

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
