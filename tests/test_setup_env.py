"""utils/setup_env.sh and utils/run_tests.sh: which Python they find."""

import os
import shutil
import subprocess

import pytest
from kaldi_support import ROOT


def run_tests(folder, *arguments, path):
    return subprocess.run(
        [shutil.which("bash"), "utils/run_tests.sh", *arguments],
        cwd=folder,
        env={"PATH": str(path), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def checkout(tmp_path):
    """A bare checkout, and a PATH with the little that the scripts need and no Python."""
    (tmp_path / "utils").mkdir()
    for name in ("utils/setup_env.sh", "utils/run_tests.sh", "setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("bash", "cat", "cksum", "dirname"):
        os.symlink(shutil.which(name), path / name)
    return path


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


def test_without_python_3_9_there_is_no_k2(tmp_path):
    path = checkout(tmp_path)
    script(path / "python3.9", "echo 'pyenv: python3.9: command not found' >&2; exit 127")  # as pyenv's shims are
    result = run_tests(tmp_path, "--k2", path=path)
    assert result.returncode == 77
    assert result.stderr == "setup_env.sh: no Python 3.9 here (python3.9 on PATH, or in pyenv), so no k2\n"
    assert not (tmp_path / ".venv-k2").exists()


def test_python_3_9_of_pyenv_makes_the_environment_of_k2(tmp_path):
    path = checkout(tmp_path)
    script(path / "pyenv", f"echo {tmp_path}/pyenv")
    script(path / "python3.9", "exit 127")
    # An interpreter whose venv has a pip that notes what it is asked for, and a python3 that runs nothing.
    folder = tmp_path / ".venv-k2" / "bin"
    script(tmp_path / "venv" / "pip", f'[ "$1" = --version ] || echo "$*" >> {tmp_path}/pip.log')
    script(tmp_path / "venv" / "python3", f'echo "$*" >> {tmp_path}/python.log')
    script(tmp_path / "venv" / "activate", f"PATH={folder}:$PATH")
    for name in ("mkdir", "cp"):
        os.symlink(shutil.which(name), path / name)
    copy = f'[ "$1" != -m ] || {{ mkdir -p {folder} && cp {tmp_path}/venv/* {folder}; }}'
    script(tmp_path / "pyenv" / "versions" / "3.9.1" / "bin" / "python3.9", copy)
    for _ in range(2):  # the second time nothing is to be installed
        result = run_tests(tmp_path, "--k2", "-k", "plda", path=path)
        assert result.returncode == 0, result.stderr
    asked = (tmp_path / "pip.log").read_text().splitlines()
    assert len(asked) == 1 and asked[0].endswith(f"-c {tmp_path}/constraints.txt -e {tmp_path}[k2,test]")
    assert (tmp_path / "python.log").read_text().splitlines()[-2:] == ["-c import k2", "-m pytest -k plda"]


@pytest.mark.parametrize("left", ["python3 without pip", "nothing that starts"])
def test_a_broken_environment_is_made_anew(tmp_path, left):
    path = checkout(tmp_path)
    folder = tmp_path / ".venv" / "bin"
    if left == "python3 without pip":  # what venv leaves where the system's Python has no ensurepip
        script(folder / "python3", "")
    else:  # what an upgrade of the system's Python leaves
        script(folder / "pip", "")
        (folder / "pip").write_text(f"#!{folder}/python3\n")
        (folder / "python3").symlink_to(tmp_path / "gone")
        made_of = b"".join((tmp_path / name).read_bytes() for name in ("setup.cfg", "constraints.txt"))
        checksum = subprocess.run(["cksum"], input=made_of, stdout=subprocess.PIPE).stdout.decode()
        (tmp_path / ".venv" / ".installed").write_text(checksum)
    script(path / "python3", f'[ "$1" = -m ] && echo "$*" >> {tmp_path}/python.log')
    subprocess.run([shutil.which("bash"), "-c", ". utils/setup_env.sh"], cwd=tmp_path, env={"PATH": str(path)})
    assert (tmp_path / "python.log").read_text() == f"-m venv --clear {tmp_path}/.venv\n"
