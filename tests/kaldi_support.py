"""Run the drop-in tools as a recipe does, and read their output with an independent library."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np

from sdpn_k2.kaldi.backend.lda import SpeakerStats

ROOT = Path(__file__).resolve().parent.parent
DROP_INS = ROOT / "utils" / "kaldi-bin"


def shell(command, folder, **environment):
    """Run a line of bash with our tools on the PATH."""
    path = os.pathsep.join([str(DROP_INS), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "LC_ALL": "C", **environment},
        capture_output=True,
        text=True,
    )


def succeed(command, folder, **environment):
    """Run a line of bash that must succeed; return its log."""
    result = shell(command, folder, **environment)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def refuse(command, folder, **environment):
    """Run a line of bash that must exit with 1 and one line that says why; return that line."""
    result = shell(command, folder, **environment)
    assert result.returncode == 1, result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    return errors[0]


def golden_line(shared, part):
    """Return the only one of Kaldi's command lines that contains ``part``."""
    lines = [line for line in (shared / "kaldi-golden" / "COMMANDS.txt").read_text().splitlines() if part in line]
    assert len(lines) == 1, f"{part!r} is in {len(lines)} lines"
    return lines[0]


def run_golden_line(shared, folder, part, inputs=()):
    """Run that line on Kaldi's recordings and on Kaldi's files ``inputs``; return Kaldi's folder."""
    golden = shared / "kaldi-golden"
    shutil.copytree(golden / "wav", folder / "wav", dirs_exist_ok=True)
    for name in ("wav.scp", *inputs):
        shutil.copy(golden / name, folder)
    succeed(golden_line(shared, part), folder)
    return golden


def load(path):
    """Load an archive or script file as a dictionary of arrays, in its order."""
    folder = os.getcwd()
    os.chdir(path.parent)  # script files name archives relative to where the tools ran
    try:
        return dict(kaldiio.load_scp_sequential(str(path)) if path.suffix == ".scp" else kaldiio.load_ark(str(path)))
    finally:
        os.chdir(folder)


def write_ark(path, table):
    """Write arrays as a binary Kaldi archive."""
    kaldiio.save_ark(str(path), {key: np.asarray(value, np.float32) for key, value in table.items()})


def speaker_stats(vectors, speakers):
    """Return the statistics that LDA and PLDA need of vectors ``(n, dim)`` and their speakers' numbers."""
    stats = SpeakerStats(vectors.shape[1], max(speakers) + 1)
    stats.add(vectors, speakers)
    return stats


def speech_like(seed=0, seconds=1.0, rate=16000):
    """Return int16 samples with a falling spectrum, a modulated level and a small offset, as speech has."""
    rng = np.random.default_rng(seed)
    count = int(seconds * rate)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= 1 + np.arange(len(spectrum)) * (8000 / rate) / 200
    sound = np.fft.irfft(spectrum, count)
    sound *= (1.2 + np.sin(2 * np.pi * 3 * np.arange(count) / rate)) / sound.std()
    return np.clip(np.rint(1500 * sound + 20), -32768, 32767).astype(np.int16)
