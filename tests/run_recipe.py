"""Run egs/voxceleb/run.sh with a model of seconds."""

import os
import subprocess
import sys
from pathlib import Path

from tiny_config import TINY_MODEL

RECIPE = Path(__file__).resolve().parents[1] / "egs" / "voxceleb"
TINY = " ".join([*TINY_MODEL, "train.batch_size=8", "train.steps=3", "train.workers=0"])


def run(*arguments, check=True):
    """Run run.sh on the CPU, one job at a time unless told otherwise; return the completed process."""
    # The recipe uses the Python that runs the tests.
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", OMP_NUM_THREADS="1")
    result = subprocess.run(
        ["bash", str(RECIPE / "run.sh"), "--nj", "1", "--ngpu", "0", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert "Traceback" not in result.stderr, result.stderr
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result
