"""run.pl and queue.pl: commands, logs, exit statuses, limits, and requests to a grid (a stand-in for qsub)."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[1] / "utils"


@pytest.fixture
def run(tmp_path):
    """Call a launcher in an empty folder."""

    def call(*arguments, launcher="run.pl", **environment):
        return subprocess.run(
            [str(UTILS / launcher), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env=dict(os.environ, **environment),
        )  # fmt: skip

    return call


def body(log: Path) -> str:
    """What the command printed, without the launcher's header and footer."""
    return "".join(line for line in log.read_text().splitlines(True) if not line.startswith("#"))


# run.pl


def test_log_has_header_output_and_footer(run, tmp_path):
    result = run("log/deep/x.log", "echo", "hi", "there", "\\;", "echo", "err", ">&2")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    lines = (tmp_path / "log/deep/x.log").read_text().splitlines()
    assert lines[0] == "# echo hi there \\; echo err >&2"
    assert lines[1] == f"# Running on {os.uname().nodename}"
    assert re.fullmatch(r"# Started at \w+ .*\d\d:\d\d:\d\d.*", lines[2])
    assert re.fullmatch(r"# Accounting: time=\d+ threads=1", lines[-2])
    assert re.fullmatch(r"# Ended \(code 0\) at .*\d\d:\d\d:\d\d.*, elapsed time \d+ seconds", lines[-1])


def test_job_number_replaces_its_name_in_command_and_log(run, tmp_path):
    assert run("JOB=3:5", "log/x.JOB.log", "echo", "JOB", "part.JOB.ark").returncode == 0
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["x.3.log", "x.4.log", "x.5.log"]
    assert body(tmp_path / "log/x.4.log") == "4 part.4.ark\n"


def test_other_names_of_the_job_and_a_single_one(run, tmp_path):
    assert run("LMWT=7:8", "log/LMWT/x.log", "echo", "w=LMWT").returncode == 0
    assert body(tmp_path / "log/8/x.log") == "w=8\n"
    assert run("JOB=2", "one.JOB.log", "echo", "JOB").returncode == 0
    assert body(tmp_path / "one.2.log") == "2\n"


@pytest.mark.parametrize(
    "words, printed",
    [
        (["echo", "a  b"], "a  b\n"),  # one argument with spaces stays one
        (["printf", "'[%s]\\n'", "", "x"], "[]\n[x]\n"),
        (["echo", 'say "hi there"'], 'say "hi there"\n'),
        (["echo", "it's mine"], "it's mine\n"),
        (["echo", 'it\'s "both" $HOME'], 'it\'s "both" $HOME\n'),
        (["echo", "b\\na", "|", "cat"], "bna\n"),  # and its backslashes
        (["echo", "x", "|", "sed", "s/x/y z/"], "y z\n"),
        (["true", "&&", "echo", "and"], "and\n"),
        (["echo", "$((1+2))"], "3\n"),  # bash sees words without spaces as they are
        (["V=7;", "echo", "$V and"], "$V and\n".replace("$V", "7")),  # and expands in double quotes, as with Kaldi
        (["cat"], ""),  # standard input is empty, not the terminal
    ],
)
def test_arguments_are_quoted_by_kaldis_rule(run, tmp_path, words, printed):
    assert run("x.log", *words).returncode == 0, (tmp_path / "x.log").read_text()
    assert body(tmp_path / "x.log") == printed


def test_very_long_command(run, tmp_path):
    words = [f"word{number}" for number in range(30000)]
    assert run("x.log", "echo", *words).returncode == 0
    assert body(tmp_path / "x.log") == " ".join(words) + "\n"


def test_failure_names_log_code_and_last_line(run, tmp_path):
    result = run("log/x.log", "echo", "cannot do it", ";", "exit", "3")
    assert result.returncode == 1
    assert result.stderr == "run.pl: job failed (code 3), log is in log/x.log\nrun.pl: its last line: cannot do it\n"
    assert "# Ended (code 3) at" in (tmp_path / "log/x.log").read_text()


def test_other_jobs_finish_when_some_fail(run, tmp_path):
    result = run("JOB=1:5", "log/x.JOB.log", "test", "$((JOB%2))", "=", "1", "&&", "echo", "done")
    assert result.returncode == 1
    assert "run.pl: 2 / 5 failed, log is in log/x.*.log (jobs 2 4; first: code 1, log/x.2.log)" in result.stderr
    assert [body(tmp_path / f"log/x.{job}.log") for job in (1, 3, 5)] == ["done\n"] * 3


