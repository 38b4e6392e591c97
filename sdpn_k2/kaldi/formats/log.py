"""Log lines on standard error in Kaldi's shape.

    LOG (copy-vector[sdpn_k2]:main():copying.py:58) Copied 240 vectors.

Scripts that search Kaldi's logs find the same words in ours.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Iterable, Optional

from sdpn_k2.errors import InputError

_program = "sdpn_k2"
_verbose = 0


def start(program: str, verbose: int = 0) -> None:
    """Set the name of the tool that writes the following lines, and its verbosity (Kaldi's ``--verbose``)."""
    global _program, _verbose
    _program, _verbose = program, verbose


def log(message: str) -> None:
    """Write a count or another fact, usually at the end of the work."""
    _write("LOG", message)


def warn(message: str) -> None:
    """Write that something was skipped or repaired; the work goes on."""
    _write("WARNING", message)


def error(message: str, cause: BaseException) -> None:
    """Write why the tool stops, and where the error was raised. Only the tools' entry point calls this."""
    while isinstance(cause.__cause__, InputError):  # the message got its context on the way up
        cause = cause.__cause__
    trace = cause.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        _write("ERROR", message)
    else:
        _write("ERROR", message, trace.tb_frame.f_code, trace.tb_lineno)


def vlog(level: int, message: str) -> None:
    """Write a line that appears only with ``--verbose=level`` or higher."""
    if _verbose >= level:
        _write(f"VLOG[{level}]", message)


def plain(text: str) -> None:
    """Write text without a prefix, such as the command line and the usage."""
    _stderr(text + "\n")


def format_vector(values: Iterable[float]) -> str:
    """Return a vector as Kaldi logs it."""
    return "[ " + " ".join(f"{value:g}" for value in values) + " ]"


def _write(label: str, message: str, code: Optional[CodeType] = None, number: int = 0) -> None:
    if code is None:
        frame = sys._getframe(2)
        code, number = frame.f_code, frame.f_lineno
    function = code.co_name
    if function == _program.replace("-", "_"):
        function = "main"  # a tool's own function is its main(), as in Kaldi
    file = code.co_filename.rpartition("/")[2]
    line = " ".join(message.split("\n"))
    _stderr(f"{label} ({_program}[sdpn_k2]:{function}():{file}:{number}) {line}\n")


def _stderr(text: str) -> None:
    # One write per line: the lines of tools that share a log do not mix. A broken log must not stop the work.
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
