"""Stages of a recipe: complete ones are skipped, and changes of their inputs are seen and named."""

import os
import subprocess
from pathlib import Path

import pytest

STAGES = Path(__file__).resolve().parents[1] / "utils" / "stages.sh"
SCRIPT = f"""
set -euo pipefail
stage=0 stop_stage=9 stamps=stamps
. '{STAGES}'
if begin_stage 1 "copy" "$1" reads "the list" 0:folder writes out; then cp "the list" out; end_stage; fi
"""


@pytest.fixture
def run(tmp_path):
    """Run a stage that copies a list; return what it says."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "the list").write_text("a b target\n")

    def run(settings="x"):
        done = subprocess.run(["bash", "-c", SCRIPT, "-", settings], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "again" not in run()
    assert "nothing to do" in run()
    return run


def rewritten(path: Path, text: str) -> None:
    """Write a file of the same time, as cp -p and rsync -t do."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = {
    "older": (lambda folder: os.utime(folder / "the list", (1, 1)), "the list changed"),
    "newer": (lambda folder: (folder / "the list").touch(), "the list changed"),
    "same time and size": (lambda folder: rewritten(folder / "the list", "a c target\n"), "the list changed"),
    "same time": (lambda folder: rewritten(folder / "the list", "a b target\nb c target\n"), "the list changed"),
    "folder": (lambda folder: (folder / "folder" / "new").touch(), "folder changed"),
    "output": (lambda folder: (folder / "out").unlink(), "out is missing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named(run, tmp_path, name):
    change, said = CHANGES[name]
    change(tmp_path)
    assert f"again, since {said}\n" in run()
    assert (tmp_path / "out").read_text() == (tmp_path / "the list").read_text()
    assert "nothing to do" in run()


def test_other_settings(run):
    assert "again, since its settings changed\n" in run("y")


def test_stamps_of_earlier_versions(run, tmp_path):
    stamp = tmp_path / "stamps" / "stage1.done"
    stamp.write_text("settings: x\nread: the list\nread: folder\n")
    assert "nothing to do" in run()
    os.utime(stamp, (1, 1))
    assert "again, since the list is newer\n" in run()
