"""Where a file comes from: the command, the date, the versions of the software."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

PACKAGES = ("sdpn_k2", "numpy", "torch", "lhotse")


@dataclass(frozen=True)
class Provenance:
    """What is needed to repeat a measurement: command, date (UTC), versions, number of processors, git revision."""

    command: str
    date: str
    versions: Dict[str, str]
    cpus: Optional[int]
    git_revision: Optional[str]

    def lines(self) -> List[str]:
        """Return the items of a Markdown list."""
        lines = [f"- command: `{self.command}`"] if self.command else []
        lines.append(f"- date: {self.date}")
        lines.append("- versions: " + ", ".join(f"{package} {number}" for package, number in self.versions.items()))
        if self.git_revision:
            lines.append(f"- git revision: {self.git_revision}")
        return lines

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Provenance:
        """Return what ``dataclasses.asdict`` stored.

        Raises:
            LookupError, TypeError, AttributeError: a part is missing or of another type.
        """
        texts = [stored["command"], stored["date"], *stored["versions"].values(), stored["git_revision"] or ""]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("command, date, versions and revision should be text")
        return cls(
            stored["command"], stored["date"], dict(stored["versions"]), stored.get("cpus"), stored["git_revision"]
        )


def provenance(command: str) -> Provenance:
    """Describe this process, which was started by ``command``."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return Provenance(command, date, versions, os.cpu_count(), _git_revision())


def _git_revision() -> Optional[str]:
    """Return the commit of this checkout, with "-dirty" when files differ from it; None outside a checkout."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
