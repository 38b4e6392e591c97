"""Tools for cepstral mean and variance normalisation."""

from __future__ import annotations

import contextlib

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.cmvn import accumulate, skip_dims, sliding_cmvn
from sdpn_k2.kaldi.features.cmvn import apply_cmvn as normalise
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, read_object, read_table, write_object
from sdpn_k2.kaldi.tools.features import read_features
from sdpn_k2.kaldi.tools.options import Option, tool


@tool(
    "apply-cmvn-sliding",
    """Apply sliding-window cepstral mean (and optionally variance) normalization per utterance. If center == true,
window is centered on frame being normalized; otherwise it precedes it in time.
Usage: apply-cmvn-sliding [options] <feats-rspecifier> <feats-wspecifier>""",
    options=[
        Option("center", False, "If true, use a window centered on the current frame (as far as the file allows)"),
        Option("cmn-window", 600, "Window in frames for running average CMN computation"),
        Option("max-warnings", 5, "Accepted for Kaldi's sake, changes nothing"),
        Option("min-cmn-window", 100, "Minimum CMN window used at the start of the file (only if center=false)"),
        Option("norm-vars", False, "If true, normalize variance to one"),
    ],
)
def apply_cmvn_sliding(options, feats_rspecifier, feats_wspecifier):
    done = errors = 0
    with TableWriter(feats_wspecifier, "matrix") as writer:
        for key, features in read_features(feats_rspecifier):
            if not len(features):
                warn(f"Empty feature matrix for utterance {key}")
                errors += 1
                continue
            normalised = sliding_cmvn(
                features, options.cmn_window, options.min_cmn_window, options.center, options.norm_vars
            )
            writer.write(key, normalised)
            done += 1
    what = "mean and variance" if options.norm_vars else "mean"
    log(f"Applied sliding-window cepstral {what} normalization to {done} utterances, {errors} had errors.")
    return done


@tool(
    "compute-cmvn-stats",
    """Compute cepstral mean and variance normalization statistics. If wspecifier provided: per-utterance by default, or
per-speaker if spk2utt option provided; if wxfilename: global.
Usage: compute-cmvn-stats [options] <feats-rspecifier> (<stats-wspecifier>|<stats-wxfilename>)
 e.g.: compute-cmvn-stats --spk2utt=ark:data/train/spk2utt scp:data/train/feats.scp ark,scp:cmvn.ark,cmvn.scp
See also: apply-cmvn""",
    options=[
        Option("binary", True, "write in binary mode (applies only to global CMN/CVN)"),
        Option("spk2utt", "", "rspecifier for speaker to utterance-list map"),
        Option("weights", "", "rspecifier for a vector of floats for each utterance, that's a per-frame weight."),
    ],
)
def compute_cmvn_stats(options, feats_rspecifier, output):
    if options.spk2utt and not is_table(output):
        raise InputError("--spk2utt option not compatible with wxfilename as output (did you forget ark:?)")
    counts = {"done": 0, "errors": 0}
    with contextlib.ExitStack() as stack:
        weights = stack.enter_context(RandomReader(options.weights, "vector")) if options.weights else None
        if options.spk2utt:
            _per_speaker(options.spk2utt, feats_rspecifier, output, weights, counts)
        elif is_table(output):
            _per_utterance(feats_rspecifier, output, weights, counts)
        else:
            _global(feats_rspecifier, output, weights, counts, options.binary)
    log(f"Done accumulating CMVN stats for {counts['done']} utterances; {counts['errors']} had errors.")
    return counts["done"]


def _statistics(key, features, weights, counts):
    """Statistics of an utterance, or None with a warning if its weights do not fit; counts it.

    Raises:
        InputError: weights that are NaN or infinite.
    """
    counts["errors"] += 1
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
    counts["errors"] -= 1
    counts["done"] += 1
    return accumulate(features, own)


def _added(total, stats, key):
    if total is None or total.shape == stats.shape:
        return stats if total is None else total + stats
    raise InputError(f"the features of {key} have {stats.shape[1] - 1} dimensions, those before {total.shape[1] - 1}")


def _per_utterance(feats_rspecifier, output, weights, counts):
    with TableWriter(output, "double_matrix") as writer:
        for key, features in read_features(feats_rspecifier):
            stats = _statistics(key, features, weights, counts)
            if stats is not None:
                writer.write(key, stats)


def _per_speaker(spk2utt, feats_rspecifier, output, weights, counts):
    with contextlib.ExitStack() as stack:
        speakers = stack.enter_context(read_table(spk2utt, "token_vector"))
        table = stack.enter_context(RandomReader(feats_rspecifier, "matrix"))
        writer = stack.enter_context(TableWriter(output, "double_matrix"))
        for speaker, utterances in speakers:
            total = None
            for key in utterances:
                features = table.get(key)
                if features is None:
                    warn(f"Did not find features for utterance {key}")
                    counts["errors"] += 1
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


def _global(feats_rspecifier, output, weights, counts, binary):
    total = None
    for key, features in read_features(feats_rspecifier):
        stats = _statistics(key, features, weights, counts)
        if stats is not None:
            total = _added(total, stats, key)
    if total is None:
        raise InputError(f"{feats_rspecifier}: no features to take statistics of")
    # Kaldi keeps global statistics in single precision.
    write_object(output, total.astype(np.float32), "matrix", binary)
    log(f"Wrote global CMVN stats to {output}")


@tool(
    "apply-cmvn",
    """Apply cepstral mean and (optionally) variance normalization. Per-utterance by default, or per-speaker if utt2spk
option provided.
Usage: apply-cmvn [options] (<cmvn-stats-rspecifier>|<cmvn-stats-rxfilename>) <feats-rspecifier> <feats-wspecifier>
 e.g.: apply-cmvn --utt2spk=ark:data/train/utt2spk scp:data/train/cmvn.scp scp:data/train/feats.scp ark:-
See also: compute-cmvn-stats""",
    options=[
        Option("norm-means", True, "You can set this to false to turn off mean normalization"),
        Option("norm-vars", False, "If true, normalize variances."),
        Option("reverse", False, "Apply the inverse: give normalised features the mean and variance of the statistics"),
        Option("skip-dims", "", "Dimensions to leave as they are: colon-separated list of integers, e.g. 13:14:15"),
        Option("utt2spk", "", "rspecifier for utterance to speaker map"),
    ],
    arguments=(3, 3),
)
def apply_cmvn(options, cmvn, feats_rspecifier, feats_wspecifier):
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
                try:
                    features = normalise(features, skip_dims(own, skipped), options.norm_vars, options.reverse)
                except InputError as error:
                    raise InputError(f"{cmvn}: utterance {key}: {error}") from None
            writer.write(key, features)
            done += 1
    what = "mean and variance" if options.norm_vars else "mean"
    log(f"Applied cepstral {what} normalization to {done} utterances, errors on {errors}")
    return done


def _parse_dims(text):
    try:
        return [int(word) for word in text.split(":")] if text else []
    except ValueError:
        raise InputError(f"Bad --skip-dims option {text!r} (should be colon-separated list of integers)") from None
