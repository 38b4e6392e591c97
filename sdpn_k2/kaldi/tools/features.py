"""Tools that compute features and voice activity, and that select and measure features."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zlib
from collections import deque
from typing import Callable, Iterable, Iterator, Optional, Tuple

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features.energy_vad import energy_vad
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions, FeatureOptions, MfccOptions, fbank, mfcc
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.io import open_input, open_output
from sdpn_k2.kaldi.formats.log import log, vlog, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableWriter, is_table, parse_rspecifier, read_table
from sdpn_k2.kaldi.tools.options import Option, tool


def _feature_options(kind):
    """What compute-fbank-feats or compute-mfcc-feats takes: the options of its features and those of the tool."""
    declared = dataclasses.fields(kind)
    return [Option(field.name.replace("_", "-"), field.default, field.metadata["help"]) for field in declared] + [
        Option("allow-downsample", False, "Resample waveforms of a higher rate than --sample-frequency"),
        Option("allow-upsample", False, "Resample waveforms of a lower rate than --sample-frequency"),
        Option("channel", -1, "Channel to extract (-1 -> expect mono, 0 -> left, 1 -> right)"),
        Option("debug-mel", False, "Accepted for Kaldi's sake, changes nothing"),
        Option("max-feature-vectors", -1, "Accepted for Kaldi's sake, changes nothing"),
        Option("min-duration", 0.0, "Minimum duration of segments to process (in seconds)"),
        Option("num-threads", 1, "Utterances that are computed at the same time (our extension)"),
        Option("output-format", "kaldi", "Format of the output files [kaldi, htk]"),
        Option("seed", 0, "Seed of the dither (our extension): with the same seed an utterance gets the same noise"),
        Option("subtract-mean", False, "Subtract mean of each feature file [CMS]; not recommended to do it this way"),
        Option("utt2spk", "", "Utterance to speaker-id map (if doing VTLN and you have warps per speaker)"),
        Option("vtln-map", "", "Map from utterance or speaker-id to vtln warp factor (rspecifier)"),
        Option("vtln-warp", 1.0, "Vtln warp factor (only applicable if vtln-map not specified)"),
        Option("write-utt2dur", "", "Wspecifier to write duration of each utterance in seconds, e.g. 'ark,t:utt2dur'"),
    ]


@tool(
    "compute-fbank-feats",
    """Create Mel-filter bank (FBANK) feature files.
Usage:  compute-fbank-feats [options...] <wav-rspecifier> <feats-wspecifier>""",
    options=_feature_options(FbankOptions),
)
def compute_fbank_feats(options, wav_rspecifier, feats_wspecifier):
    return _compute_features(options, wav_rspecifier, feats_wspecifier, FbankOptions, fbank, htk_code=0o7)


@tool(
    "compute-mfcc-feats",
    """Create MFCC feature files.
