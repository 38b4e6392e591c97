"""Kaldi's tools that score and judge: PLDA and dot products on trials, clustering, equal error rate."""

from __future__ import annotations

import math

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.backend import clustering
from sdpn_k2.kaldi.backend.eer import kaldi_eer
from sdpn_k2.kaldi.backend.plda import Plda, read_plda, score_recording
from sdpn_k2.kaldi.backend.trials import Side, parse_labels, parse_scores, read_columns, score_trials
from sdpn_k2.kaldi.backend.vectors import all_vectors
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.io import open_input
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, read_table
from sdpn_k2.kaldi.tools.backend import PLDA_OPTIONS, check_dimension
from sdpn_k2.kaldi.tools.options import Option, tool


@tool(
    "ivector-plda-scoring",
    "Compute PLDA log-likelihood ratios of trials, '<enrolment key> <test key>' a line; write each with its score.\n"
    "Trials with an unknown key are left out with a warning.\n"
    "Usage: ivector-plda-scoring [options] <plda> <train-ivector-rspecifier> <test-ivector-rspecifier>\n"
    "           <trials-rxfilename> <scores-wxfilename>\n"
    " e.g.: ivector-plda-scoring --num-utts=ark:num_utts.ark plda ark:spk_ivectors.ark ark:test_ivectors.ark \\\n"
    "           trials scores\n",
    options=[
        *PLDA_OPTIONS,
        Option("num-utts", "", "Table of the number of utterances behind each training vector, e.g. ark:num_utts.ark"),
    ],
    arguments=(5, 5),
)
def ivector_plda_scoring(
    options, plda_rxfilename, train_rspecifier, test_rspecifier, trials_rxfilename, scores_wxfilename
):
    plda = read_plda(plda_rxfilename)
    log.log("Reading train iVectors")
    train_keys, train = _some_vectors(train_rspecifier)
    check_dimension(plda, plda_rxfilename, train, train_rspecifier)
    num_utts = np.ones(len(train_keys), np.int64)
    if options.num_utts:
        known, num_utts = _numbers_of_utterances(options.num_utts, train_keys)
        train_keys, train = [train_keys[row] for row in known], train[known]
    log.log(f"Read {len(train_keys)} training iVectors")
    train = _transform(plda, options, train, num_utts, "training")
    log.log("Reading test iVectors")
    test_keys, test = _some_vectors(test_rspecifier)
    check_dimension(plda, plda_rxfilename, test, test_rspecifier)
    log.log(f"Read {len(test_keys)} test iVectors.")
    test = _transform(plda, options, test, 1, "test")
    train, test = plda.scoring_factors(train, num_utts, test)
    result = score_trials(
        trials_rxfilename,
        scores_wxfilename,
        Side(train_keys, train, "training iVectors"),
        Side(test_keys, test, "test iVectors"),
    )
    log.log(f"Mean score was {result.mean:g}, standard deviation was {result.stddev:g}")
    log.log(f"Processed {result.num_done} trials, {result.num_dropped} had errors.")
    return result.num_done


def _some_vectors(rspecifier):
    keys, vectors = all_vectors(rspecifier)
    if not keys:
        raise InputError(f"{rspecifier}: there are no vectors")
    return keys, vectors


def _numbers_of_utterances(rspecifier, keys):
    """Which ``keys`` the table of numbers has, as rows, and their numbers, ``(n,)``."""
    known, numbers = [], []
    with RandomReader(rspecifier, "int") as reader:
        for row, key in enumerate(keys):
            if key not in reader:
                log.warn(f"Number of utterances not given for speaker {key}")
                continue
            known.append(row)
            numbers.append(reader[key])
            if numbers[-1] < 1:
                raise InputError(f"{rspecifier}: {key} has {numbers[-1]} utterances")
    if not known:
        raise InputError(f"{rspecifier}: it has none of the {len(keys)} training vectors")
    return known, np.array(numbers)


