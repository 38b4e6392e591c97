"""The number of processors that this process may really use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


def usable_processors(root: Path = Path("/")) -> int:
    """Return how many processors the affinity of this process and the CPU quotas of its control groups allow.

    Containers (``docker run --cpus``) and schedulers set such quotas, which ``nproc`` and ``os.cpu_count`` ignore. Of a
    fraction, whole processors count, but at least one.

    Args:
        root: folder that holds ``proc/self/cgroup`` and ``sys/fs/cgroup``.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([count, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in processors, of the process's control groups and of the groups above (versions 1 and 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = mount / path.lstrip("/")  # inside a container, only the mount itself may exist
        for folder in [group, *group.parents]:
            if mount not in (folder, *folder.parents):
                break
            with contextlib.suppress(OSError, ValueError):  # no limit is "max" or -1
                if controllers:
                    quota = int((folder / "cpu.cfs_quota_us").read_text())
                    period = int((folder / "cpu.cfs_period_us").read_text())
                else:
                    quota, period = map(int, (folder / "cpu.max").read_text().split())
                if quota > 0:
                    yield quota / period
