#!/usr/bin/env python
"""Time scoring and metrics at the size of VoxCeleb1-H, and on 10^8 scores.

    python benchmarks/scoring.py [--cohorts 3000 20000] [--scores 100000000] [--voices 100000] [--kmeans 1000000]

The data are 550,000 random trials over 138,000 random 512-d embeddings. The peers do what most toolkits do, a loop over
trials with one cosine each; they run on a sample of the trials, and their time is scaled up. Reading files is timed
separately. One recording is identified among random voices, beside the product of a float32 matrix of the same size and
a vector in NumPy. K-means, on request, clusters random embeddings of speakers with 180 utterances each as stage 5 does.
"""

import argparse
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity

from sdpn_k2.config import load_config
from sdpn_k2.inference.embedder import Embedder
from sdpn_k2.inference.extraction import Extractor
from sdpn_k2.inference.gallery import Gallery
from sdpn_k2.kaldi.backend.plda import Plda
from sdpn_k2.models.ecapa_tdnn import EcapaTdnn
from sdpn_k2.scoring import metrics
from sdpn_k2.scoring.backend import Backend
from sdpn_k2.scoring.confidence import TrialSpeakers, bootstrap_intervals
from sdpn_k2.scoring.cosine import score_trials
from sdpn_k2.scoring.embeddings import Embeddings, subtract_mean
from sdpn_k2.scoring.kmeans import pseudo_speakers
from sdpn_k2.scoring.normalization import normalized_scores
from sdpn_k2.scoring.trial_arrays import Scores, Trials, match_scores, read_scores, read_trials, write_scores

UTTERANCES, TRIALS, DIM, SPEAKERS = 138_000, 550_000, 512, 1_150  # 120 utterances each
PEER_SAMPLE = 2_000
LDA_DIM = 200


def timed(name, function, limit=None):
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    print(f"{name:<58} {seconds:8.2f} s{f'   (at most {limit:g})' if limit else ''}", flush=True)
    return result


def numpy_cosine(x, y):
    return np.dot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y))


def peer(name, cosine, embeddings, trials):
    """Time a loop over trials."""
    start = time.perf_counter()
    for e, t in zip(trials.enroll[:PEER_SAMPLE], trials.test[:PEER_SAMPLE]):
        cosine(embeddings.vectors[e], embeddings.vectors[t])
    seconds = (time.perf_counter() - start) / PEER_SAMPLE
    print(f"{'peer: ' + name:<58} {seconds * TRIALS:8.2f} s   ({seconds * 1e6:.0f} us a pair)", flush=True)