def _transform(plda: Plda, options, vectors: np.ndarray, num_utts, name: str) -> np.ndarray:
    transformed, scales = plda.transform_vectors(
        vectors, num_utts, options.normalize_length, options.simple_length_normalization
    )
    log.log(f"Average renormalization scale on {name} iVectors was {scales.mean():g}")
    return transformed


@tool(
    "ivector-plda-scoring-dense",
    "Score all pairs of segments of each recording by PLDA, for diarization; a PCA of the recording comes first.\n"
    "Rows and columns of the score matrices follow the order of the segments in <reco2utt>.\n"
    "Usage: ivector-plda-scoring-dense [options] <plda> <reco2utt> <ivectors-rspecifier> <scores-wspecifier>\n"
    " e.g.: ivector-plda-scoring-dense plda ark:reco2utt scp:ivectors.scp ark:scores.ark\n",
    options=[
        *PLDA_OPTIONS,
        Option(
            "target-energy",
            0.5,
            "Reduce the dimension by a recording-dependent PCA such that this fraction of the total energy remains",
        ),
    ],
    arguments=(4, 4),
)
def ivector_plda_scoring_dense(options, plda_rxfilename, reco2utt_rspecifier, ivector_rspecifier, scores_wspecifier):
    if not 0.0 <= options.target_energy <= 1.0:
        raise InputError(f"--target-energy={options.target_energy:g}: it should be between 0 and 1")
    plda = read_plda(plda_rxfilename)
    num_done, num_errors = 0, 0
    with TableWriter(scores_wspecifier, "matrix") as writer, RandomReader(ivector_rspecifier, "vector") as reader:
        for recording, utterances in read_table(reco2utt_rspecifier, "token_vector"):
            if not utterances:
                log.warn(f"Not producing output for recording {recording} since no segments had iVectors")
                num_errors += 1
                continue
            vectors = np.empty((len(utterances), plda.dim))
            for row, utterance in enumerate(utterances):
                vector = _look_up(reader, utterance, ivector_rspecifier)
                check_dimension(plda, plda_rxfilename, vector[None], f"{ivector_rspecifier}, key {utterance}")
                if not np.isfinite(vector).all():
                    raise InputError(f"{ivector_rspecifier}: the vector of {utterance} has NaN or infinite values")
                vectors[row] = vector
            writer.write(
                recording,
                score_recording(
                    plda, vectors, options.target_energy, options.normalize_length, options.simple_length_normalization
                ),
            )
            num_done += 1
    log.log(f"Processed {num_done} recordings, {num_errors} had errors.")
    return num_done


def _look_up(reader: RandomReader, key: str, rspecifier: str):
    if key not in reader:
        raise InputError(f"{rspecifier}: there is no entry for {key}")
    return reader[key]


@tool(
    "ivector-compute-dot-products",
    "Compute the dot product of the two vectors of each trial, '<key1> <key2>' a line; write each with its product.\n"
    "Trials with an unknown key are left out with a warning.\n"
    "Usage: ivector-compute-dot-products <trials-in> <ivector1-rspecifier> <ivector2-rspecifier> <scores-out>\n"
    " e.g.: ivector-compute-dot-products trials ark:train_ivectors.ark ark:test_ivectors.ark trials.scored\n",
    arguments=(4, 4),
)
def ivector_compute_dot_products(options, trials_rxfilename, first_rspecifier, second_rspecifier, scores_wxfilename):
    sides = []
    for rspecifier, name in ((first_rspecifier, "1st table of ivectors"), (second_rspecifier, "2nd table of ivectors")):
        keys, vectors = _some_vectors(rspecifier)
        sides.append(Side(keys, vectors.astype(np.float64), name))
    result = score_trials(trials_rxfilename, scores_wxfilename, *sides)
    log.log(f"Mean dot-product was {result.mean:g}, standard deviation was {result.stddev:g}")
    log.log(f"Processed {result.num_done} trials {result.num_dropped} had errors.")
    return result.num_done


