"""Log lines on standard error in Kaldi's shape.

    LOG (copy-vector[sdpn_k2]:main():copying.py:58) Copied 240 vectors.

Scripts that grep Kaldi's logs find the same words in ours.
"""

import sys
from types import CodeType
from typing import Optional

_state = {"program": "sdpn_k2", "verbose": 0}


def start(program: str, verbose: int = 0) -> None:
    """Say which tool the following lines come from and how much it may say (Kaldi's ``--verbose``)."""
    _state.update(program=program, verbose=verbose)


def log(message: str) -> None:
    """A count or a fact at the end of the work."""
    _write("LOG", message)


def warn(message: str) -> None:
    """Something was left out or repaired; the work goes on."""
    _write("WARNING", message)


def error(message: str, cause: BaseException) -> None:
    """The reason why the tool stops, with the place that raised it. Only the entry point of the tools calls this."""
    trace = cause.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    _write("ERROR", message, trace.tb_frame.f_code, trace.tb_lineno)


def vlog(level: int, message: str) -> None:
    """A line that is shown from ``--verbose=level`` on."""
    if _state["verbose"] >= level:
        _write(f"VLOG[{level}]", message)


def plain(text: str) -> None:
    """A line without a prefix: the command line, the usage."""
    _stderr(text + "\n")


def _write(label: str, message: str, code: Optional[CodeType] = None, number: int = 0) -> None:
    if code is None:
        frame = sys._getframe(2)
        code, number = frame.f_code, frame.f_lineno
    program = _state["program"]
    function = code.co_name
    if function == program.replace("-", "_"):
        function = "main"  # a tool's own function is its main(), as in Kaldi
    file = code.co_filename.rpartition("/")[2]
    line = " ".join(message.split("\n"))
    _stderr(f"{label} ({program}[sdpn_k2]:{function}():{file}:{number}) {line}\n")


def _stderr(text: str) -> None:
    # One write per line, so that the lines of tools that share a log do not mix. A log that cannot be written must not
    # stop the work.
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
