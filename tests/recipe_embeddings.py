"""Embeddings of synthetic speech by a small untrained model, in the folders that recipes of Kaldi make."""

import itertools
import os
from pathlib import Path

import numpy as np
import soundfile
from tiny_models import write_model

from sdpn_k2.inference.diarization import extract_windows
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.kaldi import tools
from sdpn_k2.kaldi.datadir.data_dir import spk2utt, write_map
from sdpn_k2.kaldi.datadir.data_dir_ops import write_data_dir
from sdpn_k2.kaldi.datadir.subsegments import Windowing
from sdpn_k2.kaldi.formats.tables import TableWriter

RATE = 16000
ROOT = Path(__file__).resolve().parent.parent


def read_speech(speech):
    """Return speaker → list of utterances as samples, of all eight speakers."""
    folders = sorted([*(speech / "train").glob("*/"), *(speech / "test").glob("*/")], key=lambda path: path.name)
    return {
        folder.name: [soundfile.read(path, dtype="float32")[0] for path in sorted(folder.glob("*.wav"))]
        for folder in folders
        if list(folder.glob("*.wav"))
    }


def write_embeddings(folder: Path, speech: Path) -> Path:
    """Write ``exp/xvectors_<set>`` and ``data/<set>`` of the sets train, major (for adaptation), enroll and test."""
    extractor = Extractor.load(write_model(folder / "final.pt", embedding_dim=24))
    speakers = read_speech(speech)

    def write(name, pieces):
        """Write a set of (speaker, samples)."""
        utt2spk = {f"{speaker}-{number:03d}": speaker for number, (speaker, _) in enumerate(pieces)}
        (folder / f"data/{name}").mkdir(parents=True)
        directory = folder / f"exp/xvectors_{name}"
        directory.mkdir(parents=True)
        write_map(folder / f"data/{name}/utt2spk", utt2spk)
        write_map(folder / f"data/{name}/spk2utt", spk2utt(utt2spk))
        vectors = extractor.embed_waveforms([samples for _, samples in pieces])
        with TableWriter(f"ark,scp:{directory}/xvector.ark,{directory}/xvector.scp", "vector") as writer:
            for key, vector in zip(utt2spk, vectors):
                writer.write(key, vector)
        means = f"ark,scp:{directory}/spk_xvector.ark,{directory}/spk_xvector.scp"
        arguments = [f"ark:{folder}/data/{name}/spk2utt", f"scp:{directory}/xvector.scp", means]
        assert not tools.run("ivector-mean", [*arguments, f"ark,t:{directory}/num_utts.ark"])
        return utt2spk

    def windows(utterances, seconds, shift):
        return [
            (speaker, samples[start : start + int(seconds * RATE)])
            for speaker in speakers
            for samples in (speakers[speaker][index] for index in utterances)
            for start in range(0, max(1, len(samples) - int(seconds * RATE)), int(shift * RATE))
        ]

    write("train", windows([0, 1], 2.0, 0.5))
    write("major", windows([2], 2.0, 1.0))
    enrolled = write("enroll", windows([2], 3.0, 0.7))
    tested = write("test", windows([3], 3.0, 0.6))
    label = {True: "target", False: "nontarget"}
    trials = itertools.product(dict.fromkeys(enrolled.values()), tested)
    (folder / "data/test/trials").write_text(
        "".join(f"{speaker} {test} {label[tested[test] == speaker]}\n" for speaker, test in trials)
    )
    return folder


def write_conversations(folder: Path, speech: Path) -> Path:
    """Write windows of conversations as ``xvectors_callhome1`` and ``2``, and those of single speakers for PLDA."""
    extractor = Extractor.load(write_model(folder / "final.pt", embedding_dim=24))
    speakers = read_speech(speech)
    names = list(speakers)
    reference = []
    for fold in (1, 2):
        wav, segments, counts = {}, {}, {}
        for number in range(2):
            recording = f"iaa{fold}{number}"
            chosen = [names[(2 * fold + number + 4 * index) % len(names)] for index in range(2)]
            pieces, position = [], 0.0
            for turn in range(4):
                samples = speakers[chosen[turn % 2]][2 + turn // 2]
                seconds = round(len(samples) / RATE, 2)
                segments[f"{recording}-{turn}"] = (recording, round(position, 2), round(position + seconds, 2))
                reference.append((recording, position, seconds, chosen[turn % 2]))
                pieces += [samples[: int(seconds * RATE)], np.zeros(RATE // 2, np.float32)]
                position += seconds + 0.5
            path = folder / f"{recording}.wav"
            soundfile.write(path, np.concatenate(pieces), RATE, subtype="PCM_16")
            wav[recording], counts[recording] = str(path), 2
        data = folder / f"data/callhome{fold}"
        write_data_dir(data, wav, {name: value[0] for name, value in segments.items()}, {"segments": segments})
        write_map(data / "reco2num_spk", counts)
        extract_windows(extractor, data, folder / f"exp/xvectors_callhome{fold}", Windowing(2.0, 1.0, 0.5))
    (folder / "data/callhome").mkdir()
    (folder / "data/callhome/fullref.rttm").write_text(
        "".join(
            f"SPEAKER {recording} 0 {start:7.3f} {seconds:7.3f} <NA> <NA> {speaker} <NA> <NA>\n"
            for recording, start, seconds, speaker in reference
        )
    )
    single, wav = folder / "data/sre", {}
    for name, utterances in speakers.items():
        path = folder / f"{name}.wav"
        soundfile.write(path, np.concatenate(utterances[:2]), RATE, subtype="PCM_16")
        wav[name] = str(path)
    write_data_dir(single, wav, {name: name for name in wav})
    extract_windows(extractor, single, folder / "exp/xvectors_sre_segmented_128k", Windowing(2.0, 0.5, 0.5))
    return folder


def link_recipe(folder: Path) -> None:
    """Put the links and settings of a recipe into a folder."""
    for name in ("utils", "steps", "sid", "local", "diarization"):
        os.symlink(ROOT / name, folder / name)
    (folder / "cmd.sh").write_text('export train_cmd="run.pl"\n')
    (folder / "path.sh").write_text("export LC_ALL=C\n")
