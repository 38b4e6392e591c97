r"""Shared parts of run.pl, slurm.pl and queue.pl: command line, job script, log, and waiting for a grid.

    run.pl [options] [JOB=1:8] LOG COMMAND...

Each job runs COMMAND in bash, after its number has replaced every JOB in COMMAND and LOG. Its log reads

    # compute-thing --opt x.3.scp
    # Running on node7
    # Started at Mon Nov 23 10:00:00 UTC 2026
    #
    ... what the command printed ...
    # Accounting: time=12 threads=1
    # Ended (code 0) at Mon Nov 23 10:00:12 UTC 2026, elapsed time 12 seconds

The launcher exits with 0 if every job ended with code 0. Otherwise it names the logs of the failed jobs and exits
with 1.

An argument without white space goes to bash as it is, so that \| and \> and \&\& work as operators. One with white
space is quoted: with double quotes, or with single quotes if it contains double quotes. This is Kaldi's rule. Unlike
in Kaldi, a job also fails if any part of a pipe fails, unless that part only wrote more than its reader wanted
(`yes | head`). The module uses the standard library only, because it starts before every command of a recipe.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import Callable, Dict, List, NamedTuple, Optional

_JOB_SCRIPT = """\
_log={log}
_command={command}
{substitution}\
{{ printf '# %s\\n' "$_command"; echo "# Running on $(hostname)"; echo "# Started at $(date)"; echo '#'; }} \\
  > "$_log" || exit 1
_start=$(date +%s)
( set -o pipefail
  _code=1
  eval "$_command"'

_code=$? _codes=("${{PIPESTATUS[@]}}")'
  # 141: a writer ends by SIGPIPE when its reader stops early, like head. That alone is not a failure.
  if [ $_code = 141 ] && [ "${{_codes[${{#_codes[@]}}-1]}}" != 141 ]; then
    _code=0
    for _part in "${{_codes[@]}}"; do [ $_part = 0 ] || [ $_part = 141 ] || _code=$_part; done
  fi
  exit $_code ) < /dev/null >> "$_log" 2>&1
_code=$?
_time=$(($(date +%s) - _start))
{{ echo "# Accounting: time=$_time threads={threads}"
  echo "# Ended (code $_code) at $(date), elapsed time $_time seconds"; }} >> "$_log"
