"""Embeddings of a few speakers from one or more systems, for maps such as Figure 2 of the paper."""

from pathlib import Path
from typing import Dict, List, Mapping

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.datadir.data_dir import read_map
from sdpn_k2.kaldi.formats.io import split_offset
from sdpn_k2.kaldi.formats.tables import read_object
from sdpn_k2.reporting.plots import Panel

SPEAKERS = 5
MAX_UTTERANCES = 50


def speaker_panels(
    systems: Mapping[str, Path], utt2spk: Path, speakers: int = SPEAKERS, max_utterances: int = MAX_UTTERANCES
) -> List[Panel]:
    """Return the same utterances of the same speakers from every system.

    Choose the speakers with the most utterances; ties go by name.

    Args:
        systems: folder with the xvector.scp of each system, by its name.
        utt2spk: table of the speakers.
        speakers: number of speakers.
        max_utterances: number of utterances per speaker, evenly spread over the sorted names where there are more.

    Raises:
        InputError: a missing or broken table, fewer than two speakers with embeddings in all systems, or an embedding
            that is zero, not finite, or of another dimension than the first.
    """
    tables = {name: read_map(folder / "xvector.scp") for name, folder in systems.items()}
    of_speaker: Dict[str, List[str]] = {}
    for utterance, speaker in sorted(read_map(utt2spk).items()):
        if all(utterance in table for table in tables.values()):
            of_speaker.setdefault(speaker, []).append(utterance)
    if len(of_speaker) < 2:
        raise InputError(f"{utt2spk}: fewer than 2 speakers have embeddings in {', '.join(map(str, systems.values()))}")
    chosen = sorted(of_speaker, key=lambda speaker: (-len(of_speaker[speaker]), speaker))[:speakers]
    utterances = [utterance for speaker in sorted(chosen) for utterance in _spread(of_speaker[speaker], max_utterances)]
    labels = [speaker for speaker in sorted(chosen) for _ in _spread(of_speaker[speaker], max_utterances)]
    return [
        Panel(name, _read_vectors({utterance: table[utterance] for utterance in utterances}, systems[name]), labels)
        for name, table in tables.items()
    ]


def _spread(items: List[str], count: int) -> List[str]:
    if len(items) <= count:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _read_vectors(rxfilenames: Mapping[str, str], folder: Path) -> np.ndarray:
    """Read the vectors of the utterances, shape (n, dim)."""
    vectors: List[np.ndarray] = []
    for utterance, rxfilename in rxfilenames.items():
        vector = _read_vector(rxfilename, folder)
        if vectors and len(vector) != len(vectors[0]):
            raise InputError(
                f"{folder / 'xvector.scp'}: {utterance} has dimension {len(vector)}, others {len(vectors[0])}"
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise InputError(f"{folder / 'xvector.scp'}: the embedding of {utterance} is zero, NaN or infinite")
        vectors.append(vector)
    return np.stack(vectors)


def _read_vector(rxfilename: str, folder: Path) -> np.ndarray:
    """Read one vector. If its archive is not where the script file says, as after a move, look beside the script."""
    path, offset = split_offset(rxfilename)
    if offset is not None and not Path(path).exists():
        rxfilename = f"{folder / Path(path).name}:{offset}"
    vector: np.ndarray = read_object(rxfilename, "vector")
    return vector
