"""Embeddings and decisions for single recordings: the class that ``sdpn_k2.load`` returns, and ``sdpn-k2 embed``."""

from __future__ import annotations

import io
import logging
import math
from collections import Counter
from numbers import Real
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sdpn_k2.errors import InputError, Skipped, error_context
from sdpn_k2.inference.extraction import Extractor, blocks
from sdpn_k2.inference.long_recordings import LongFeatures, is_long
from sdpn_k2.inference.partial_vectors import PartialVectors
from sdpn_k2.inference.verification import DecisionRule, Verdict
from sdpn_k2.kaldi.features.resample import resample
from sdpn_k2.kaldi.features.sound import check_not_silent
from sdpn_k2.kaldi.features.wave import convert_audio, decode_audio, path_or_content
from sdpn_k2.kaldi.formats.tables import script_lines
from sdpn_k2.kaldi.formats.words import is_key
from sdpn_k2.models.checkpoint import find_checkpoint
from sdpn_k2.pcm import from_int16
from sdpn_k2.progress import Progress
from sdpn_k2.scoring.backend import Backend
from sdpn_k2.scoring.calibration import Calibration
from sdpn_k2.scoring.vector_files import open_vectors, table_specifier

if TYPE_CHECKING:
    from lhotse import Recording
    from lhotse.cut import Cut

log = logging.getLogger(__name__)

Audio = Union[str, Path, np.ndarray, Tensor, bytes, IO[bytes], "Recording", "Cut"]

BLOCK_RECORDINGS = 32  # embedded and kept at a time; a stopped run repeats no more
SEGMENT_TOLERANCE = 0.01  # seconds that a segment may end after its recording, because times are often rounded


