"""How many processors and threads a process uses: affinity, CPU quotas, and the settings of the user."""

import os
import subprocess
import sys

import pytest

from sdpn_k2.processors import usable_processors

UNLIMITED = "max 100000\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def four_processors(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6}, raising=False)


def test_affinity_counts_where_there_are_no_control_groups(four_processors, tmp_path):
    assert usable_processors(tmp_path) == 4


@pytest.mark.parametrize(
    "own, above, expected",
    [
        (UNLIMITED, UNLIMITED, 4),
        ("200000 100000\n", UNLIMITED, 2),
        (UNLIMITED, "350000 100000\n", 3),
        ("50000 100000\n", "300000 100000\n", 1),
        ("900000 100000\n", None, 4),
        (None, "100000 50000\n", 2),  # in a container, only the mount is there
    ],
)
def test_quotas_of_version_2(four_processors, tmp_path, own, above, expected):
    write(tmp_path / "proc/self/cgroup", "0::/jobs/mine\n")
    for text, folder in ((own, "jobs/mine/"), (above, "")):
        if text is not None:
            write(tmp_path / f"sys/fs/cgroup/{folder}cpu.max", text)
    assert usable_processors(tmp_path) == expected


@pytest.mark.parametrize("quota, expected", [("-1", 4), ("250000", 2), ("1000", 1)])
def test_quotas_of_version_1(four_processors, tmp_path, quota, expected):
    write(tmp_path / "proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/jobs\n1:name=systemd:/\n0::/\n")
    write(tmp_path / "sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "sys/fs/cgroup/memory/x/cpu.cfs_quota_us", "100000\n")
    assert usable_processors(tmp_path) == expected


THREADS = """
import os, sys
import sdpn_k2.processors
sdpn_k2.processors.usable_processors = lambda: 3
import torch
torch.set_num_threads(8)
from sdpn_k2.device import start_process
start_process("cpu")
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    "settings, threads",
    [({}, 3), ({"OMP_NUM_THREADS": "5"}, 8), ({"LOCAL_WORLD_SIZE": "2"}, 1), ({"LOCAL_WORLD_SIZE": "9"}, 1)],
)
def test_processes_of_a_machine_share_its_threads(settings, threads):
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    result = subprocess.run([sys.executable, "-c", THREADS], env={**kept, **settings}, capture_output=True, text=True)
    assert result.stdout == f"{threads}\n", result.stderr


WAIT_POLICY = """
import builtins, os, sys
real = builtins.__import__
def watched(name, *rest):
    if name == "torch":
        print(os.environ.get("OMP_WAIT_POLICY"))
        os._exit(0)
    return real(name, *rest)
builtins.__import__ = watched
sys.argv[1:] = ["train", "--device", "cpu", "cuts", "exp"]
open("cuts", "w").close()
import sdpn_k2.__main__
"""


@pytest.mark.parametrize("chosen, expected", [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_told_otherwise(tmp_path, chosen, expected):
    """The variable is set before torch is imported, which reads it then."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if chosen:
        environment["OMP_WAIT_POLICY"] = chosen
    result = subprocess.run(
        [sys.executable, "-uc", WAIT_POLICY], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.stdout == f"{expected}\n", result.stderr
