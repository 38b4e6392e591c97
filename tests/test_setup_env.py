"""utils/setup_env.sh and utils/run_tests.sh: which Python they find, and what they install."""

import os
import shutil
import subprocess

import pytest
from kaldi_support import ROOT


def bash(folder, *arguments, path):
    return subprocess.run(
        [shutil.which("bash"), *arguments],
        cwd=folder,
        env={"PATH": str(path), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def run_tests(folder, *arguments, path):
    return bash(folder, "utils/run_tests.sh", *arguments, path=path)


@pytest.fixture
def path(tmp_path):
    """Make a bare checkout; return a PATH with the few programs that the scripts need, and no Python."""
    (tmp_path / "utils").mkdir()
    for name in ("utils/setup_env.sh", "utils/run_tests.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("bash", "cat", "cksum", "dirname", "mkdir", "cp"):
        os.symlink(shutil.which(name), path / name)
    return path


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


def python(tmp_path, path, folder):
    """Make an interpreter at ``path``.

    Its venv in ``folder`` has a pip that writes what it is asked for into pip.log, and a python3 that does the same in
    python.log.
    """
    script(tmp_path / "venv" / "pip", f'[ "$1" = --version ] || echo "$*" >> {tmp_path}/pip.log')
    script(tmp_path / "venv" / "python3", f'echo "$*" >> {tmp_path}/python.log')
    script(tmp_path / "venv" / "activate", f"PATH={folder}:$PATH VIRTUAL_ENV={folder.parent}")
    copy = f'[ "$1" != -m ] || {{ mkdir -p {folder} && cp {tmp_path}/venv/* {folder}; }}'
    script(path, f'[ "$1" != -c ] || [ -z "$2" ] || exit 1; {copy}')


def lines(path):
    return path.read_text().splitlines()


def test_k2_needs_python_3_9(tmp_path, path):
    script(path / "python3.9", "echo 'pyenv: python3.9: command not found' >&2; exit 127")  # as pyenv's shims are
    result = run_tests(tmp_path, "--k2", path=path)
    assert result.returncode == 77
    assert result.stderr.startswith("setup_env.sh: ") and "3.9" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / ".venv-k2").exists()


def test_pyenvs_python_3_9_creates_the_k2_environment(tmp_path, path):
    script(path / "pyenv", f"echo {tmp_path}/pyenv")
    script(path / "python3.9", "exit 127")
    python(tmp_path, tmp_path / "pyenv" / "versions" / "3.9.1" / "bin" / "python3.9", tmp_path / ".venv-k2" / "bin")
    for _ in range(2):  # the second time there is nothing to install
        result = run_tests(tmp_path, "--k2", "-k", "plda", path=path)
        assert result.returncode == 0, result.stderr
    asked = lines(tmp_path / "pip.log")
    assert len(asked) == 1 and asked[0].endswith(f"-c {tmp_path}/constraints.txt -e {tmp_path}[demo,k2,test]")
    imported, pytest_call = lines(tmp_path / "python.log")[-2:]
    assert imported == "-c import k2"
    assert pytest_call.startswith("-m pytest -n auto ") and pytest_call.endswith(" -k plda")


@pytest.mark.parametrize("arguments", [["-n", "0", "-x"], ["-n3"], ["--numprocesses=2"], ["--pdb"]])
def test_processes_are_the_users_choice(tmp_path, path, arguments):
    python(tmp_path, path / "python3", tmp_path / ".venv" / "bin")
    assert run_tests(tmp_path, *arguments, path=path).returncode == 0
    assert lines(tmp_path / "python.log")[-1] == " ".join(["-m pytest -m not slow", *arguments])


def test_extras_are_added_and_stay(tmp_path, path):
    python(tmp_path, path / "python3", tmp_path / ".venv" / "bin")
    for extra in ("", "test", "demo", "", "lint,test", "demo,lint"):
        result = bash(
            tmp_path, "-c", f"set -eu; sdpn_k2_extra={extra}; . utils/setup_env.sh; command -v pip", path=path
        )
        assert result.returncode == 0 and result.stdout == f"{tmp_path}/.venv/bin/pip\n", result.stderr
    asked = [line.rpartition("-e ")[2] for line in lines(tmp_path / "pip.log")]
    assert asked == [str(tmp_path) + extras for extras in ("", "[test]", "[test,demo]", "[test,demo,lint]")]
    with open(tmp_path / "pyproject.toml", "a") as stream:
        stream.write("# changed\n")
    assert bash(tmp_path, "-c", ". utils/setup_env.sh", path=path).returncode == 0
    assert lines(tmp_path / "pip.log")[-1].endswith("[test,demo,lint]") and len(lines(tmp_path / "pip.log")) == 5


@pytest.mark.parametrize("remains", ["python3 without pip", "nothing that starts"])
def test_a_broken_environment_is_recreated(tmp_path, path, remains):
    folder = tmp_path / ".venv" / "bin"
    if remains == "python3 without pip":  # what venv leaves if the system's Python has no ensurepip
        script(folder / "python3", "")
    else:  # what an upgrade of the system's Python leaves
        script(folder / "pip", "")
        (folder / "pip").write_text(f"#!{folder}/python3\n")
        (folder / "python3").symlink_to(tmp_path / "gone")
        made_of = b"".join((tmp_path / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
        checksum = subprocess.run(["cksum"], input=made_of, stdout=subprocess.PIPE).stdout.decode()
        (tmp_path / ".venv" / ".installed").write_text(f"{checksum}\n")
    script(path / "python3", f'[ "$1" = -m ] && echo "$*" >> {tmp_path}/python.log')
    bash(tmp_path, "-c", ". utils/setup_env.sh", path=path)
    assert lines(tmp_path / "python.log") == [f"-m venv --clear {tmp_path}/.venv"]