@tool(
    "agglomerative-cluster",
    "Cluster the utterances of each recording by their matrix of scores; write '<utterance> <label>'.\n"
    "Usage: agglomerative-cluster [options] <scores-rspecifier> <reco2utt-rspecifier> <labels-wspecifier>\n"
    " e.g.: agglomerative-cluster ark:scores.ark ark:reco2utt ark,t:labels.txt\n",
    options=[
        Option(
            "first-pass-max-utterances",
            clustering.FIRST_PASS_MAX_POINTS,
            "With more utterances cluster in two "
            "passes: first contiguous subsets of this size, then the clusters of the first pass",
        ),
        Option(
            "max-spk-fraction",
            1.0,
            "Merge clusters only if together they hold at most this fraction of the "
            "utterances; active only when reco2num-spk-rspecifier is supplied and 1.0 / num-spk <= "
            "max-spk-fraction <= 1.0",
        ),
        Option(
            "read-costs",
            False,
            "If true, the first argument is interpreted as a matrix of costs rather than a similarity matrix",
        ),
        Option(
            "reco2num-spk-rspecifier",
            "",
            "If supplied, clustering creates exactly this many clusters for each "
            "recording and the option --threshold is ignored",
        ),
        Option("threshold", 0.0, "Merge clusters if their distance is less than this threshold"),
    ],
    arguments=(3, 3),
)
def agglomerative_cluster(options, scores_rspecifier, reco2utt_rspecifier, labels_wspecifier):
    sign = 1 if options.read_costs else -1
    reco2num_spk = RandomReader(options.reco2num_spk_rspecifier, "int") if options.reco2num_spk_rspecifier else None
    num_done = 0
    with TableWriter(labels_wspecifier, "int") as writer, RandomReader(reco2utt_rspecifier, "token_vector") as reco2utt:
        for recording, scores in read_table(scores_rspecifier, "matrix"):
            utterances = _look_up(reco2utt, recording, reco2utt_rspecifier)
            if len(utterances) != len(scores):
                raise InputError(
                    f"{reco2utt_rspecifier}: {len(utterances)} utterances of {recording}, but its matrix "
                    f"in {scores_rspecifier} has {len(scores)} rows"
                )
            threshold, num_clusters, fraction = sign * options.threshold, 1, 1.0
            if reco2num_spk is not None:
                threshold = math.inf
                num_clusters = _look_up(reco2num_spk, recording, options.reco2num_spk_rspecifier)
                if num_clusters > 0 and 1.0 / num_clusters <= options.max_spk_fraction <= 1.0:
                    fraction = options.max_spk_fraction
            try:
                labels = clustering.agglomerative_cluster(
                    sign * scores, threshold, num_clusters, fraction, options.first_pass_max_utterances
                )
            except InputError as error:
                raise InputError(f"{scores_rspecifier}: recording {recording}: {error}") from None
            for utterance, label in zip(utterances, labels.tolist()):
                writer.write(utterance, label)
            num_done += 1
    log.log(f"Clustered {num_done} recordings.")
    return num_done


@tool(
    "compute-eer",
    "Print the equal error rate, in per cent, of lines '<score> target' and '<score> nontarget'.\n"
    "Usage: compute-eer <scores-in>\n"
    " e.g.: compute-eer -\n",
    arguments=(1, 1),
)
def compute_eer(options, scores_rxfilename):
    scores, is_target = [np.empty(0, np.float32)], [np.empty(0, bool)]
    with open_input(scores_rxfilename) as stream:
        for first_line, (words, labels) in read_columns(stream, "<score> <target|nontarget>"):
            scores.append(parse_scores(stream.name, first_line, words).astype(np.float32))
            is_target.append(parse_labels(stream.name, first_line, labels))
    all_scores, targets = np.concatenate(scores), np.concatenate(is_target)
    eer, threshold = kaldi_eer(all_scores[targets], all_scores[~targets])
    log.log(f"Equal error rate is {100 * eer:g}%, at threshold {threshold:g}")
    print(f"{100 * eer:.4g}", end="", flush=True)
