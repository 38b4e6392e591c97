"""The command lines of features: compute-fbank-feats and compute-mfcc-feats."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zlib
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Callable, Deque, Iterable, Iterator, List, Optional, Tuple, Type, TypeVar

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.features import wave_commands  # noqa: F401  # readers know the commands of augmentation
from sdpn_k2.kaldi.features.fbank_mfcc import FbankOptions, FeatureOptions, MfccOptions, fbank, mfcc
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.wave import Wave
from sdpn_k2.kaldi.formats.log import log, vlog, warn
from sdpn_k2.kaldi.formats.tables import RandomReader, TableReader, TableWriter, read_table
from sdpn_k2.kaldi.tools.command_line import Option, tool

if TYPE_CHECKING:
    from concurrent.futures import Future

Utterance = Tuple[str, Wave, int, float]  # key, recording, channel, VTLN factor
Item = TypeVar("Item")
Result = TypeVar("Result")


def _feature_options(kind: Type[FeatureOptions]) -> List[Option]:
    """Return the options of a tool: those of its features, and those that both tools share."""
    declared = dataclasses.fields(kind)
    defaults = kind()
    own = [
        Option(field.name.replace("_", "-"), getattr(defaults, field.name), field.metadata["help"])
        for field in declared
    ]
    return own + [
        Option("allow-downsample", False, "Resample waveforms of a higher rate than --sample-frequency"),
        Option("allow-upsample", False, "Resample waveforms of a lower rate than --sample-frequency"),
        Option("channel", -1, "Channel to extract (-1 -> expect mono, 0 -> left, 1 -> right)"),
        Option("debug-mel", False, "Accepted for compatibility, without effect"),
        Option("max-feature-vectors", -1, "Accepted for compatibility, without effect"),
        Option("min-duration", 0.0, "Minimum duration of segments to process (in seconds)"),
        Option("num-threads", 1, "Utterances computed at the same time (our extension)"),
        Option("output-format", "kaldi", "Format of the output files [kaldi, htk]"),
        Option("seed", 0, "Seed of the dither (our extension); an utterance gets the same noise in every run"),
        Option("subtract-mean", False, "Subtract mean of each feature file [CMS]; not recommended to do it this way"),
        Option("utt2spk", "", "Utterance to speaker-id map (if doing VTLN and you have warps per speaker)"),
        Option("vtln-map", "", "Map from utterance or speaker-id to vtln warp factor (rspecifier)"),
        Option("vtln-warp", 1.0, "Vtln warp factor (only applicable if vtln-map not specified)"),
        Option("write-utt2dur", "", "Wspecifier to write duration of each utterance in seconds, e.g. 'ark,t:utt2dur'"),
    ]


@tool(options=_feature_options(FbankOptions))
def compute_fbank_feats(options: SimpleNamespace, wav_rspecifier: str, feats_wspecifier: str) -> int:
    """Create Mel-filter bank (FBANK) feature files.

    Usage:  compute-fbank-feats [options...] <wav-rspecifier> <feats-wspecifier>
    """
    return _compute_features(options, wav_rspecifier, feats_wspecifier, kind=FbankOptions, function=fbank, htk_code=0o7)


@tool(options=_feature_options(MfccOptions))
def compute_mfcc_feats(options: SimpleNamespace, wav_rspecifier: str, feats_wspecifier: str) -> int:
    """Create MFCC feature files.

    Usage:  compute-mfcc-feats [options...] <wav-rspecifier> <feats-wspecifier>
    """
    return _compute_features(options, wav_rspecifier, feats_wspecifier, kind=MfccOptions, function=mfcc, htk_code=0o6)


def _compute_features(
    options: SimpleNamespace,
    wav_rspecifier: str,
    feats_wspecifier: str,
    *,
    kind: Type[FeatureOptions],
    function: Callable[..., np.ndarray],
    htk_code: int,
) -> int:
    feature_options = kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})
    function(np.zeros(0), feature_options)  # incompatible options fail here, before any output
    if options.output_format not in ("kaldi", "htk"):
        raise InputError(f"Invalid output_format string {options.output_format}: use kaldi or htk")
    if options.num_threads < 1 or options.seed < 0:
        raise InputError(f"--num-threads={options.num_threads} must be at least 1, --seed={options.seed} at least 0")
    if options.utt2spk and not options.vtln_map:
        raise InputError("the utt2spk option is only needed if the vtln-map option is used")

    def compute(utterance: Utterance) -> Tuple[str, float, Optional[np.ndarray]]:
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

    recordings = _Recordings(options)
    done = 0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(read_table(wav_rspecifier, "wave"))
        htk = options.output_format == "htk"
        writer = stack.enter_context(TableWriter(feats_wspecifier, "bytes" if htk else "matrix"))
        durations = stack.enter_context(TableWriter(options.write_utt2dur, "float")) if options.write_utt2dur else None
        warps = None
        if options.vtln_map:
            warps = stack.enter_context(RandomReader(options.vtln_map, "float", options.utt2spk))
        utterances = recordings.choose(reader, warps)
        for key, duration, features in _map_in_threads(compute, utterances, options.num_threads):
            if features is None:
                continue
            writer.write(key, _encode_htk(features, feature_options, htk_code) if htk else features)
            if durations is not None:
                durations.write(key, duration)
            done += 1
            if done % 10 == 0:
                log(f"Processed {done} utterances")
            vlog(2, f"Processed features for key {key}")
    log(f" Done {done} out of {recordings.count} utterances.")
    return done


class _Recordings:
    """Choose the usable recordings, and count all recordings."""

    def __init__(self, options: SimpleNamespace):
        self.count = 0
        self._options = options

    def choose(self, reader: TableReader, warps: Optional[RandomReader]) -> Iterator[Utterance]:
        """Yield key, recording, channel and VTLN factor of each recording that can be used."""
        options = self._options
        for key, wave in reader:
            self.count += 1
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


def _at_rate(samples: np.ndarray, rate: int, options: SimpleNamespace) -> np.ndarray:
    wanted = options.sample_frequency
    if rate == wanted or (rate > wanted and options.allow_downsample) or (rate < wanted and options.allow_upsample):
        return resample(samples, rate, wanted)
    remedy = "--allow-downsample=true" if rate > wanted else "--allow-upsample=true"
    raise InputError(
        f"Waveform and config sample Frequency mismatch: {rate} .vs {wanted:g} (set --sample-frequency or use {remedy})"
    )


def _noise_source(seed: int, key: str) -> np.random.Generator:
    """Return the source of an utterance's dither, which depends on neither order nor job nor thread."""
    return np.random.default_rng((seed, zlib.crc32(key.encode("utf-8", "surrogateescape"))))


def _map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """Yield the results of map() in order, but compute them in threads and keep only a few in memory."""
    if num_threads == 1:
        yield from map(function, items)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(num_threads) as pool:
        waiting: Deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _encode_htk(features: np.ndarray, options: FeatureOptions, code: int) -> bytes:
    """Return an HTK parameter file: frames, shift in 100 ns, bytes per frame, kind, features; all big-endian."""
    kind = code | (0o100 if options.use_energy else 0o20000)
    header = struct.pack(">iihH", len(features), int(options.frame_shift * 10000), 4 * features.shape[1], kind)
    return header + bytes(features.astype(">f4").tobytes())