def scoring(cohorts):
    rng = np.random.default_rng(0)
    speaker = np.arange(UTTERANCES) % SPEAKERS
    ids = [f"id{10001 + s}-5r0dWxy17C8-{u:05d}" for u, s in enumerate(speaker)]
    vectors = rng.standard_normal((UTTERANCES, DIM), dtype=np.float32)
    vectors += rng.standard_normal((SPEAKERS, DIM), dtype=np.float32)[speaker]
    embeddings = Embeddings(ids, vectors)
    pairs = rng.permutation(np.unique(rng.integers(0, UTTERANCES**2, TRIALS + 1000)))[:TRIALS]
    enroll, test = (side.astype(np.int32) for side in np.divmod(pairs, UTTERANCES))
    # Every second trial is a target trial: another utterance of the same speaker.
    test[::2] = (enroll[::2] + SPEAKERS * rng.integers(1, UTTERANCES // SPEAKERS, len(test[::2]))) % UTTERANCES
    trials = Trials(ids, ids, enroll, test, speaker[enroll] == speaker[test])

    peer("a Python loop with NumPy", numpy_cosine, embeddings, trials)
    peer(
        "a Python loop with scikit-learn, as in WeSpeaker",
        lambda x, y: cosine_similarity(x[None], y[None])[0][0],
        embeddings,
        trials,
    )
    scores = timed("cosine", lambda: score_trials(embeddings, embeddings, trials), 1.3)

    mean = embeddings.vectors.mean(axis=0)

    def centred_scores():
        centred = subtract_mean(embeddings, mean)
        return score_trials(centred, centred, trials)

    timed("cosine, mean subtracted", centred_scores)
    for size in cohorts:
        cohort = Embeddings([str(i) for i in range(size)], rng.standard_normal((size, DIM), dtype=np.float32))
        timed(
            f"as-norm, top 300 of {size}",
            partial(normalized_scores, embeddings, embeddings, trials, cohort, top_n=300),
            {3000: 5, 20000: 30}.get(size),
        )

    with tempfile.TemporaryDirectory() as folder:
        path, list_path = Path(folder) / "scores", Path(folder) / "trials"
        timed("write the scores", lambda: write_scores(path, Scores(trials, scores)))
        list_path.write_text(
            "".join(
                f"{ids[e]} {ids[t]} {'target' if label else 'nontarget'}\n"
                for e, t, label in zip(enroll, test, trials.is_target)
            )
        )
        read = timed("read the trials", lambda: read_trials(list_path))
        again = timed("read the scores", lambda: read_scores(path))
        values = timed("join them", lambda: match_scores(again, read))
    everything(values, read.is_target)
    timed(
        "95 % intervals over speakers, 1000 draws",
        lambda: bootstrap_intervals(scores, trials.is_target, TrialSpeakers(speaker[enroll], speaker[test])),
    )


def everything(scores, is_target):
    """Time EER by three rules, costs at two priors, Cllr and minCllr, from one sort."""

    def all_metrics():
        rates = metrics.ErrorRates.from_scores(scores, is_target)
        return (
            [metrics.eer(rates, rule).value for rule in metrics.EER_RULES]
            + [dcf(rates, p).value for dcf in (metrics.min_dcf, metrics.actual_dcf) for p in (0.01, 0.05)]
            + [metrics.cllr(rates), metrics.min_cllr(rates)]
        )

    timed(f"all metrics of {len(scores)} scores", all_metrics, 60 if len(scores) >= 10**8 else None)


def many_scores(n):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(n, dtype=np.float32)
    is_target = rng.random(n, dtype=np.float32) < 0.01
    scores[is_target] += 3
    before = peak_gigabytes()
    everything(scores, is_target)
    print(f"peak memory {peak_gigabytes():.2f} GB, before it {before:.2f} GB")


def clustering(n):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, DIM), dtype=np.float32)
    vectors += rng.standard_normal((n // 180 + 1, DIM), dtype=np.float32)[np.arange(n) // 180]
    embeddings = Embeddings([str(i) for i in range(n)], vectors)
    timed(f"k-means of {n} embeddings", lambda: pseudo_speakers(embeddings))
    print(f"peak memory {peak_gigabytes():.2f} GB")


def answers(name, function, limit=None):
    """Print the median time of 21 calls, in milliseconds."""
    times = []
    for _ in range(21):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    print(f"{name:<58} {1e3 * np.median(times):8.1f} ms{f'   (at most {limit:g})' if limit else ''}", flush=True)


def identification(n):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, DIM), dtype=np.float32)
    config = load_config(None, [f"model.embedding_dim={DIM}"])
    encoder = EcapaTdnn(config.features.num_mel_bins, config.model)
    model = Embedder(Extractor(encoder, config, torch.device("cpu")))
    mean = rng.standard_normal(DIM).astype(np.float32)
    lda = rng.standard_normal((LDA_DIM, DIM)).astype(np.float32)
    plda = Plda(np.zeros(LDA_DIM), np.eye(LDA_DIM), np.sort(rng.uniform(0, 4, LDA_DIM))[::-1])
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery.create(Path(folder) / "voices", model)
        timed(
            f"enrol {n} voices",
            lambda: gallery.enroll_embeddings({f"v{row:06d}": vector for row, vector in enumerate(vectors)}),
        )
        gallery.enroll_embeddings({"v000000": vectors[1]})  # a voice of two recordings
        again = Gallery.open(gallery.folder, model)
        timed("read them", lambda: len(again))
        for backend in (Backend(), Backend("cosine_mean", mean), Backend("plda", mean, lda, plda)):
            ask = partial(gallery.identify_embedding, vectors[7], backend=backend)
            timed(f"identify the first recording: {backend.scoring}", ask)
            answers(f"identify another: {backend.scoring}", ask, 50)
    answers("limit: NumPy, 512 columns, for both cosines", lambda: vectors @ vectors[7])
    narrow = rng.standard_normal((n, LDA_DIM + 2), dtype=np.float32)
    answers(f"limit: NumPy, {narrow.shape[1]} columns, for plda", lambda: narrow @ narrow[7])


def peak_gigabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cohorts", type=int, nargs="*", default=[3000, 20000], help="sizes of the cohort")
    parser.add_argument("--scores", type=int, default=10**8, help="number of scores for the metrics (0: skip)")
    parser.add_argument("--voices", type=int, default=100_000, help="number of enrolled voices (0: skip)")
    parser.add_argument("--kmeans", type=int, default=0, help="number of embeddings to cluster (0: skip)")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, NumPy {np.__version__}")
    if arguments.kmeans:
        clustering(arguments.kmeans)
    if arguments.scores:
        many_scores(arguments.scores)
    if arguments.voices:
        identification(arguments.voices)
    scoring(arguments.cohorts)


if __name__ == "__main__":
    main()