@pytest.mark.parametrize("command, code", [
    ("false | cat", 1),
    ("yes | head -n 1", 0),  # its reader has seen enough
    ("yes | head -n 1 # as here", 0),
    ("(exit 3) | yes | head -n 1", 3),
    ("true | (exit 141)", 141),
    ("exit 4", 4),
    ("if", 1),
    ("echo 'open", 1),
])  # fmt: skip
def test_failure_anywhere_in_a_pipe_counts(run, tmp_path, command, code):
    assert run("x.log", *command.split()).returncode == (code > 0), (tmp_path / "x.log").read_text()
    assert f"# Ended (code {code}) at" in (tmp_path / "x.log").read_text()


def test_jobs_are_picked_by_their_earlier_status(run, tmp_path):
    command = ["echo", "x", ">>", "ran.JOB", ";", "test", "-e", "good", "-o", "JOB", "=", "1"]
    assert run("JOB=1:3", "log/x.JOB.log", *command).returncode == 1
    (tmp_path / "log/x.3.log").write_text("# Started\n")
    result = run("--pick", "incomplete", "JOB=1:3", "log/x.JOB.log", *command)
    assert "2 / 3 failed" in result.stderr and (tmp_path / "ran.3").read_text() == "x\n" * 2
    (tmp_path / "good").write_text("")
    assert run("--pick", "failed", "JOB=1:4", "log/x.JOB.log", *command).returncode == 0
    assert run("--pick", "failed", "JOB=1:4", "log/x.JOB.log", *command).returncode == 0
    assert [len((tmp_path / f"ran.{job}").read_text()) // 2 for job in (1, 2, 3, 4)] == [1, 2, 3, 1]
    result = run("--pick", "good", "JOB=1:3", "log/x.JOB.log", *command)
    assert result.returncode == 1 and "--pick" in result.stderr and "'good'" in result.stderr


def test_killed_job(run, tmp_path):
    result = run("x.log", "kill", "-9", "$BASHPID")
    assert (result.returncode, "code 137" in result.stderr) == (1, True)
    result = run("x.log", "kill", "-9", "$$")  # the shell that would have written the footer
    assert (result.returncode, "signal 9" in result.stderr) == (1, True)
    assert (tmp_path / "x.log").read_text().splitlines()[-1].startswith("# Ended (code 0; signal 9) at")


def test_syntax_error_in_the_command(run, tmp_path):
    result = run("x.log", "echo", "(", "a")
    assert (result.returncode, "x.log" in result.stderr, "syntax error" in body(tmp_path / "x.log")) == (1, True, True)


@pytest.mark.parametrize("options", [["--max-jobs-run", "2"], ["-tc", "2"], ["--max-jobs-run=2"]])
def test_max_jobs_run_limits_parallel_jobs(run, tmp_path, options):
    (tmp_path / "count.sh").write_text("touch run.$BASHPID; set -- run.*; echo $#; sleep 0.3; rm run.$BASHPID")
    assert run(*options, "JOB=1:6", "log/JOB.log", "bash", "count.sh").returncode == 0
    counts = [int(body(tmp_path / f"log/{job}.log")) for job in range(1, 7)]
    assert max(counts) == 2


def test_grid_options_are_accepted_and_threads_reported(run, tmp_path):
    options = "--mem 4G -l ram_free=1G,mem_free=1G -q all.q -V -pe smp 3 -sync y --num-threads 3 --config conf/none"
    assert run(*options.split(), "JOB=1:2", "--time", "1:00:00", "JOB.log", "echo", "JOB").returncode == 0
    assert "# Accounting: time=0 threads=3" in (tmp_path / "2.log").read_text().replace("time=1", "time=0")


def test_each_job_gets_its_own_graphics_cards(run, tmp_path):
    command = ["--gpu", "2", "JOB=1:4", "JOB.log", "echo", "$CUDA_VISIBLE_DEVICES", ";", "sleep", "0.2"]
    assert run(*command, CUDA_VISIBLE_DEVICES="0,3,5,6").returncode == 0
    assert {body(tmp_path / f"{job}.log") for job in range(1, 5)} == {"0,3\n", "5,6\n"}
    result = run(*command, CUDA_VISIBLE_DEVICES="0")
    assert (result.returncode, result.stderr) == (1, "run.pl: --gpu 2: this machine has only 1\n")


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["JOB=1:3", "x.log", "true"], ["3 jobs", "x.log", "JOB"]),
        (["N=0:3", "x.log", "true"], ["N=0:3"]),
        (["N=3:1", "x.log", "true"], ["N=3:1"]),
        (["x.log"], ["usage: run.pl"]),
        (["--max-jobs-run", "two", "x.log", "true"], ["--max-jobs-run", "'two'"]),
        (["file/x.log", "true"], ["file: File exists"]),
    ],
)
def test_unusable_command_lines(run, tmp_path, arguments, parts):
    (tmp_path / "file").write_text("")
    result = run(*arguments)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("run.pl: ") and all(part in result.stderr for part in parts)


