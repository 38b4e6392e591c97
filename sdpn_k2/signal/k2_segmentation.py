"""Speech and non-speech by Viterbi decoding with k2; see :mod:`sdpn_k2.signal.segmentation`.

Import this module only where k2 is wanted: it fails where k2 is missing or built for another torch.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import k2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdpn_k2.signal.segmentation import NONSPEECH, SPEECH, Path, Topology

# How much worse than the best a path may be and stay in the lattice, of which the shortest path is taken: more than
# the rounding of float32 sums over an hour of frames.
OUTPUT_BEAM = 2.0


def topology_fsa(topology: Topology) -> k2.Fsa:
    """The topology as an acceptor. A label is a column of the scores: 1 non-speech, 2 speech; 0 would be epsilon.

    States: the start, the chain of non-speech, the chain of speech, the end.
    """
    durations = {NONSPEECH: topology.min_nonspeech, SPEECH: topology.min_speech}
    cost = {NONSPEECH: topology.to_nonspeech_cost, SPEECH: topology.to_speech_cost}
    first = {NONSPEECH: 1, SPEECH: 1 + durations[NONSPEECH]}
    last = {kind: first[kind] + durations[kind] - 1 for kind in first}
    final = last[SPEECH] + 1
    arcs = [(0, first[kind], kind + 1, 0.0) for kind in first]
    for kind in first:
        other = 1 - kind
        arcs += [(state, state + 1, kind + 1, 0.0) for state in range(first[kind], last[kind])]
        arcs += [
            (last[kind], last[kind], kind + 1, 0.0),
            (last[kind], first[other], other + 1, -cost[other]),
            (last[kind], final, -1, 0.0),
        ]
    lines = [f"{source} {target} {label} {score!r}" for source, target, label, score in sorted(arcs)]
    return k2.Fsa.from_str("\n".join(lines + [str(final)]), acceptor=True)


def viterbi(log_likelihoods: Sequence[Tensor], topology: Topology = Topology()) -> List[Path]:
    """The best path of each recording, (frames, 2) each. On a GPU where k2 is built for it, else on the CPU.

    Among paths of equal score it is any one; paths whose scores differ by less than the rounding of float32 are equal.
    """
    paths = [Path(np.zeros(0, bool), 0.0)] * len(log_likelihoods)
    # k2 wants the longest first.
    lengths = [len(values) for values in log_likelihoods]
    order = sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index])
    if not order:
        return paths
    device = log_likelihoods[order[0]].device if k2.with_cuda else torch.device("cpu")
    lengths = [lengths[index] for index in order]
    values = pad_sequence([log_likelihoods[index].double().to(device) for index in order], batch_first=True)
    # Without what the better class has in each frame, sums stay small, and float32 exact enough.
    peaks = values.max(dim=2, keepdim=True).values
    scores = torch.nn.functional.pad((values - peaks).float(), (1, 0))
    whole = torch.tensor([[row, 0, length] for row, length in enumerate(lengths)], dtype=torch.int32)
    fsas: Dict[Topology, k2.Fsa] = {}
    for length in lengths:
        fitted = topology.fitted(length)
        if fitted not in fsas:
            fsas[fitted] = topology_fsa(fitted)
    # One graph for each recording: with a single graph for all, k2 finds one path.
    graphs = k2.create_fsa_vec([fsas[topology.fitted(length)] for length in lengths]).to(device)
    recordings = torch.arange(len(order), dtype=torch.int32, device=device)
    lattices = k2.intersect_dense(graphs, k2.DenseFsaVec(scores, whole), OUTPUT_BEAM, a_to_b_map=recordings)
    best = k2.shortest_path(lattices, use_double_scores=True)
    totals = best.get_tot_scores(use_double_scores=True, log_semiring=False).double() + peaks.sum(dim=(1, 2))
    labels = best.labels[best.labels > 0].cpu().numpy()  # -1 leads to the end
    for index, speech, total in zip(order, np.split(labels == SPEECH + 1, np.cumsum(lengths)[:-1]), totals.tolist()):
        paths[index] = Path(speech, total)
    return paths
