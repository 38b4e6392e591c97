"""The command lines of cepstral mean and variance normalisation."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Iterable, List, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError, error_context
from sdpn_k2.kaldi.features.cmvn import accumulate, online_cmvn, skip_dims, sliding_cmvn
from sdpn_k2.kaldi.features.cmvn import apply_cmvn as normalise
from sdpn_k2.kaldi.features.feature_table import read_features
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, read_object, read_table, write_object
from sdpn_k2.kaldi.tools.command_line import Option, tool


@tool(
    options=[
        Option("center", False, "If true, use a window centered on the current frame (as far as the file allows)"),
        Option("cmn-window", 600, "Window in frames for running average CMN computation"),
        Option("max-warnings", 5, "Accepted for compatibility, without effect"),
        Option("min-cmn-window", 100, "Minimum CMN window used at the start of the file (only if center=false)"),
        Option("norm-vars", False, "If true, normalize variance to one"),
    ],
)
def apply_cmvn_sliding(options: SimpleNamespace, feats_rspecifier: str, feats_wspecifier: str) -> int:
    """Apply sliding-window cepstral mean (and optionally variance) normalization per utterance.

    With --center=true, the window is centered on the frame being normalized; otherwise it precedes it in time.

    Usage: apply-cmvn-sliding [options] <feats-rspecifier> <feats-wspecifier>
    """
    done = errors = 0
    with TableWriter(feats_wspecifier, "matrix") as writer:
        for key, features in read_features(feats_rspecifier):
            if not len(features):
                warn(f"Empty feature matrix for utterance {key}")
                errors += 1
                continue
            normalised = sliding_cmvn(
                features,
                window=options.cmn_window,
                min_window=options.min_cmn_window,
                center=options.center,
                norm_vars=options.norm_vars,
            )
            writer.write(key, normalised)
            done += 1
    what = "mean and variance" if options.norm_vars else "mean"
    log(f"Applied sliding-window cepstral {what} normalization to {done} utterances, {errors} had errors.")
    return done


@dataclass
class _Counts:
    """Numbers of utterances so far."""

    done: int = 0
    errors: int = 0


@tool(
    options=[
        Option("binary", True, "Write in binary mode (applies only to global CMN/CVN)"),
        Option("spk2utt", "", "Rspecifier for speaker to utterance-list map"),
        Option("weights", "", "Rspecifier for a vector of per-frame weights for each utterance"),
    ],
)
def compute_cmvn_stats(options: SimpleNamespace, feats_rspecifier: str, output: str) -> int:
    """Compute cepstral mean and variance normalization statistics.

    Write one matrix per utterance (with --spk2utt, per speaker) to a table, or one matrix for all utterances to a file.

    Usage: compute-cmvn-stats [options] <feats-rspecifier> (<stats-wspecifier>|<stats-wxfilename>)
     e.g.: compute-cmvn-stats --spk2utt=ark:data/train/spk2utt scp:data/train/feats.scp ark,scp:cmvn.ark,cmvn.scp
    See also: apply-cmvn
    """
    if options.spk2utt and not is_table(output):
        raise InputError("--spk2utt option not compatible with wxfilename as output (did you forget ark:?)")
    counts = _Counts()
    with contextlib.ExitStack() as stack:
        weights = stack.enter_context(RandomReader(options.weights, "vector")) if options.weights else None
        if options.spk2utt:
            _per_speaker(options.spk2utt, feats_rspecifier, output, weights, counts)
        elif is_table(output):
            _per_utterance(feats_rspecifier, output, weights, counts)
        else:
            _global(feats_rspecifier, output, weights, counts, options.binary)
    log(f"Done accumulating CMVN stats for {counts.done} utterances; {counts.errors} had errors.")
    return counts.done


def _statistics(
    key: str, features: np.ndarray, weights: Optional[RandomReader], counts: _Counts
) -> Optional[np.ndarray]:
    """Return the statistics of an utterance, or None after a warning if it must be skipped; count it either way.

    Raises:
        InputError: weights are NaN or infinite.
    """
    counts.errors += 1
    own = None
    if weights is not None:
        own = weights.get(key)
        if own is None:
            warn(f"No weights available for utterance {key}")
            return None
        if len(own) != len(features):
            warn(f"Weights for utterance {key} have wrong dimension {len(own)} vs. {len(features)}")
            return None
        if not np.isfinite(own).all():
            raise InputError(f"--weights: the weights of {key} are NaN or infinite")
    if not len(features):
        warn(f"Empty feature matrix for utterance {key}")
        return None
    counts.errors -= 1
    counts.done += 1
    return accumulate(features, own)


def _added(total: Optional[np.ndarray], stats: np.ndarray, key: str) -> np.ndarray:
    if total is None or total.shape == stats.shape:
        return stats if total is None else total + stats
    raise InputError(
        f"the features of {key} have {stats.shape[1] - 1} dimensions, but earlier ones have {total.shape[1] - 1}"
    )


def _per_utterance(feats_rspecifier: str, output: str, weights: Optional[RandomReader], counts: _Counts) -> None:
    with TableWriter(output, "double_matrix") as writer:
        for key, features in read_features(feats_rspecifier):
            stats = _statistics(key, features, weights, counts)
            if stats is not None:
                writer.write(key, stats)


def _per_speaker(
    spk2utt: str, feats_rspecifier: str, output: str, weights: Optional[RandomReader], counts: _Counts
) -> None:
    with contextlib.ExitStack() as stack:
        speakers = stack.enter_context(read_table(spk2utt, "token_vector"))
        table = stack.enter_context(RandomReader(feats_rspecifier, "matrix"))
        writer = stack.enter_context(TableWriter(output, "double_matrix"))
        for speaker, utterances in speakers:
            total: Optional[np.ndarray] = None
            for key in utterances:
                features = table.get(key)
                if features is None:
                    warn(f"Did not find features for utterance {key}")
                    counts.errors += 1
                    continue
                if not np.isfinite(features).all():
                    raise InputError(f"{feats_rspecifier}: the features of {key} are NaN or infinite")
                stats = _statistics(key, features, weights, counts)
                if stats is not None:
                    total = _added(total, stats, key)
            if total is None:
                warn(f"No stats accumulated for speaker {speaker}")
            else:
                writer.write(speaker, total)


def _global(feats_rspecifier: str, output: str, weights: Optional[RandomReader], counts: _Counts, binary: bool) -> None:
    total: Optional[np.ndarray] = None
    for key, features in read_features(feats_rspecifier):
        stats = _statistics(key, features, weights, counts)
        if stats is not None:
            total = _added(total, stats, key)
    if total is None:
        raise InputError(f"{feats_rspecifier}: there are no features to compute statistics from")
    # Kaldi stores global statistics in single precision.
    write_object(output, total.astype(np.float32), "matrix", binary)
    log(f"Wrote global CMVN stats to {output}")


@tool(
    options=[
        Option("norm-means", True, "You can set this to false to turn off mean normalization"),
        Option("norm-vars", False, "If true, normalize variances"),
        Option("reverse", False, "Apply the inverse: give normalised features the mean and variance of the statistics"),
        Option("skip-dims", "", "Dimensions to leave as they are: colon-separated list of integers, e.g. 13:14:15"),
        Option("utt2spk", "", "Rspecifier for utterance to speaker map"),
    ],
    arguments=(3, 3),
)
def apply_cmvn(options: SimpleNamespace, cmvn: str, feats_rspecifier: str, feats_wspecifier: str) -> int:
    """Apply cepstral mean and (optionally) variance normalization, per utterance or, with --utt2spk, per speaker.

    Usage: apply-cmvn [options] (<cmvn-stats-rspecifier>|<cmvn-stats-rxfilename>) <feats-rspecifier> <feats-wspecifier>
     e.g.: apply-cmvn --utt2spk=ark:data/train/utt2spk scp:data/train/cmvn.scp scp:data/train/feats.scp ark:-
    See also: compute-cmvn-stats
    """
    if options.norm_vars and not options.norm_means:
        raise InputError("You cannot normalize the variance but not the mean.")
    if options.utt2spk and not is_table(cmvn):
        raise InputError("--utt2spk option not compatible with rxfilename as input (did you forget ark:?)")
    skipped = _parse_dims(options.skip_dims)
    done = errors = 0
    with contextlib.ExitStack() as stack:
        table = stats = None
        if is_table(cmvn):
            table = stack.enter_context(RandomReader(cmvn, "double_matrix", options.utt2spk))
        else:
            stats = read_object(cmvn, "double_matrix")
        writer = stack.enter_context(TableWriter(feats_wspecifier, "matrix"))
        for key, features in read_features(feats_rspecifier):
            if options.norm_means:
                own = stats if table is None else table.get(key)
                if own is None:
                    warn(f"No normalization statistics available for key {key}, producing no output for this utterance")
                    errors += 1
                    continue
                with error_context(f"{cmvn}: utterance {key}"):
                    features = normalise(
                        features, skip_dims(own, skipped), norm_vars=options.norm_vars, reverse=options.reverse
                    )
            writer.write(key, features)
            done += 1
    what = "mean and variance" if options.norm_vars else "mean"
    log(f"Applied cepstral {what} normalization to {done} utterances, errors on {errors}")
    return done


@tool(
    options=[
        Option("cmn-window", 600, "Number of frames of sliding context for cepstral mean normalization"),
        Option("global-frames", 200, "Number of frames of global-average cepstral mean normalization stats"),
        Option(
            "norm-means",
            True,
            "If true, do mean normalization (note: you cannot normalize the variance but not the mean)",
        ),
        Option("norm-vars", False, "If true, do cepstral variance normalization in addition to mean normalization"),
        Option("skip-dims", "", "Dimensions to skip normalization of (colon-separated list of integers)"),
        Option("speaker-frames", 600, "Number of frames of previous utterance(s) from this speaker to use"),
        Option(
            "spk2utt", "", "Rspecifier for speaker to utterance-list map; earlier utterances of a speaker then help"
        ),
    ],
    arguments=(3, 3),
)
def apply_cmvn_online(
    options: SimpleNamespace, stats_rxfilename: str, feats_rspecifier: str, feats_wspecifier: str
) -> int:
    """Apply cepstral mean (and possibly variance) normalization online, from the frames up to each frame.

    Usage: apply-cmvn-online [options] <global-cmvn-stats> <feature-rspecifier> <feature-wspecifier>
     e.g.: apply-cmvn-online 'matrix-sum scp:data/train/cmvn.scp - |' scp:data/train/feats.scp ark:-
    """
    if options.norm_vars and not options.norm_means:
        raise InputError("You cannot normalize the variance but not the mean.")
    stats = read_object(stats_rxfilename, "double_matrix")
    skipped = _parse_dims(options.skip_dims)
    done = frames = errors = 0
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(TableWriter(feats_wspecifier, "matrix"))
        utterances: Iterable[Tuple[str, Optional[np.ndarray], bool]]
        if options.spk2utt:
            table = stack.enter_context(RandomReader(feats_rspecifier, "matrix"))
            spk2utt = stack.enter_context(read_table(options.spk2utt, "token_vector"))
            utterances = ((key, table.get(key), key == keys[0]) for _, keys in spk2utt if keys for key in keys)
        else:
            utterances = ((key, features, True) for key, features in read_features(feats_rspecifier))
        of_speaker = np.zeros(0)
        for key, features, is_first in utterances:
            if is_first:
                of_speaker = np.zeros((2, stats.shape[1]))
            if features is None:
                warn(f"No features for utterance {key}")
                errors += 1
                continue
            if not np.isfinite(features).all():
                raise InputError(f"{feats_rspecifier}: the features of {key} are NaN or infinite")
            with error_context(f"{stats_rxfilename}: utterance {key}"):
                normalised = online_cmvn(
                    features,
                    stats,
                    of_speaker,
                    window=options.cmn_window,
                    speaker_frames=options.speaker_frames,
                    global_frames=options.global_frames,
                    norm_vars=options.norm_vars,
                    skipped=skipped,
                )
            of_speaker += accumulate(features)
            writer.write(key, normalised if options.norm_means else features)
            done += 1
            frames += len(features)
    log(f"Applied online CMVN to {done} files, or {frames} frames; errors on {errors}.")
    return done


def _parse_dims(text: str) -> List[int]:
    try:
        return [int(word) for word in text.split(":")] if text else []
    except ValueError:
        raise InputError(f"--skip-dims={text} is not a colon-separated list of integers") from None