class Embedder:
    """A trained encoder that embeds recordings and compares speakers.

    Attributes:
        sample_rate: sample rate of the model, in Hz.
        dim: dimension of the embeddings.
        checkpoint: file that the model was loaded from; None if it was not.
    """

    def __init__(self, extractor: Extractor, checkpoint: Optional[Path] = None):
        self.extractor = extractor
        self.sample_rate = extractor.sample_rate
        self.dim = extractor.dim
        self.checkpoint = checkpoint
        self._backends: Dict[str, Backend] = {}

    def __repr__(self) -> str:
        return (
            f"Embedder({str(self.checkpoint)!r}, dim={self.dim}, sample_rate={self.sample_rate}, "
            f"device={str(self.extractor.device)!r})"
        )

    @classmethod
    def load(
        cls, checkpoint: Union[str, Path], device: Union[str, torch.device] = "auto", max_duration: float = 60.0
    ) -> Embedder:
        """Load a checkpoint; see ``sdpn_k2.load``."""
        path = find_checkpoint(checkpoint)
        return cls(Extractor.load(path, device, max_duration), path)

    def embed(
        self,
        audio: Audio,
        rate: Optional[int] = None,
        channel: int = 0,
        segment: Optional[Tuple[float, float]] = None,
    ) -> np.ndarray:
        """Return the embedding of a recording, float32 ``(dim,)``.

        Args:
            audio: a file (or ``-``, a FIFO, ``command |``); a waveform ``(samples,)`` or ``(1, samples)`` of floats in
                ±1 or int16, NumPy or torch; the content of a file as bytes, ``BytesIO`` or an open binary file; a
                recording or cut of lhotse.
            rate: sample rate of the waveform, if it is not the model's; it is then resampled. Files name their own.
            channel: channel to use in recordings with several (0-based).
            segment: ``(start, end)`` in seconds, to embed that part only.

        Raises:
            InputError: unreadable or silent audio; a waveform with several channels, NaN or another type; a rate that
                is not a whole number of Hz; a segment outside the recording; fewer than 5 frames (65 ms).
        """
        if segment is None and is_long(audio):
            (found,) = self._features({str(audio): audio}, rate, channel)
            if isinstance(found, Skipped):
                raise InputError(found.reason)
            embedding: np.ndarray = self.extractor.embed_fbank([found[1]])[0]
            return embedding
        samples, name, own_rate = self._samples(audio, rate, channel)
        self._warn_of_upsampling(own_rate < self.sample_rate, 1, own_rate)
        with error_context(name):
            return self.extractor.embed(samples if segment is None else _crop(samples, segment, self.sample_rate))

    def embed_many(
        self,
        recordings: Union[str, Path, Iterable[Audio], Mapping[str, Audio]],
        output: Optional[Union[str, Path]] = None,
        *,
        rate: Optional[int] = None,
        channel: int = 0,
        skip_bad: bool = False,
    ) -> Dict[str, np.ndarray]:
        """Embed many recordings in batches, with a progress bar on a terminal; return name → embedding ``(dim,)``.

        A run with an ``output`` that was stopped goes on where it was: finished embeddings are kept in a hidden file
        ``.<output>.<digest>.part`` until the output is complete. The digest is that of the model and the options.

        Args:
            recordings: any recordings that ``embed`` accepts, as a list or by name. Files are named as given, cuts and
                recordings of lhotse by their ids, and others "0", "1", … by position. A single file lists recordings:
                one file a line, or, in a ``.scp``, a name and a file or ``command |``.
            output: where to write the embeddings too; see ``write_vectors``.
            rate: sample rate of the waveforms, if it is not the model's.
            channel: channel to use in recordings with several (0-based).
            skip_bad: leave out recordings that cannot be embedded. Without it they are left out as well, but once the
                output is written they raise an error.

        Raises:
            InputError: no recordings; a duplicate name; an output that cannot be written; a name with white space for a
                Kaldi archive; recordings that cannot be embedded, or all of them with ``skip_bad``; any such one
                for a ``.npy`` file, whose rows have no names.
        """
        named, keep = name_recordings(recordings)
        target = "" if output is None else str(output)
        if table_specifier(target):
            spaced = [name for name in named if not is_key(name)]
            if spaced:
                raise InputError(
                    f"{spaced[0]!r}: a name with white space, control characters or byte 255 cannot be a key in a "
                    "Kaldi archive; use .json or .npy"
                )
        if not target:
            vectors, skipped = self.embed_usable(named, rate, channel)
        else:
            settings = repr((self.extractor.digest, self.extractor.max_frames, rate, channel)).encode()
            with PartialVectors(target if keep else "-", settings) as partial, open_vectors(target) as write:
                vectors, skipped = self.embed_usable(named, rate, channel, partial)
                if skipped and target.endswith(".npy"):
                    raise InputError(_summary(skipped, len(named)))
                write(vectors)
        check_embedded(vectors, skipped, skip_bad)
        return vectors

    def embed_usable(
        self,
        named: Mapping[str, Audio],
        rate: Optional[int] = None,
        channel: int = 0,
        partial: Optional[PartialVectors] = None,
    ) -> Tuple[Dict[str, np.ndarray], List[Skipped]]:
        """Return the embeddings of recordings in the order of ``named``, and the recordings that have none.

        Args:
            named: recordings that ``embed`` accepts, by name.
            rate: sample rate of the waveforms, if it is not the model's.
            channel: channel to use in recordings with several (0-based).
            partial: embeddings of a stopped run, to which this one appends its own.

        Raises:
            InputError: no recordings, or none that can be embedded.
        """
        if not named:
            raise InputError("there are no recordings to embed")
        found = {} if partial is None else partial.vectors
        done = {name: found[name] for name in named if name in found}
        skipped: List[Skipped] = []
        progress = Progress(len(named), "embedding, recordings", initial=len(done))
        missing = {name: audio for name, audio in named.items() if name not in done}
        for block in blocks(self._features(missing, rate, channel), BLOCK_RECORDINGS):
            if isinstance(block, Skipped):
                skipped.append(block)
                log.warning("skipped %s", block.reason)
                progress.update()
                continue
            new = {}
            for (name, _), vector in zip(block, self.extractor.embed_fbank([features for _, features in block])):
                if np.isfinite(vector).all():
                    new[name] = vector
                else:
                    skipped.append(
                        Skipped(name, f"{name}: its embedding is not finite; check the checkpoint's weights")
                    )
                    log.warning("skipped %s", skipped[-1].reason)
            done.update(new)
            if partial is not None:
                partial.append(new)
            progress.update(len(block))
        progress.close()
        log.info("done %d, failed %d", len(done), len(skipped))
        if not done:
            raise InputError(_summary(skipped, len(named)))
        return {name: done[name] for name in named if name in done}, skipped

    def verify(
        self,
        enroll: Union[Audio, Sequence[Audio]],
        test: Audio,
        *,
        backend: Optional[Union[str, Path, Backend]] = None,
        scoring: str = "auto",
        calibration: Optional[Union[str, Path, Calibration]] = None,
        threshold: Optional[float] = None,
        p_target: Optional[float] = None,
        channel: int = 0,
    ) -> Verdict:
        """Decide whether two recordings have the same speaker.

        Args:
            enroll: a recording of the speaker, or a list of several.
            test: recording to compare with it.
            backend: how to score: a ``Backend``, or a folder to load one from. By default, that of the experiment whose
                ``final.pt`` the model is, and plain cosines if it has none.
            scoring: ``cosine``, ``cosine_mean``, ``plda``, or ``auto`` for the last of these that the back end has.
            calibration: calibration of such scores (``sdpn-k2 calibrate``), for a likelihood ratio, a probability and a
                threshold at any prior.
            threshold: least score for "same speaker". By default, that of the calibration at ``p_target``; without a
                calibration, the one that the experiment's results.json holds, see ``p_target``.
            p_target: prior probability of "same speaker". By default, 0.5 for the probability, and the threshold at the
                EER without a calibration.
            channel: channel to use in recordings with several (0-based).

        Raises:
            InputError: no enrolment recording; a prior outside 0 to 1, or one that results.json has no threshold for; a
                calibration of other scores; all that ``embed`` and ``Backend.load`` raise.
        """
        chosen = self.backend(scoring, backend)
        rule = DecisionRule(chosen, calibration=calibration, threshold=threshold, p_target=p_target)
        several = list(enroll) if isinstance(enroll, (list, tuple)) else [enroll]
        if not several:
            raise InputError("no enrolment recordings; give at least one")
        vectors = np.stack([self.embed(audio, channel=channel) for audio in several])
        tested = self.embed(test, channel=channel)
        return rule.verdict(chosen.compare(vectors, tested))

    def backend(self, scoring: str = "auto", folder: Optional[Union[str, Path, Backend]] = None) -> Backend:
        """Load a back end, by default that of the experiment whose ``final.pt`` the model is; see ``Backend.load``.

        A ``folder`` that is a back end already is returned as it is.

        Raises:
            InputError: as ``Backend.load``; PLDA or a mean without an experiment.
        """
        if isinstance(folder, Backend):
            return folder
        if folder is not None:
            return Backend.load(folder, scoring)
        if scoring not in self._backends:
            self._backends[scoring] = self._load_own(scoring)
        return self._backends[scoring]

    def _load_own(self, scoring: str) -> Backend:
        # Other checkpoints of the experiment have embeddings of their own, for which its back end was not trained.
        if self.checkpoint is None or self.checkpoint.name != "final.pt":
            if scoring in ("auto", "cosine"):
                return Backend()
            raise InputError(
                f"{self.checkpoint}: {scoring} needs a back end; only an experiment's final.pt has its own"
            )
        experiment = self.checkpoint.parent
        if scoring == "auto" and not (experiment / "backend" / "mean.vec").is_file():
            scoring = "cosine"
        return Backend.load(experiment, scoring)

    def _warn_of_upsampling(self, count: int, total: int, rate: int) -> None:
        """Log how many recordings have a lower rate than the model; ``rate`` is the lowest, in Hz."""
        if count:
            log.warning(
                "%d of %d recordings are upsampled to the model's %d Hz (from %d Hz) and lack the upper band "
                "that it was trained on",
                count,
                total,
                self.sample_rate,
                rate,
            )

    def _samples(self, audio: Audio, rate: Optional[int], channel: int) -> Tuple[np.ndarray, str, int]:
        """Return one channel at the model's rate, float32 ``(samples,)`` in ±1; its name for messages; its own rate."""
        if isinstance(audio, (str, Path)):
            return self._decoded(path_or_content(str(audio)), str(audio), channel)
        if isinstance(audio, bytes):
            return self._decoded(audio, "the audio", channel)
        if isinstance(audio, Tensor):
            audio = audio.detach().cpu()
            audio = (audio.float() if audio.is_floating_point() else audio).numpy()  # NumPy has no bfloat16
        elif not isinstance(audio, np.ndarray) and hasattr(audio, "load_audio"):
            from sdpn_k2.data.cut_sets import load_cut_audio  # here, since lhotse takes a second to import

            cut: Union[Recording, Cut] = audio
            return self._resampled(load_cut_audio(cut, channel), cut.id, cut.sampling_rate)
        elif not isinstance(audio, np.ndarray) and hasattr(audio, "read"):
            name = str(getattr(audio, "name", "the audio"))
            return self._decoded(_content(audio), name, channel)
        samples = np.asarray(audio)
        if samples.ndim == 2 and len(samples) == 1:
            samples = samples[0]
        if samples.ndim != 1:
            raise InputError(f"a waveform should have shape (samples,); this one has shape {samples.shape}")
        if samples.dtype == np.int16:
            samples = from_int16(samples)
        elif not np.issubdtype(samples.dtype, np.floating):
            raise InputError(f"a waveform should hold floats in ±1 or int16; this one holds {samples.dtype}")
        if not np.isfinite(samples).all():
            raise InputError("the waveform has NaN or infinite samples")
        if rate is None:
            rate = self.sample_rate
        if not isinstance(rate, Real) or not math.isfinite(rate):
            raise InputError(f"the sample rate is {rate!r}; it must be a whole number of Hz")
        return self._resampled(samples, "the waveform", rate)

    def _resampled(self, samples: np.ndarray, name: str, rate: int) -> Tuple[np.ndarray, str, int]:
        with error_context(name):
            check_not_silent(samples)  # resampling makes edges
        return resample(samples, rate, self.sample_rate), name, int(rate)

    def _decoded(self, source: Union[str, bytes], name: str, channel: int) -> Tuple[np.ndarray, str, int]:
        samples, rate = decode_audio(source, name, channel)
        with error_context(name):
            check_not_silent(samples)
        return from_int16(convert_audio(samples, rate, self.sample_rate)), name, rate

    def _features(self, named: Mapping[str, Audio], rate: Optional[int], channel: int) -> Iterator[Any]:
        lower: List[int] = []
        for name, audio in named.items():
            try:
                if is_long(audio):
                    long = LongFeatures(self.extractor.front_end, str(audio), self.extractor.features, channel)
                    if long.rate_in < self.sample_rate:
                        lower.append(long.rate_in)
                    yield name, long
                    continue
                samples, source, own_rate = self._samples(audio, rate, channel)
                if own_rate < self.sample_rate:
                    lower.append(own_rate)
                with error_context(source):
                    features = self.extractor.compute_features(samples)
            except InputError as error:
                reason = str(error)
                yield Skipped(name, reason if name in reason else f"{name}: {reason}")
                continue
            yield name, features
        self._warn_of_upsampling(len(lower), len(named), min(lower, default=0))


