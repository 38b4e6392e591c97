"""Every script of utils/, steps/, sid/, diarization/ and local/ starts in each way that recipes use."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCED = {"parse_options.sh", "quoting.sh", "setup_env.sh", "stages.sh", "tool_path.sh", "make_features.sh"}
# They set up environments; test_setup_env.py and test_wheel.py start them.
SET_UP = {"run_tests.sh", "run_checks.sh", "run_wheel.sh"}
FOLDERS = ("utils", "steps", "sid", "diarization", "local")
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".sh", ".pl", ".py") and path.name not in SOURCED | SET_UP | {"launcher.py"}
)
INTERPRETERS = {".sh": "bash", ".pl": "perl", ".py": sys.executable}


def start(command, folder):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_starts(tmp_path, name):
    script = ROOT / name
    link = tmp_path / script.name
    link.symlink_to(script)
    starts = [(f"./{name}", ROOT), (script, tmp_path), (f"./{link.name}", tmp_path)]
    interpreter = INTERPRETERS[script.suffix]
    if shutil.which(interpreter):
        starts += [(interpreter, path, folder) for path, folder in starts]
    texts = set()
    for *command, folder in starts:
        result = start([*command, "--help"], folder)
        assert (result.returncode, result.stderr) == (0, ""), command
        # argparse prints the name as it is called
        texts.add(result.stdout.replace(str(script), script.name))
        result = start([*command, "--no-such-option"], folder)
        assert result.returncode == 1 and result.stderr.count("\n") == 1, (command, result.stderr)
        assert "Traceback" not in result.stderr
    assert len(texts) == 1
    text = texts.pop()
    assert "usage: " in text.lower() and text.count(script.stem) >= 2, "no usage, or no example"
