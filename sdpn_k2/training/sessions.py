"""The sessions of a run: what each start of it computed on, and how. ``EXP/training.json`` holds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import List

from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output
from sdpn_k2.provenance import Provenance

FILE = "training.json"


@dataclass(frozen=True)
class Session:
    """One start of a run.

    Attributes:
        first_step: number of steps that earlier sessions did.
        device: name of the GPU or processor.
        processes: number of training processes.
        precision: of the networks, ``float32`` or ``bfloat16``.
        compiled: whether the networks were compiled.
        started: command, date and versions.
    """

    first_step: int
    device: str
    processes: int
    precision: str
    compiled: bool
    started: Provenance


def write_session(exp: Path, session: Session) -> None:
    """Add a session to ``EXP/training.json``, in place of those that started at this step or later.

    Raises:
        InputError: the file cannot be read or written.
    """
    path = exp / FILE
    earlier = read_sessions(path) if path.is_file() else []
    kept = [each for each in earlier if each.first_step < session.first_step]
    with atomic_output(path, "w") as stream:
        json.dump({"sessions": [asdict(each) for each in [*kept, session]]}, stream, indent=2)
        stream.write("\n")


def read_sessions(path: Path) -> List[Session]:
    """Read ``training.json``.

    Raises:
        InputError: an unreadable file, or one of another form.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["sessions"]
        sessions = [
            Session(
                first_step=int(each["first_step"]),
                device=str(each["device"]),
                processes=int(each["processes"]),
                precision=str(each["precision"]),
                compiled=bool(each["compiled"]),
                started=Provenance.from_dict(each["started"]),
            )
            for each in stored
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the sessions of a training; remove it, and training writes it anew") from error
    if not sessions:
        raise InputError(f"{path}: no sessions")
    return sessions