"""


class LaunchError(Exception):
    """The jobs cannot be started or watched; the message gives the reason."""


class Launch(NamedTuple):
    """One command line of a launcher."""

    program: str  # run.pl, slurm.pl or queue.pl
    options: Dict[str, str]  # --num-threads 4 as num_threads: 4
    grid_options: List[str]  # options with one dash, which the grid's own submit command understands
    job_name: Optional[str]  # "JOB" in JOB=1:8; None for a single job
    first: int
    last: int
    log: str
    command: str  # for bash

    @property
    def threads(self) -> int:
        """Threads of each job."""
        return self.number("num_threads", 1)

    def number(self, option: str, default: int) -> int:
        """Return the value of an option that must be a whole number of at least 0."""
        value = self.options.get(option, str(default))
        if not value.isdigit():
            raise LaunchError(f"option --{option.replace('_', '-')} needs a number, got '{value}'")
        return int(value)

    def log_of(self, job: object) -> str:
        """Return the log of a job."""
        return self.log.replace(self.job_name, str(job)) if self.job_name else self.log

    def script(self) -> str:
        """Return the bash script of a job; it reads the variable _job and sets _code."""
        name = self.job_name
        return _JOB_SCRIPT.format(
            log=shlex.quote(self.log),
            command=shlex.quote(self.command),
            substitution=f"_log=${{_log//{name}/$_job}} _command=${{_command//{name}/$_job}}\n" if name else "",
            threads=self.threads,
        )


def parse(argv: List[str]) -> Launch:
    """Read a launcher's command line, program name first.

    Raises:
        LaunchError: an option or job range is malformed, the command is missing, or several jobs share a log.
    """
    program, arguments = os.path.basename(argv[0]), list(argv[1:])
    options: Dict[str, str] = {}
    grid_options: List[str] = []
    job_name, first, last = None, 1, 1
    while len(arguments) >= 2:
        head = arguments[0]
        jobs = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", head)
        if head == "-sync":
            del arguments[:2]
        elif head == "-tc" or (head.startswith("--") and len(head) > 2):
            name, equals, value = ("--max-jobs-run" if head == "-tc" else head)[2:].partition("=")
            name, value = name.replace("-", "_"), value if equals else arguments[1]
            if name == "max_jobs_run" and name in options and value.isdigit() and options[name].isdigit():
                value = min(value, options[name], key=int)  # the caller's limit and a script's own: both must hold
            options[name] = value
            del arguments[: 1 if equals else 2]
        elif head.startswith("-"):
            size = {"-V": 1, "-pe": 3}.get(head, 2)
            grid_options += arguments[:size]
            del arguments[:size]
        elif jobs:  # the last one counts
            job_name, first, last = jobs[1], int(jobs[2]), int(jobs[3] or jobs[2])
            if not 1 <= first <= last:
                raise LaunchError(f"invalid job range {head}: expected JOB=first:last with 1 <= first <= last")
            del arguments[0]
        else:
            if "=" in head and ":" in head:
                print(f"{program}: warning: '{head}' is a log file, not a job range such as JOB=1:8", file=sys.stderr)
            break
    if len(arguments) < 2:
        raise LaunchError(f"usage: {program} [options] [JOB=1:n] log-file command arguments...")
    log, words = arguments[0], arguments[1:]
    if last > first and job_name not in log:
        raise LaunchError(f"{last - first + 1} jobs cannot share the log {log}; add {job_name} to its name")
    return Launch(program, options, grid_options, job_name, first, last, log, " ".join(map(_shell_word, words)))


def _shell_word(word: str) -> str:
    if re.fullmatch(r"\S+", word, re.ASCII):
        return word
    if '"' not in word:
        return f'"{word}"'
    return f"'{word}'" if "'" not in word else shlex.quote(word)


def main(run_jobs: Callable[[Launch], Dict[int, str]]) -> int:
    """Run the command line with ``run_jobs``, which returns why each failed job failed; return the exit status."""
    program = os.path.basename(sys.argv[0])
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(sys.modules["__main__"].__doc__.strip())
        return 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        launch = parse(sys.argv)
        for job in range(launch.first, launch.last + 1):
            os.makedirs(os.path.dirname(launch.log_of(job)) or ".", exist_ok=True)
        failed = run_jobs(launch)
    except LaunchError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{program}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    if failed:
        _report(launch, failed)
    return 1 if failed else 0


def _interrupt(number: int, _frame: object) -> None:
    """Turn the first signal into SystemExit, so that the jobs are ended on the way out; ignore later ones."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def _report(launch: Launch, failed: Dict[int, str]) -> None:
    job, reason = min(failed.items())
    log = launch.log_of(job)
    if launch.last > launch.first:
        count = f"{len(failed)} / {launch.last - launch.first + 1} failed"
        jobs = " ".join(map(str, sorted(failed)))
        print(
            f"{launch.program}: {count}, log is in {launch.log_of('*')} (jobs {jobs}; first: {reason}, {log})",
            file=sys.stderr,
        )
    else:
        print(f"{launch.program}: job failed ({reason}), log is in {log}", file=sys.stderr)
        if launch.job_name is None and "JOB" in log:
            print(f"{launch.program}: JOB=1:$nj seems to be missing before the log's name", file=sys.stderr)
    try:
        with open(log, errors="replace") as stream:
            lines = [line.strip() for line in stream if line.strip() and not line.startswith("#")]
    except OSError:
        return
    # In a pipe, other commands print more after the shell has said which one it did not find.
    unfound = [line for line in lines if "not found" in line or "No such file" in line] if reason == "code 127" else []
    if unfound:
        print(f"{launch.program}: it says: {unfound[-1]}", file=sys.stderr)
    elif lines:
        print(f"{launch.program}: its last line: {lines[-1]}", file=sys.stderr)


# Grids: slurm.pl and queue.pl write one script, submit it as an array, and watch for the files that its tasks write.


class Grid(NamedTuple):
    """The commands of a batch system; {id} in them stands for the number of the submitted job."""

    config: str  # the site's configuration file, optional
    default_config: str  # like Kaldi's conf/queue.conf: "command", "option NAME=VALUE OPTIONS", "default NAME=VALUE"
    array: str  # with {first}, {last} and, if the system supports it, {limit}
    output: List[str]
    task: str  # shell variable with a task's number
    submitted: str  # pattern of the number in the output of the submit command
    alive: List[str]  # succeeds and prints something while a task waits or runs
    gone: str  # pattern of its error message for a number that it does not know (any more)
    cancel: List[str]


# Seconds: the interval between queries to the grid, and the delay of a shared file system.
LOOK, GRACE = 3.0, 10.0


def run_on_grid(launch: Launch, grid: Grid) -> Dict[int, str]:
    """Submit the jobs and wait until each has ended; return why each failed job failed."""
    folder = os.path.join(os.path.dirname(os.path.abspath(launch.log_of(launch.first))), "q")
    base = os.path.basename(launch.log_of("")).replace("..", ".")
    base = base[: -len(".log")] if base.endswith(".log") else base
    if not base[:1].isalpha():
        base = f"q{base}"  # SGE names the job after the script, and job names begin with a letter.
    ended = os.path.join(folder, f"{base}.{os.uname().nodename}.{os.getpid()}.ended")
    script, output = os.path.join(folder, f"{base}.sh"), os.path.join(folder, f"{base}.out")
    os.makedirs(ended)
    try:
        with open(script, "w") as stream:
            stream.write(_grid_script(launch, grid, ended))
        number = _submit(launch, grid, script, output)
        try:
            codes = _wait(launch, grid, number, ended)
        except SystemExit:
            subprocess.run([word.format(id=number) for word in grid.cancel], stdout=subprocess.DEVNULL)
            raise
    finally:
        for name in os.listdir(ended):
            os.unlink(os.path.join(ended, name))
        os.rmdir(ended)
    return {
        job: f"code {codes[job]}" if job in codes else f"ended by the grid, see {output}"
        for job in range(launch.first, launch.last + 1)
        if codes.get(job) != "0"
    }


