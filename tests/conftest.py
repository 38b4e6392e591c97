"""Fixtures that every test may use."""

import os
import shutil
from pathlib import Path

import pytest

from sdpn_k2.data.corpora.demo import make_demo

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items):
    """Run files with slow tests first, so that at the end no process works alone on one of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and golden files that lies beside the project in development and CI."""
    if not (SHARED / "kaldi-golden").is_dir():
        pytest.skip("needs ../shared (real speech and Kaldi's golden files), which is not here")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Vectors, models and scores that Kaldi wrote (tests/data/golden/README.md)."""
    return Path(__file__).resolve().parent / "data" / "golden"


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """Synthetic speech, laid out as an audio folder.

    ``train/<speaker>/*.wav`` (4 speakers), ``test/<speaker>/*.wav`` (4 speakers, 4 utterances each, 3 to 8 s) and
    ``test/trials``; ``noise/*.wav`` and ``rir/*.wav``. Tests read it and must not change it.
    """
    root = tmp_path_factory.mktemp("speech")
    make_demo(root, num_train_speakers=4, num_test_speakers=4, num_utterances=4, num_jobs=1)
    return root


@pytest.fixture(scope="session")
def ffmpeg(tmp_path_factory):
    """Make sure that ``ffmpeg`` is on PATH: if it is not installed, use the one that imageio-ffmpeg brings."""
    if shutil.which("ffmpeg"):
        yield
        return
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs ffmpeg: {error}")
    folder = tmp_path_factory.mktemp("ffmpeg")
    (folder / "ffmpeg").symlink_to(program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def tiny_cuts(tmp_path_factory) -> Path:
    """Cut manifest of 14 short noises to train on (tiny_training.py). Tests must not change it, nor the next three."""
    from tiny_training import write_corpus

    return write_corpus(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_fbank_cuts(tiny_cuts, tmp_path_factory) -> Path:
    """The same cuts with stored fbank, and noise beside them."""
    from tiny_training import write_fbank_corpus

    return write_fbank_corpus(tiny_cuts, tmp_path_factory.mktemp("tiny_fbank"))


@pytest.fixture(scope="session")
def tiny_shards(tiny_fbank_cuts, tmp_path_factory) -> Path:
    """The cuts with stored fbank as shards of four."""
    from sdpn_k2.data.shar import write_shar

    folder = tmp_path_factory.mktemp("tiny_shar") / "train"
    write_shar(tiny_fbank_cuts, folder, 4, 0)
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_cuts, tmp_path_factory) -> Path:
    """``final.pt`` of an uninterrupted run of eight steps on the cuts."""
    from tiny_training import make_trainer

    return make_trainer(tiny_cuts, tmp_path_factory.mktemp("tiny_run")).run()
