"""A small container: 64 MB of /dev/shm, a read-only root, no home and no network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lhotse import CutSet
from tiny_config import TINY, set_options
from tiny_training import write_corpus

ROOT = Path(__file__).resolve().parents[1]
# Only the folder $1 can be written; there is no other temporary folder.
ENTER = """
set -e
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount --bind "$1" "$1"
mount -o remount,ro,bind /
cd /
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def run_inside():
    """Return a function that runs a command in such a container, which can write to one folder."""

    def run(folder, *command):
        environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "TMPDIR")}
        environment.update(HOME="/nonexistent", OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
        words = ["bash", "-c", ENTER, "enter", str(folder), *map(str, command)]
        return subprocess.run([*unshare, *words], env=environment, capture_output=True, text=True)

    unshare = ["unshare", "-mn"] if os.getuid() == 0 else ["unshare", "-rmn"]
    if shutil.which("unshare") is None or run(Path("/var"), "true").returncode != 0:
        pytest.skip("needs unshare (util-linux), and the permission to mount in a namespace of its own")
    return run


@pytest.mark.slow
def test_training_embedding_and_scoring_in_a_small_container(run_inside, tmp_path):
    """The loader processes share 86 MB at least, more than /dev/shm holds."""
    cuts, exp = write_corpus(tmp_path / "data"), tmp_path / "exp"
    with (tmp_path / "data" / "wav.scp").open("w") as wav, (tmp_path / "data" / "utt2spk").open("w") as speakers:
        for cut in sorted(CutSet.from_file(cuts), key=lambda cut: cut.id):
            print(cut.recording_id, cut.recording.sources[0].source, file=wav)
            print(cut.recording_id, cut.recording_id.split("-")[0], file=speakers)

    def sdpn_k2(*arguments):
        result = run_inside(tmp_path, sys.executable, "-m", "sdpn_k2", *arguments)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr

    crops = ["crops.global_seconds=1.5", "crops.local_seconds=1.5", "crops.num_local=42"]
    settings = [*TINY, *crops, "train.batch_size=14", "train.steps=3", "train.workers=2"]
    sdpn_k2("train", "--device", "cpu", *set_options(settings), cuts, exp)
    sdpn_k2("extract", "--device", "cpu", exp / "final.pt", tmp_path / "data", exp / "xvectors")
    sdpn_k2("score", "--enroll", exp / "xvectors" / "xvector.scp", exp / "scores")
    assert len((exp / "scores").read_text().splitlines()) == 14**2