def _grid_script(launch: Launch, grid: Grid, ended: str) -> str:
    task = grid.task if launch.job_name else ""
    return (
        "#!/bin/bash\n"
        f"cd {shlex.quote(os.getcwd())} || exit 1\n"
        "[ ! -f ./path.sh ] || . ./path.sh\n"
        f"_job={f'${task}' if task else launch.first}\n"
        f"{launch.script()}"
        # Renamed into place, so that the file appears with its content.
        f"_ended={shlex.quote(ended)}/$_job\n"
        'echo "$_code" > "$_ended.part" && mv "$_ended.part" "$_ended"\n'
        "exit $_code\n"
    )


def _submit(launch: Launch, grid: Grid, script: str, output: str) -> str:
    limit = launch.number("max_jobs_run", 0)
    command = grid_command(launch, grid) + [word.format(output=output) for word in grid.output]
    if launch.job_name:
        array = grid.array.format(first=launch.first, last=launch.last, limit=f"%{limit}" if limit else "")
        command += array.split()
    command.append(script)
    try:
        answer = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise LaunchError(f"cannot run {command[0]}: {error.strerror}") from None
    number = re.search(grid.submitted, answer.stdout)
    if answer.returncode or not number:
        said = " ".join((answer.stderr or answer.stdout).split()) or "no message"
        raise LaunchError(f"{shlex.join(command)} failed with status {answer.returncode}: {said}")
    return number[1]


def _wait(launch: Launch, grid: Grid, number: str, ended: str) -> Dict[int, str]:
    """Wait until every task has written its exit status into ``ended``, or the grid does not know the job any more."""
    jobs = {str(job) for job in range(launch.first, launch.last + 1)}
    pause, last_look, gone_since = 0.1, time.monotonic(), None
    while True:
        # A change from here makes NFS read the folder again.
        touched = os.path.join(ended, "touched")
        with open(touched, "w"):
            pass
        os.unlink(touched)
        done = jobs.intersection(os.listdir(ended))
        now = time.monotonic()
        if done == jobs or (gone_since is not None and now - gone_since > GRACE):
            break
        if gone_since is None and now - last_look >= LOOK:
            last_look = now
            if not _is_alive(grid, number):
                gone_since = now
        time.sleep(pause)
        pause = min(1.2 * pause, 3.0)
    codes = {}
    for job in done:
        with open(os.path.join(ended, job)) as stream:
            codes[int(job)] = stream.read().strip()
    return codes


def _is_alive(grid: Grid, number: str) -> bool:
    answer = subprocess.run([word.format(id=number) for word in grid.alive], capture_output=True, text=True)
    if answer.returncode == 0:
        return bool(answer.stdout.strip())
    # If the controller does not answer, the job may still be alive.
    return not re.search(grid.gone, answer.stderr)


def grid_command(launch: Launch, grid: Grid) -> List[str]:
    """Return the submit command, with the options of this command line translated by the configuration.

    Raises:
        LaunchError: the configuration is malformed, or does not describe an option.
    """
    path = launch.options.get("config", grid.config)
    text, where = grid.default_config, f"{launch.program}'s configuration"
    if "config" in launch.options or os.path.exists(path):
        with open(path) as stream:
            text, where = stream.read(), path

    command: List[str] = []
    values: Dict[str, str] = {}
    described: Dict[str, Dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#", 1)[0].split(None, 2)
        name, equals, value = words[1].partition("=") if len(words) > 1 else ("", "", "")
        if not words:
            continue
        if words[0] == "command" and len(words) > 1:
            command = shlex.split(line.split("#", 1)[0])[1:]
        elif words[0] == "option" and equals:
            described.setdefault(name, {})[value] = words[2] if len(words) > 2 else ""
        elif words[0] == "default" and equals and len(words) == 2:
            values[name] = value
        else:
            expected = "'command …', 'option name=value …' or 'default name=value'"
            raise LaunchError(f"{where}:{number}: expected {expected}")
    if not command:
        raise LaunchError(f"{where}: no line 'command …'")

    values.update({name: value for name, value in launch.options.items() if name != "config"})
    for name, value in values.items():
        choices = described.get(name, {})
        if value in choices:
            command += shlex.split(choices[value])
        elif "*" in choices:
            command += shlex.split(choices["*"].replace("$0", value))
        elif name != "max_jobs_run":
            option = f"--{name.replace('_', '-')}"
            raise LaunchError(f"option {option} {value} is not described in {where}: add 'option {name}={value} …'")
    return command + launch.grid_options
