"""Segment speech by Viterbi decoding with k2; see :mod:`sdpn_k2.signal.segmentation`.

Import this module only to use k2: the import fails if k2 is missing or built for another torch.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import k2
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdpn_k2.signal.segmentation import DEFAULT_TOPOLOGY, NONSPEECH, SPEECH, Path, Topology

# Beam of the lattice in which the shortest path is searched: above the rounding error of float32 sums over an hour.
OUTPUT_BEAM = 2.0


def topology_fsa(topology: Topology) -> k2.Fsa:
    """Convert the topology to an acceptor.

    Labels are columns of the scores: 1 is non-speech, 2 is speech (0 would be epsilon). The states are the start, the
    chain of non-speech, the chain of speech and the end.
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


def viterbi(log_likelihoods: Sequence[Tensor], topology: Topology = DEFAULT_TOPOLOGY) -> List[Path]:
    """Return the best path of each recording, (frames, 2) each. Run on the GPU if k2 supports it, else on the CPU.

    Among paths of equal score any one is returned; scores that differ by less than float32 rounding count as equal.
    """
    paths = [Path(np.zeros(0, bool), 0.0)] * len(log_likelihoods)
    # k2 requires the longest recording first.
    lengths = [len(values) for values in log_likelihoods]
    order = sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index])
    if not order:
        return paths
    device = log_likelihoods[order[0]].device if k2.with_cuda else torch.device("cpu")
    lengths = [lengths[index] for index in order]
    values = pad_sequence([log_likelihoods[index].double().to(device) for index in order], batch_first=True)
    # Scores relative to the better class of each frame keep sums small enough for float32.
    peaks = values.max(dim=2, keepdim=True).values
    scores = torch.nn.functional.pad((values - peaks).float(), (1, 0))
    whole = torch.tensor([[row, 0, length] for row, length in enumerate(lengths)], dtype=torch.int32)
    fsas: Dict[Topology, k2.Fsa] = {}
    for length in lengths:
        fitted = topology.fitted(length)
        if fitted not in fsas:
            fsas[fitted] = topology_fsa(fitted)
    # One graph per recording: with a single graph for all, k2 finds only one path.
    graphs = k2.create_fsa_vec([fsas[topology.fitted(length)] for length in lengths]).to(device)
    recordings = torch.arange(len(order), dtype=torch.int32, device=device)
    lattices = k2.intersect_dense(graphs, k2.DenseFsaVec(scores, whole), OUTPUT_BEAM, a_to_b_map=recordings)
    best = k2.shortest_path(lattices, use_double_scores=True)
    totals = best.get_tot_scores(use_double_scores=True, log_semiring=False).double() + peaks.sum(dim=(1, 2))
    labels = best.labels[best.labels > 0].cpu().numpy()  # -1 is the final arc
    for index, speech, total in zip(order, np.split(labels == SPEECH + 1, np.cumsum(lengths)[:-1]), totals.tolist()):
        paths[index] = Path(speech, total)
    return paths
