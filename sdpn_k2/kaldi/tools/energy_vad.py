"""The command lines of voice activity detection: compute-vad and select-voiced-frames."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Optional

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.energy_vad import energy_vad
from sdpn_k2.kaldi.features.feature_table import read_features
from sdpn_k2.kaldi.formats.log import log, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter
from sdpn_k2.kaldi.tools.command_line import Option, tool


@tool(
    options=[
        Option("omit-unvoiced-utts", False, "Do not write out utterances that were judged 100% unvoiced"),
        Option("vad-energy-mean-scale", 0.5, "Part of the file's mean log energy that is added to the threshold"),
        Option("vad-energy-threshold", 5.0, "Constant term of the energy threshold"),
        Option("vad-frames-context", 0, "Number of frames of context on each side of the current frame"),
        Option("vad-proportion-threshold", 0.6, "Proportion of frames within the window that must be loud"),
    ],
)
def compute_vad(options: SimpleNamespace, feats_rspecifier: str, vad_wspecifier: str) -> int:
    """Write a vector for each utterance: 1.0 for frames judged voiced, 0.0 for the others.

    A frame is loud where its log energy, the first column of the features (MFCC with --use-energy=true), exceeds a
    threshold. It is voiced where enough of the frames around it are loud.

    Usage: compute-vad [options] <feats-rspecifier> <vad-wspecifier>
     e.g.: compute-vad scp:feats.scp ark:vad.ark
    """
    done = empty = unvoiced = 0
    voiced_frames = frames = 0
    with TableWriter(vad_wspecifier, "vector") as writer:
        for key, features in read_features(feats_rspecifier):
            if not len(features):
                warn(f"Empty feature matrix for utterance {key}")
                empty += 1
                continue
            voiced = energy_vad(
                features,
                energy_threshold=options.vad_energy_threshold,
                energy_mean_scale=options.vad_energy_mean_scale,
                frames_context=options.vad_frames_context,
                proportion_threshold=options.vad_proportion_threshold,
            )
            if voiced.any():
                done += 1
            else:
                warn(f"No frames were judged voiced for utterance {key}")
                unvoiced += 1
            voiced_frames += int(voiced.sum())
            frames += len(voiced)
            if voiced.any() or not options.omit_unvoiced_utts:
                writer.write(key, voiced.astype(np.float32))
    log(
        f"Applied energy based voice activity detection; processed {done} utterances successfully; "
        f"{empty} had empty features, and {unvoiced} were completely unvoiced."
    )
    log(f"Proportion of voiced frames was {voiced_frames / max(frames, 1):g} over {frames} frames.")
    return done


@tool(arguments=(3, 3))
def select_voiced_frames(
    options: SimpleNamespace, feats_rspecifier: str, vad_rspecifier: str, feats_wspecifier: str
) -> int:
    """Select the voiced frames of features.

    The vectors of compute-vad, or of a similar program, hold 1.0 for voiced frames and 0.0 for the others.

    Usage: select-voiced-frames [options] <feats-rspecifier> <vad-rspecifier> <feats-wspecifier>
     e.g.: select-voiced-frames scp:feats.scp scp:vad.scp ark:-
    """
    done = errors = 0
    with contextlib.ExitStack() as stack:
        decisions = stack.enter_context(RandomReader(vad_rspecifier, "vector"))
        writer = stack.enter_context(TableWriter(feats_wspecifier, "matrix"))
        for key, features in read_features(feats_rspecifier):
            voiced = decisions.get(key)
            fault = _fault(features, voiced)
            if fault:
                warn(f"{fault} for utterance {key}")
                errors += 1
                continue
            if not np.isin(voiced, (0.0, 1.0)).all():
                raise InputError(f"{vad_rspecifier}: the decisions for {key} are not all 0 or 1")
            writer.write(key, features[voiced == 1.0])
            done += 1
    log(f"Done selecting voiced frames; processed {done} utterances, {errors} had errors.")
    return done


def _fault(features: np.ndarray, voiced: Optional[np.ndarray]) -> Optional[str]:
    """Return why no voiced frames can be selected, in Kaldi's words, or None if they can be."""
    if not len(features):
        return "Empty feature matrix"
    if voiced is None:
        return "No VAD input found"
    if len(voiced) != len(features):
        return f"Mismatch in number for frames {len(features)} for features and VAD {len(voiced)},"
    return None if voiced.any() else "No features were judged as voiced"
