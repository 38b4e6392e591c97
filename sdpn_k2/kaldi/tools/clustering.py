"""The command line of clustering: agglomerative-cluster."""

from __future__ import annotations

import math
from types import SimpleNamespace

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.kaldi.backend import clustering
from sdpn_k2.kaldi.formats import log
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, read_table
from sdpn_k2.kaldi.tools.command_line import Option, tool


@tool(
    options=[
        Option(
            "first-pass-max-utterances",
            clustering.FIRST_PASS_MAX_POINTS,
            "With more utterances cluster in two passes: first contiguous subsets of this size, then the clusters of "
            "the first pass",
        ),
        Option(
            "max-spk-fraction",
            1.0,
            "Merge clusters only if together they hold at most this fraction of the utterances; active only when "
            "reco2num-spk-rspecifier is supplied and 1.0 / num-spk <= max-spk-fraction <= 1.0",
        ),
        Option(
            "read-costs",
            False,
            "If true, the first argument is interpreted as a matrix of costs rather than a similarity matrix",
        ),
        Option(
            "reco2num-spk-rspecifier",
            "",
            "If supplied, clustering creates exactly this many clusters for each recording and the option --threshold "
            "is ignored",
        ),
        Option("threshold", 0.0, "Merge clusters if their distance is less than this threshold"),
    ],
    arguments=(3, 3),
)
def agglomerative_cluster(
    options: SimpleNamespace, scores_rspecifier: str, reco2utt_rspecifier: str, labels_wspecifier: str
) -> int:
    """Cluster the utterances of each recording by their matrix of scores; write '<utterance> <label>'.

    Usage: agglomerative-cluster [options] <scores-rspecifier> <reco2utt-rspecifier> <labels-wspecifier>
     e.g.: agglomerative-cluster ark:scores.ark ark:reco2utt ark,t:labels.txt
    """
    sign = 1 if options.read_costs else -1
    reco2num_spk = RandomReader(options.reco2num_spk_rspecifier, "int") if options.reco2num_spk_rspecifier else None
    num_done = 0
    with TableWriter(labels_wspecifier, "int") as writer, RandomReader(reco2utt_rspecifier, "token_vector") as reco2utt:
        for recording, scores in read_table(scores_rspecifier, "matrix"):
            utterances = reco2utt.require(recording)
            if len(utterances) != len(scores):
                raise InputError(
                    f"{reco2utt_rspecifier}: {len(utterances)} utterances of {recording}, but its matrix "
                    f"in {scores_rspecifier} has {len(scores)} rows"
                )
            threshold, num_clusters, fraction = sign * options.threshold, 1, 1.0
            if reco2num_spk is not None:
                threshold = math.inf
                num_clusters = reco2num_spk.require(recording)
                if num_clusters < 1:
                    raise InputError(
                        f"{options.reco2num_spk_rspecifier}: {num_clusters} speakers of recording {recording} "
                        "(expected at least 1)"
                    )
                if 1.0 / num_clusters <= options.max_spk_fraction <= 1.0:
                    fraction = options.max_spk_fraction
            with error_context(f"{scores_rspecifier}: recording {recording}"):
                labels = clustering.agglomerative_cluster(
                    sign * scores,
                    threshold,
                    min_clusters=num_clusters,
                    max_cluster_fraction=fraction,
                    first_pass_max_points=options.first_pass_max_utterances,
                )
            for utterance, label in zip(utterances, labels.tolist()):
                writer.write(utterance, label)
            num_done += 1
    log.log(f"Clustered {num_done} recordings.")
    return num_done
