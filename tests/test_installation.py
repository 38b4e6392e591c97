"""Recipe folders and PATH from a checkout; tests/test_wheel.py does the same from a wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from kaldi_support import ROOT

from sdpn_k2 import installation
from sdpn_k2.cli import cli
from sdpn_k2.errors import InputError


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A folder with python3 and sdpn-k2, as if it were that of the running interpreter."""
    folder = tmp_path / "environment" / "bin"
    folder.mkdir(parents=True)
    for name in ("python3", "sdpn-k2"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python3"))
    return folder


def bash(line, **variables):
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)


def test_a_checkout_is_its_own_prefix(programs):
    done = CliRunner().invoke(cli, ["kaldi", "--path"])
    assert done.exit_code == 0
    path = bash(f'{done.output}echo "$PATH $SDPN_K2_ROOT"').stdout.split()
    assert path[1] == str(ROOT)
    folders = path[0].split(":")
    assert folders[:3] == [f"{ROOT}/utils", f"{ROOT}/utils/parallel", str(programs)]
    assert folders.index("/bin") < folders.index(f"{ROOT}/utils/kaldi-bin") < folders.index(f"{ROOT}/steps")


def test_programs_that_the_shell_finds_are_not_put_first(programs, tmp_path):
    setup = installation.shell_setup()
    (tmp_path / "other").mkdir()
    path = f"{tmp_path}/other:{programs}:/usr/bin:/bin"
    assert f":{path}:" in bash(f'{setup}echo "$PATH"', PATH=path).stdout
    (tmp_path / "other" / "python3").symlink_to("/bin/false")
    assert f":{programs}:{path}:" in bash(f'{setup}echo "$PATH"', PATH=path).stdout


def test_a_recipe_of_a_checkout(programs, tmp_path):
    done = CliRunner().invoke(cli, ["recipe", str(tmp_path / "new" / "recipe")])
    assert done.exit_code == 0 and done.output.count("\n") == 1
    recipe = tmp_path / "new" / "recipe"
    for name in ("utils", "steps", "sid", "local"):
        assert (recipe / name).resolve() == ROOT / name
    for path in (ROOT / "egs" / "voxceleb" / "conf").iterdir():
        assert (recipe / "conf" / path.name).read_bytes() == path.read_bytes()
    path = (recipe / "path.sh").read_text()
    assert f"\nsdpn_k2_bin={programs} " in path
    assert path.replace(str(programs), "") == (ROOT / "egs" / "voxceleb" / "path.sh").read_text()


@pytest.mark.parametrize("name", ["run.sh", "conf", "utils", "path.sh"])
def test_what_exists_is_kept(programs, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).symlink_to("nowhere")
    with pytest.raises(InputError, match=f"mine/{name}: "):
        installation.make_recipe(tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == [name] and os.readlink(tmp_path / "mine" / name) == "nowhere"


def test_other_files_may_be_there(programs, tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    names = installation.make_recipe(tmp_path / "mine", copy=True)
    assert sorted(os.listdir(tmp_path / "mine")) == sorted([*names, "data"])
    assert not any(path.is_symlink() for path in (tmp_path / "mine").iterdir())
    assert not list((tmp_path / "mine").rglob("__pycache__"))


def test_broken_installations_are_named(programs, tmp_path, monkeypatch):
    (programs / "sdpn-k2").unlink()
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda name: str(programs))
    with pytest.raises(InputError, match="python3.*sdpn-k2"):
        installation.make_recipe(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "site-packages" / "sdpn_k2" / "installation.py"))
    with pytest.raises(InputError, match="site-packages/sdpn_k2.*install"):
        installation.scripts_root()


def test_a_folder_that_cannot_be_written_is_named(programs, tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/below", ""):
        done = CliRunner().invoke(cli, ["recipe", str(tmp_path / name) if name else ""])
        assert isinstance(done.exception, InputError)
    assert Path(tmp_path / "file").read_text() == "mine"
