"""slurm.pl against a real Slurm: this machine's munged, slurmctld and slurmd, on ports of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SLURM_PL = Path(__file__).resolve().parents[1] / "utils" / "slurm.pl"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=1
SchedulerParameters=sched_min_interval=100000
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES DefMemPerNode=100 State=UP
PartitionName=short Nodes=ALL DefMemPerNode=100 State=UP
"""


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="module")
def slurm():
    """Start a Slurm with one idle node on this machine; yield the environment of its commands."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH_PATH)]
    if missing:
        pytest.skip(f"Slurm is not installed here: no {missing[0]} (Debian: slurm-wlm, munge)")
    if os.getuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    # Not pytest's folder: a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="slurm-test."))
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    controller_port, node_port = free_ports(2)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, controller_port=controller_port, node_port=node_port))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    environment = dict(os.environ, SLURM_CONF=str(config), PATH=SEARCH_PATH)
    munge_files = ["socket", "key-file", "pid-file", "log-file", "seed-file"]
    munged = ["munged", "--foreground", "--force", "--num-threads=1"]
    munged += [f"--{name}={folder}/munge.{name.replace('-file', '')}" for name in munge_files]
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c", "-N", host]):
            with open(folder / f"{command[0]}.out", "wb") as output:
                daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT))
        for _ in range(300):
            state = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True)
            if "idle" in state.stdout:
                break
            time.sleep(0.1)
        else:
            said = "\n".join(path.read_text(errors="replace")[-1000:] for path in folder.glob("*.out"))
            pytest.fail(f"Slurm is installed but does not start:\n{state.stdout}{state.stderr}{said}")
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(folder, ignore_errors=True)


# slurm.pl, but it asks the grid more often and trusts its answer sooner.
IMPATIENT = f"""
import runpy, sys
sys.path.insert(0, {str(SLURM_PL.parent / "parallel")!r})
import launcher
launcher.LOOK = launcher.GRACE = 0.5
sys.argv[0] = "slurm.pl"
runpy.run_path({str(SLURM_PL)!r}, run_name="__main__")
"""


def body(log: Path) -> str:
    return "".join(line for line in log.read_text().splitlines(True) if not line.startswith("#"))


def jobs_of(slurm):
    return subprocess.run(["squeue", "-h", "-o", "%i"], env=slurm, capture_output=True, text=True).stdout.split()


def start_sleeper(slurm, folder):
    """Start slurm.pl with a job that has begun to sleep."""
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, "x.log", "echo", "started", ";", "sleep", "60"],
        cwd=folder, env=slurm, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(600):
        if (folder / "x.log").exists() and body(folder / "x.log") == "started\n":
            return process
        time.sleep(0.05)
    process.kill()
    pytest.fail("the job did not start")


@pytest.mark.slow
def test_jobs_run_in_slurm(slurm, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [str(SLURM_PL), *arguments], cwd=tmp_path, env=slurm, capture_output=True, text=True, timeout=120
        )

    # An array: each task sources path.sh, and its log has a header and an end.
    (tmp_path / "path.sh").write_text("export FROM_PATH_SH=sourced\n")
    result = run("--mem", "100M", "JOB=1:3", "log/x.JOB.log", "echo", "JOB", 'it\'s "JOB"', "$FROM_PATH_SH")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    for job in (1, 2, 3):
        log = (tmp_path / f"log/x.{job}.log").read_text().splitlines()
        assert log[0] == f"# echo {job} 'it'\"'\"'s \"{job}\"' $FROM_PATH_SH"
        assert log[1] == f"# Running on {os.uname().nodename}"
        assert log[2].startswith("# Started at ")
        assert log[4] == f'{job} it\'s "{job}" sourced'
        assert re.fullmatch(r"# Accounting: time=\d+ threads=1", log[-2])
        assert log[-1].startswith("# Ended (code 0) at ")
    assert sorted(path.name for path in (tmp_path / "log/q").iterdir()) == ["x.out", "x.sh"]

    # A single job, and the resources that it gets.
    command = ["echo", "cpus=$SLURM_CPUS_PER_TASK", "partition=$SLURM_JOB_PARTITION", "array=$SLURM_ARRAY_TASK_ID"]
    assert run("--num-threads", "3", "--time", "5", "-p", "short", "x.log", *command).returncode == 0
    assert body(tmp_path / "x.log") == "cpus=3 partition=short array=\n"
    assert "# Accounting: time=" in (tmp_path / "x.log").read_text()

    # A failed task is named.
    result = run("JOB=1:3", "log/x.JOB.log", "test", "JOB", "-ne", "2", "||", "exit", "7")
    assert result.returncode == 1
    assert result.stderr == "slurm.pl: 1 / 3 failed, log is in log/x.*.log (jobs 2; first: code 7, log/x.2.log)\n"
    assert "# Ended (code 7) at" in (tmp_path / "log/x.2.log").read_text()

    # No more tasks run at once than --max-jobs-run allows.
    (tmp_path / "count.sh").write_text("touch run.$BASHPID; set -- run.*; echo $#; sleep 0.3; rm run.$BASHPID")
    assert run("--max-jobs-run", "2", "JOB=1:4", "JOB.log", "bash", "count.sh").returncode == 0
    assert max(int(body(tmp_path / f"{job}.log")) for job in range(1, 5)) == 2

    # Slurm refuses a submission.
    result = run("-p", "nosuchpartition", "x.log", "true")
    assert result.returncode == 1
    assert result.stderr.startswith("slurm.pl: sbatch ") and "invalid partition" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_jobs_that_are_stopped_in_slurm(slurm, tmp_path):
    # Someone else cancels the job.
    process = start_sleeper(slurm, tmp_path / "cancelled")
    subprocess.run(["scancel", *jobs_of(slurm)], env=slurm, check=True)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "slurm.pl: job failed (ended by the grid, see " in said and "log is in x.log" in said

    # Stopping the launcher cancels its job.
    process = start_sleeper(slurm, tmp_path / "stopped")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    for _ in range(300):
        if not jobs_of(slurm):
            return
        time.sleep(0.1)
    pytest.fail("the job outlived its launcher")