Usage:  compute-mfcc-feats [options...] <wav-rspecifier> <feats-wspecifier>""",
    options=_feature_options(MfccOptions),
)
def compute_mfcc_feats(options, wav_rspecifier, feats_wspecifier):
    return _compute_features(options, wav_rspecifier, feats_wspecifier, MfccOptions, mfcc, htk_code=0o6)


def _compute_features(options, wav_rspecifier, feats_wspecifier, kind, function, htk_code) -> int:
    feature_options = kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})
    function(np.zeros(0), feature_options)  # options that do not fit together fail here, before any output
    if options.output_format not in ("kaldi", "htk"):
        raise InputError(f"Invalid output_format string {options.output_format}: use kaldi or htk")
    if options.num_threads < 1 or options.seed < 0:
        raise InputError(f"--num-threads={options.num_threads} must be at least 1, --seed={options.seed} at least 0")
    if options.utt2spk and not options.vtln_map:
        raise InputError("the utt2spk option is only needed if the vtln-map option is used")

    def compute(utterance) -> Tuple[str, float, Optional[np.ndarray]]:
        key, wave, channel, warp = utterance
        try:
            samples = _at_rate(wave.samples[channel], wave.rate, options)
            rng = _noise_source(options.seed, key) if options.dither else None
            features = function(samples, feature_options, warp, rng)
        except InputError as error:
            warn(f"Failed to compute features for utterance {key}: {error}")
            return key, wave.duration, None
        if not len(features):
            warn(f"{key} is shorter than a frame ({wave.duration:g} sec): writing an empty matrix")
            return key, wave.duration, np.zeros((0, 0), np.float32)
        if options.subtract_mean:
            features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
        return key, wave.duration, features

    counts = {"all": 0, "done": 0}
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(read_table(wav_rspecifier, "wave"))
        htk = options.output_format == "htk"
        writer = stack.enter_context(TableWriter(feats_wspecifier, "bytes" if htk else "matrix"))
        durations = stack.enter_context(TableWriter(options.write_utt2dur, "float")) if options.write_utt2dur else None
        warps = None
        if options.vtln_map:
            warps = stack.enter_context(RandomReader(options.vtln_map, "float", options.utt2spk))
        utterances = _choose_channels(reader, options, warps, counts)
        for key, duration, features in _map_in_threads(compute, utterances, options.num_threads):
            if features is None:
                continue
            writer.write(key, _encode_htk(features, options, htk_code) if htk else features)
            if durations is not None:
                durations.write(key, duration)
            counts["done"] += 1
            if counts["done"] % 10 == 0:
                log(f"Processed {counts['done']} utterances")
            vlog(2, f"Processed features for key {key}")
    log(f" Done {counts['done']} out of {counts['all']} utterances.")
    return counts["done"]


def _choose_channels(reader, options, warps, counts) -> Iterator[Tuple[str, Wave, int, float]]:
    """Key, recording, channel and VTLN factor of each recording that can be used; counts all of them."""
    for key, wave in reader:
        counts["all"] += 1
        num_channels = len(wave.samples)
        if wave.duration < options.min_duration:
            warn(f"File: {key} is too short ({wave.duration:g} sec): producing no output.")
        elif options.channel >= num_channels:
            warn(
                f"File with id {key} has {num_channels} channels but you specified channel {options.channel}, "
                "producing no output."
            )
        elif warps is not None and key not in warps:
            warn(f"No vtln-map entry for utterance-id (or speaker-id) {key}")
        else:
            if options.channel == -1 and num_channels != 1:
                warn(f"Channel not specified but you have data with {num_channels} channels; defaulting to zero")
            yield key, wave, max(options.channel, 0), options.vtln_warp if warps is None else warps[key]


def _at_rate(samples: np.ndarray, rate: int, options) -> np.ndarray:
    wanted = options.sample_frequency
    if rate == wanted or (rate > wanted and options.allow_downsample) or (rate < wanted and options.allow_upsample):
        return resample(samples, rate, wanted)
    remedy = "--allow-downsample=true" if rate > wanted else "--allow-upsample=true"
    raise InputError(
        f"Waveform and config sample Frequency mismatch: {rate} .vs {wanted:g} (set --sample-frequency or use {remedy})"
    )


def _noise_source(seed: int, key: str) -> np.random.Generator:
    """The dither of an utterance: the same in whatever order, job or thread it is computed."""
    return np.random.default_rng((seed, zlib.crc32(key.encode("utf-8", "surrogateescape"))))


def _map_in_threads(function: Callable, items: Iterable, num_threads: int) -> Iterator:
    """Like map(), in several threads; results come in order, and only a few items wait in memory."""
    if num_threads == 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode_htk(features: np.ndarray, options: FeatureOptions, code: int) -> bytes:
    """An HTK parameter file: frames, shift in 100 ns, bytes per frame, kind; then the features, all big-endian."""
    kind = code | (0o100 if options.use_energy else 0o20000)
    header = struct.pack(">iihH", len(features), int(options.frame_shift * 10000), 4 * features.shape[1], kind)
    return header + features.astype(">f4").tobytes()


def read_features(rspecifier: str) -> Iterator[Tuple[str, np.ndarray]]:
    """The (key, features) pairs of a table, which must be finite (with the option ``p``: others are skipped)."""
    permissive = "p" in parse_rspecifier(rspecifier).options
    with read_table(rspecifier, "matrix") as reader:
        for key, features in reader:
            if np.isfinite(features).all():
                yield key, features
            elif permissive:
                warn(f"{reader.where}: the features of {key} are NaN or infinite; skipped, as asked by the option p")
            else:
                raise InputError(f"{reader.where}: the features of {key} are NaN or infinite")


@tool(
    "compute-vad",
    """This program reads input features and writes out, for each utterance, a vector of floats that are 1.0 if we judge