def _content(stream: IO[bytes]) -> bytes:
    """Return all of a ``BytesIO``, wherever it stands, or the rest of another open file."""
    if isinstance(stream, io.TextIOBase):
        raise InputError(f"{getattr(stream, 'name', 'the audio')}: open as text; open it in mode 'rb'")
    return stream.getvalue() if isinstance(stream, io.BytesIO) else stream.read()


def _crop(samples: np.ndarray, segment: Tuple[float, float], rate: int) -> np.ndarray:
    """Return the samples of ``(start, end)`` in seconds."""
    try:
        start, end = map(float, segment)
    except (TypeError, ValueError):
        raise InputError(f"a segment is (start, end) in seconds, not {segment!r}") from None
    duration = len(samples) / rate
    if not 0 <= start < end < math.inf:
        raise InputError(f"the segment {start:g} to {end:g} s is not a start and a later end")
    if end > duration + SEGMENT_TOLERANCE:
        raise InputError(f"the segment {start:g} to {end:g} s ends after the recording, which has {duration:.2f} s")
    return samples[round(start * rate) : round(end * rate)]


def name_recordings(
    recordings: Union[str, Path, Iterable[Audio], Mapping[str, Audio]],
) -> Tuple[Dict[str, Audio], bool]:
    """Return the recordings by name, and whether all have names of their own rather than positions."""
    if isinstance(recordings, (str, Path)):
        recordings = _listed(Path(recordings))
    if isinstance(recordings, Mapping):
        return {str(name): audio for name, audio in recordings.items()}, True
    items = list(recordings)
    own = [str(item) if isinstance(item, (str, Path)) else getattr(item, "id", None) for item in items]
    names = [str(position) if name is None else name for position, name in enumerate(own)]
    duplicates = [name for name, times in Counter(names).items() if times > 1]
    if duplicates:
        raise InputError(f"{duplicates[0]}: duplicate file")
    return dict(zip(names, items)), None not in own


def _listed(path: Path) -> Union[List[Audio], Dict[str, Audio]]:
    """Read a list of files, one a line, or a script file of names and files."""
    if path.suffix == ".scp":
        entries = list(script_lines(str(path)))
        if len(dict(entries)) < len(entries):
            raise InputError(f"{path}: duplicate name")
        return dict(entries)
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror or error}") from error
    listed: List[Audio] = [line for line in lines if line.strip()]
    if not listed or "\0" in str(listed[0]):
        raise InputError(f"{path}: not a list of files, one a line; for a single recording, use embed")
    return listed


def check_embedded(vectors: Mapping[str, np.ndarray], skipped: Sequence[Skipped], skip_bad: bool) -> None:
    """Raise InputError, which counts them, for recordings that were skipped, unless ``skip_bad``."""
    if skipped and not skip_bad:
        raise InputError(_summary(skipped, len(vectors) + len(skipped)))


def _summary(skipped: Sequence[Skipped], total: int) -> str:
    first = skipped[0].reason
    return first if total == 1 else f"{len(skipped)} of {total} recordings could not be embedded; the first: {first}"