def test_repeated_options(run, tmp_path):
    assert run("JOB=1:4", "JOB=2:3", "x.JOB.log", "echo", "JOB").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.2.log", "x.3.log"]
    count = "echo x >> running; wc -l < running; sleep 0.2; sed -i 1d running"
    for limits in (["--max-jobs-run", "3", "--max-jobs-run", "1"], ["-tc", "1", "--max-jobs-run=3"]):
        assert run(*limits, "JOB=1:3", "y.JOB.log", "eval", count).returncode == 0
        assert [body(tmp_path / f"y.{job}.log").split() for job in (1, 2, 3)] == [["1"]] * 3


def test_log_that_looks_like_a_job_range(run, tmp_path):
    result = run("a=b:c.log", "echo", "hello")
    assert (result.returncode, body(tmp_path / "a=b:c.log")) == (0, "hello\n")
    assert result.stderr.startswith("run.pl: warning: 'a=b:c.log'")


def test_missing_command_is_quoted(run):
    result = run("x.log", "no-such-tool", "a", "|", "sh", "-c", "sleep 0.3; echo late; exit 127")
    assert result.returncode == 1 and "no-such-tool: command not found" in result.stderr


def test_forgotten_job_range_is_guessed(run):
    assert "JOB=1:$nj" in run("x.JOB.log", "false").stderr


def test_jobs_end_with_the_launcher(tmp_path):
    process = subprocess.Popen(
        [str(UTILS / "run.pl"), "JOB=1:2", "-tc", "2", "JOB.log", "echo", "$BASHPID", ";", "exec", "sleep", "60"],
        cwd=tmp_path,
    )
    logs = [tmp_path / "1.log", tmp_path / "2.log"]
    while not all(log.exists() and body(log) for log in logs):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    for log in logs:
        for _ in range(500):
            if not Path(f"/proc/{body(log).strip()}").exists():
                break
            time.sleep(0.02)
        else:
            pytest.fail("a job outlived its launcher")


def test_runs_without_perl(run):
    assert run("x.log", "echo", "$PATH", PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin").returncode == 0
    assert (UTILS / "run.pl").read_text().startswith("#!/usr/bin/env python3")


# queue.pl, with a qsub that runs the tasks in the background, one after the other


QSUB = """\
#!/usr/bin/env bash
printf '%s\\n' "$@" > "$GRID/arguments"
first= last= tasks= output=/dev/null
while [ $# -gt 1 ]; do
  case $1 in
    -t) tasks=$2; shift 2 ;;
    -o) output=$2; shift 2 ;;
    -v | -S | -j | -l | -q | -tc) shift 2 ;;
    -pe) shift 3 ;;
    -cwd | -V) shift ;;
    *) echo "Unknown option $1" >&2; exit 7 ;;
  esac
done
[ -z "$REFUSE" ] || { echo "Unable to run job: $REFUSE." >&2; exit 1; }
if [ -n "$tasks" ]; then
  for task in $(seq "${tasks%-*}" "${tasks#*-}"); do
    [ "$task" = "$LOSE" ] || SGE_TASK_ID=$task bash "$1" >> "$output" 2>&1
  done &
  echo "Your job-array 4711.$tasks:1 (\\"x\\") has been submitted"
else
  SGE_TASK_ID=undefined bash "$1" >> "$output" 2>&1 &
  echo 'Your job 4711 ("x") has been submitted'
fi
"""


@pytest.fixture
def grid(run, tmp_path):
    folder = tmp_path / "grid"
    folder.mkdir()
    for name, text in (("qsub", QSUB), ("qstat", "#!/bin/sh\necho 'Following jobs do not exist: 4711' >&2\nexit 1\n")):
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)

    def call(*arguments, launcher="queue.pl", **environment):
        path = f"{folder}:{os.environ['PATH']}"
        return run(*arguments, launcher=launcher, PATH=path, GRID=str(folder), **environment)

    call.arguments = lambda: (folder / "arguments").read_text().split("\n")[:-1]
    return call


def test_queue_submits_an_array_and_waits(grid, tmp_path):
    (tmp_path / "path.sh").write_text("export FROM_PATH_SH=sourced\n")
    result = grid("JOB=1:3", "log/x.JOB.log", "echo", "JOB", 'it\'s "JOB"', "$FROM_PATH_SH")
    assert (result.returncode, result.stderr) == (0, "")
    assert body(tmp_path / "log/x.2.log") == '2 it\'s "2" sourced\n'
    arguments = grid.arguments()
    assert arguments[:7] == ["-v", "PATH", "-cwd", "-S", "/bin/bash", "-j", "y"]
    assert arguments[arguments.index("-t") + 1] == "1-3"
    assert sorted(path.name for path in (tmp_path / "log/q").iterdir()) == ["x.out", "x.sh"]