the frame voiced and 0.0 otherwise. It compares the log energy, which is the first column of the features (MFCC with
--use-energy=true), with a threshold, and takes the consensus of the frames around the current one.
Usage: compute-vad [options] <feats-rspecifier> <vad-wspecifier>
 e.g.: compute-vad scp:feats.scp ark:vad.ark""",
    options=[
        Option("omit-unvoiced-utts", False, "Do not write out utterances that were judged 100% unvoiced"),
        Option("vad-energy-mean-scale", 0.5, "Part of the file's mean log energy that is added to the threshold"),
        Option("vad-energy-threshold", 5.0, "Constant term of the energy threshold"),
        Option("vad-frames-context", 0, "Number of frames of context on each side of the current frame"),
        Option("vad-proportion-threshold", 0.6, "Proportion of frames within the window that must be loud"),
    ],
)
def compute_vad(options, feats_rspecifier, vad_wspecifier):
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
                options.vad_energy_threshold,
                options.vad_energy_mean_scale,
                options.vad_frames_context,
                options.vad_proportion_threshold,
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


@tool(
    "select-voiced-frames",
    """Select a subset of frames of the input files, based on the output of compute-vad or a similar program (a vector
of length num-frames, containing 1.0 for voiced, 0.0 for unvoiced).
Usage: select-voiced-frames [options] <feats-rspecifier> <vad-rspecifier> <feats-wspecifier>
 e.g.: select-voiced-frames scp:feats.scp scp:vad.scp ark:-""",
    arguments=(3, 3),
)
def select_voiced_frames(options, feats_rspecifier, vad_rspecifier, feats_wspecifier):
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
    """Why no voiced frames can be selected, if so."""
    if not len(features):
        return "Empty feature matrix"
    if voiced is None:
        return "No VAD input found"
    if len(voiced) != len(features):
        return f"Mismatch in number for frames {len(features)} for features and VAD {len(voiced)},"
    return None if voiced.any() else "No features were judged as voiced"


@tool(
    "subset-feats",
    """Copy a subset of features: the first n, or those named (or not named) in a list. --include and --exclude rule out
each other and --n. For a specific subset it is usually best to filter the scp file with utils/filter_scp.pl.
Usage: subset-feats [options] <in-rspecifier> <out-wspecifier>
 e.g.: subset-feats --n=10 ark:- ark:-
       subset-feats --include=include_uttlist ark:- ark:-""",
    options=[
        Option("n", 10, "Copy the first n feature files"),
        Option("include", "", "Text file, the first field of each line being an utterance-id that will be included"),
        Option("exclude", "", "Text file, the first field of each line being an utterance-id that will be excluded"),
    ],
)
def subset_feats(options, rspecifier, wspecifier):
    listed = options.include or options.exclude
    if options.include and options.exclude:
        raise InputError("should not have both --exclude and --include option")
    if listed and options.n != 10:
        raise InputError("should not have both a list of utterances and the --n option")
    if options.n < 1:
        raise InputError(f"Invalid option --n={options.n}. Should be at least 1")
    keys = _first_fields(listed) if listed else None
    done = total = 0
    with read_table(rspecifier, "matrix") as reader, TableWriter(wspecifier, "matrix") as writer:
        for key, features in reader:
            total += 1
            if keys is None or (key in keys) == bool(options.include):
                writer.write(key, features)
                done += 1
            if keys is None and total == options.n:
                break
    if keys is None:
        return None  # Kaldi's exit status is 0 even for no features
    log(f" Wrote {done} out of {total} utterances.")
    return done


def _first_fields(rxfilename: str) -> set:
    fields = set()
    with open_input(rxfilename) as stream:
        for line in stream.lines():
            if not line.strip():
                raise InputError(f"{rxfilename}: empty line in the list of utterances")
            fields.add(line.split(None, 1)[0])
    return fields


@tool(
    "feat-to-len",
    """Reads an archive of features and writes a corresponding archive that maps utterance-id to utterance length in
frames, or (with one argument) prints to stdout the total number of frames in the input archive.
Usage: feat-to-len [options] <in-rspecifier> [<out-wspecifier>]
 e.g.: feat-to-len scp:feats.scp ark,t:feats.lengths
   or: feat-to-len scp:feats.scp""",
    arguments=(1, 2),
)
def feat_to_len(options, rspecifier, wspecifier=None):
    with read_table(rspecifier, "general_matrix") as reader:
        if wspecifier is None:
            print(sum(features.shape[0] for _, features in reader))
            return
        with TableWriter(wspecifier, "int") as writer:
            for key, features in reader:
                writer.write(key, features.shape[0])


@tool(
    "feat-to-dim",
    """Reads an archive of features. If second argument is wxfilename, writes the feature dimension of the first feature
file; if second argument is wspecifier, writes an archive of the feature dimension, indexed by utterance id.
Usage: feat-to-dim [options] <feat-rspecifier> (<dim-wspecifier>|<dim-wxfilename>)
 e.g.: feat-to-dim scp:feats.scp -""",
)
def feat_to_dim(options, rspecifier, wspecifier_or_wxfilename):
    with read_table(rspecifier, "general_matrix") as reader:
        if is_table(wspecifier_or_wxfilename):
            with TableWriter(wspecifier_or_wxfilename, "int") as writer:
                for key, features in reader:
                    writer.write(key, features.shape[1])
            return
        first = next(iter(reader), None)
        if first is None:
            raise InputError(f"{rspecifier}: Could not read any features (empty archive?)")
        with open_output(wspecifier_or_wxfilename) as stream:
            stream.write(b"%d\n" % first[1].shape[1])
