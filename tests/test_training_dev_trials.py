"""Dev trials that cannot be used are refused before the run starts."""

import numpy as np
import pytest
import soundfile
import torch
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.training.dev_trials import DevTrials


@pytest.mark.parametrize(
    "frames, trials, message",
    [
        (60, "a b target\na d nontarget\n", "trials.*2.* d"),
        (60, "a b target\na c target\n", "trials: .*nontarget"),
        (60, "a b\na c\n", "trials: .*labels"),
        (4, "a b target\na c nontarget\n", r"'c' .* 5 frames \(4\)"),
        (0, "a b target\na c nontarget\n", r"'c' .*NaN .*\(60\)"),
        (60, None, "trials: "),
    ],
)
def test_unusable_dev_trials_are_refused(tmp_path, frames, trials, message):
    with TableWriter(f"ark,scp:{tmp_path}/feats.ark,{tmp_path}/feats.scp", "matrix") as writer:
        for name in "abc":
            values = np.random.default_rng(0).normal(size=(frames if frames and name == "c" else 60, 80))
            values[0, 0] = values[0, 0] if frames or name != "c" else np.nan
            writer.write(name, values.astype(np.float32))
    if trials is not None:
        (tmp_path / "trials").write_text(trials)
    with pytest.raises(InputError, match=f"^{tmp_path}.*{message}"):
        DevTrials(tmp_path, load_config(None, TINY), torch.device("cpu"))


def test_an_utterance_without_usable_audio_is_refused(tmp_path):
    for name, samples in (("a", 16000), ("b", 16000), ("c", 300)):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(size=samples) * 0.1, 16000)
    (tmp_path / "wav.scp").write_text("".join(f"{name} {tmp_path}/{name}.wav\n" for name in "abc"))
    (tmp_path / "trials").write_text("a b target\na c nontarget\n")
    with pytest.raises(InputError, match=f"{tmp_path}: .*'c': 300 samples"):
        DevTrials(tmp_path, load_config(None, TINY), torch.device("cpu"))