def test_queue_single_job(grid, tmp_path):
    assert grid("log/7.log", "echo", "once").returncode == 0
    assert body(tmp_path / "log/7.log") == "once\n"
    assert "-t" not in grid.arguments()
    assert grid.arguments()[-1].endswith("/q/q7.sh")  # SGE wants job names to begin with a letter


def test_queue_failure_names_jobs_and_log(grid):
    result = grid("JOB=1:3", "log/x.JOB.log", "test", "JOB", "-ne", "2")
    assert result.returncode == 1
    assert result.stderr == "queue.pl: 1 / 3 failed, log is in log/x.*.log (jobs 2; first: code 1, log/x.2.log)\n"


def test_queue_notices_a_task_that_the_grid_lost(grid, tmp_path):
    impatient = tmp_path / "queue.pl"
    impatient.write_text(
        "#!/usr/bin/env python3\nimport runpy, sys\n"
        f"sys.path.insert(0, '{UTILS / 'parallel'}')\nimport launcher\nlauncher.LOOK = launcher.GRACE = 0.3\n"
        f"runpy.run_path('{UTILS / 'queue.pl'}', run_name='__main__')\n"
    )
    impatient.chmod(0o755)
    result = grid("JOB=1:2", "log/x.JOB.log", "echo", "JOB", LOSE="2", launcher=impatient)
    assert result.returncode == 1
    assert "queue.pl: 1 / 2 failed" in result.stderr and "ended by the grid" in result.stderr


def test_queue_that_rejects_the_job(grid, tmp_path):
    result = grid("x.log", "true", REFUSE="no suitable queues")
    assert result.returncode == 1
    assert result.stderr.endswith("failed with status 1: Unable to run job: no suitable queues.\n")
    assert not list(tmp_path.glob("q/*.ended"))


@pytest.mark.parametrize(
    "options, expected",
    [
        ("--mem 4G", "-l mem_free=4G,ram_free=4G"),
        ("--mem 0", ""),
        ("--num-threads 4", "-pe smp 4"),
        ("--num-threads 1", ""),
        ("--max-jobs-run 2", "-tc 2"),
        ("-tc 2", "-tc 2"),
        ("--gpu 1", "-l gpu=1 -q g.q"),
        ("--gpu 0", ""),
        ("-l arch=lx -q long.q -V -pe mpi 2", "-l arch=lx -q long.q -V -pe mpi 2"),
    ],
)
def test_queue_options_become_qsub_options(grid, options, expected):
    assert grid(*options.split(), "x.log", "true").returncode == 0
    arguments = grid.arguments()
    assert arguments[7 : arguments.index("-o")] == expected.split()


CONFIG = """\
# our site
command qsub -v PATH -cwd -S /bin/bash -j y -l site=here   # always
option mem=* -l h_vmem=$0
option disk=fast -q "ssd.q"
default gpu=0
option gpu=0
option gpu=* -l gpu=$0
"""


def test_queue_reads_the_sites_configuration(grid, tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/queue.conf").write_text(CONFIG)
    assert grid("--mem", "2G", "--disk", "fast", "x.log", "true").returncode == 0
    arguments = grid.arguments()
    assert arguments[7 : arguments.index("-o")] == ["-l", "site=here", "-l", "h_vmem=2G", "-q", "ssd.q"]
    for options, message in (
        (["--disk", "slow"], "option --disk slow is not described in conf/queue.conf: add 'option disk=slow …'"),
        (["--config", "no.conf"], "no.conf: No such file or directory"),
    ):
        result = grid(*options, "x.log", "true")
        assert (result.returncode, result.stderr) == (1, f"queue.pl: {message}\n")
    (tmp_path / "bad.conf").write_text("option mem=*\nqsub -V\n")
    result = grid("--config", "bad.conf", "x.log", "true")
    assert result.returncode == 1 and "bad.conf:2: expected 'command" in result.stderr


def test_both_folders_have_the_launchers():
    for name in ("run.pl", "slurm.pl", "queue.pl"):
        assert (UTILS / name).resolve() == UTILS / "parallel" / name


def test_default_configurations_use_kaldis_language():
    for name in ("slurm.pl", "queue.pl"):
        default = re.search(r'DEFAULT = """\\\n(.*?)"""', (UTILS / name).read_text(), re.DOTALL)[1]
        assert {line.split()[0] for line in default.splitlines()} == {"command", "option"}
