"""Dev trials that cannot be used are refused before the run starts."""

from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.inference import extraction
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi.formats.tables import TableWriter
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.training import dev_trials
from sdpn_k2.training.dev_trials import DevTrials


@pytest.mark.parametrize(
    "frames, trials, message",
    [
        (60, "a b target\na d nontarget\n", "trials: 1 of 3 .*'d'"),
        (60, "a b target\na c target\n", "trials: .*nontarget"),
        (60, "a b\na c\n", "trials: .*labels"),
        (4, "a b target\na c nontarget\n", "trials: 1 of 3 .*'c': 4 frames.* 5"),
        (0, "a b target\na c nontarget\n", "'c': NaN"),
        (60, None, ": .*trials_<name>"),
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
    with pytest.raises(InputError, match=f"{tmp_path}/trials: .*'c': 300 samples"):
        DevTrials(tmp_path, load_config(None, TINY), torch.device("cpu"))


def test_one_bad_utterance_among_many_is_left_out(tmp_path, caplog):
    names = [f"s{speaker}-{index:02d}" for speaker in range(3) for index in range(10)]
    rng = np.random.default_rng(0)
    with TableWriter(f"ark,scp:{tmp_path}/feats.ark,{tmp_path}/feats.scp", "matrix") as writer:
        for name in ["unlisted", *names]:
            frames = 4 if name in ("s1-03", "unlisted") else 60
            writer.write(name, rng.normal(size=(frames, 80)).astype(np.float32))
    pairs = [(a, b) for a in names for b in names if a < b]
    lines = [f"{a} {b} {'target' if a[:2] == b[:2] else 'nontarget'}\n" for a, b in pairs]
    (tmp_path / "trials_o").write_text("".join(lines))
    config = load_config(None, TINY)
    torch.manual_seed(0)
    encoder = EcapaTdnn(80, config.model)
    eers = []
    for dev in (tmp_path, tmp_path / "trials_o"):
        trials = DevTrials(dev, config, torch.device("cpu"))
        assert len(trials.trials) == 30 * 29 // 2 - 29 and len(trials.ids) == 29
        eers.append(trials.eer(encoder))
    assert caplog.text.count("'s1-03': 4 frames") == 2 and "unlisted" not in caplog.text
    (tmp_path / "trials_o").write_text("".join(line for line in lines if "s1-03" not in line))
    assert eers == [DevTrials(tmp_path, config, torch.device("cpu")).eer(encoder)] * 2


def test_features_are_read_in_blocks_at_each_evaluation(tmp_path, monkeypatch):
    names = [f"s{speaker}-{index}" for speaker in range(3) for index in range(3)]
    rng = np.random.default_rng(0)
    with TableWriter(f"ark,scp:{tmp_path}/feats.ark,{tmp_path}/feats.scp", "matrix") as writer:
        for name in names:
            writer.write(name, rng.normal(size=(60, 80)).astype(np.float32))
    pairs = [(a, b) for a in names for b in names if a < b]
    lines = [f"{a} {b} {'target' if a[:2] == b[:2] else 'nontarget'}\n" for a, b in pairs]
    (tmp_path / "trials").write_text("".join(lines))
    config = load_config(None, TINY)
    torch.manual_seed(0)
    encoder = EcapaTdnn(80, config.model).train()
    dev = DevTrials(tmp_path, config, torch.device("cpu"))
    expected = dev.eer(encoder)

    sizes = []
    embed = Extractor.embed_fbank
    monkeypatch.setattr(
        Extractor, "embed_fbank", lambda extractor, block: sizes.append(len(block)) or embed(extractor, block)
    )
    monkeypatch.setattr(dev_trials, "blocks", partial(extraction.blocks, size=4))
    assert dev.eer(encoder) == expected and sizes == [4, 4, 1] and encoder.training
