#!/usr/bin/env python3
"""Run parallel jobs on this machine, like Kaldi's run.pl.

Usage: utils/run.pl [options] [JOB=first:last] log command ...

    utils/run.pl JOB=1:8 exp/log/extract.JOB.log extract.sh --job JOB
    utils/run.pl --max-jobs-run 2 --gpu 1 JOB=1:4 exp/log/train.JOB.log train.sh JOB

  --max-jobs-run N, -tc N  run N jobs at once (default: as many as the processors or graphics cards allow)
  --num-threads N          processors that each job needs (default: 1)
  --gpu N                  graphics cards that each job needs; CUDA_VISIBLE_DEVICES shows it only its own (default: 0)
  --pick failed            run only the jobs that failed or did not finish in an earlier run, as their logs show
  --pick incomplete        run only the jobs that did not finish; earlier failures still count

Options for grids, such as --mem 4G, are ignored. launcher.py describes the log.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, NamedTuple

import launcher


def run_here(launch: launcher.Launch) -> Dict[int, str]:
    wanted_gpus = launch.number("gpu", 0)
    gpus = visible_gpus() if wanted_gpus else []
    if gpus and len(gpus) < wanted_gpus:
        raise launcher.LaunchError(f"--gpu {wanted_gpus}: this machine has only {len(gpus)}")
    shares = len(gpus) // wanted_gpus if gpus else processors() // max(1, launch.threads)
    pick = launch.options.get("pick", "all")
    if pick not in ("all", "none", "failed", "incomplete"):
        raise launcher.LaunchError(f"--pick must be all, none, failed or incomplete, got '{pick}'")
    limit = launch.number("max_jobs_run", 0) or max(1, shares)
    if gpus:
        limit = min(limit, shares)

    waiting: List[int] = []
    running: Dict[int, Running] = {}
    failed: Dict[int, str] = {}
    for job in range(launch.last, launch.first - 1, -1):
        earlier = "" if pick == "all" else earlier_end(launch.log_of(job))
        if not earlier or (pick == "failed" and earlier != "code 0"):
            waiting.append(job)
        elif earlier != "code 0":
            failed[job] = earlier
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                job = waiting.pop()
                mine, gpus = gpus[:wanted_gpus], gpus[wanted_gpus:]
                process = start(launch, job, mine)
                running[process.pid] = Running(job, process, mine)
            pid, status = os.wait()
            job, process, mine = running.pop(pid)
            gpus += mine
            # Keep Popen from waiting for it again.
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode > 0:
                failed[job] = f"code {process.returncode}"
            elif process.returncode < 0:
                failed[job] = f"signal {-process.returncode}"
                with open(launch.log_of(job), "a") as log:  # The job could not end its log itself.
                    log.write(f"# Ended (code 0; signal {-process.returncode}) at {time.strftime('%c %Z')}\n")
    finally:
        for pid in running:
            os.killpg(pid, signal.SIGTERM)
    return failed


def earlier_end(log: str) -> str:
    """Return how the job ended according to the log of an earlier run, such as "code 0"; "" if it did not."""
    try:
        with open(log, errors="replace") as stream:
            return ([""] + re.findall(r"^# Ended \((.*?)\)", stream.read(), re.MULTILINE))[-1]
    except FileNotFoundError:
        return ""


class Running(NamedTuple):
    """A running job and the graphics cards that it may use."""

    job: int
    process: subprocess.Popen
    gpus: List[str]


def start(launch: launcher.Launch, job: int, gpus: List[str]) -> subprocess.Popen:
    """Start one job in its own process group, whose id is that of the process."""
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES=",".join(gpus)) if gpus else None
    # A file, since a command may be longer than the limit of an argument. It is beside the log, since a container may
    # allow no other temporary folder.
    with tempfile.TemporaryFile("w+", dir=os.path.dirname(launch.log_of(job)) or ".") as script:
        script.write(f"_job={job}\n{launch.script()}exit $_code\n")
        script.seek(0)
        return subprocess.Popen(["bash"], stdin=script, env=environment, start_new_session=True)


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> List[str]:
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [card for card in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if card]
    if not shutil.which("nvidia-smi"):
        return []
    answer = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, text=True)
    return [str(index) for index in range(sum(line.startswith("GPU ") for line in answer.stdout.splitlines()))]


if __name__ == "__main__":
    sys.exit(launcher.main(run_here))
