"""Open-set identification: which of the enrolled voices speaks in a recording, if any?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from sdpn_k2.errors import InputError
from sdpn_k2.inference.embedder import Audio, Embedder, check_embedded, name_recordings
from sdpn_k2.inference.gallery_folder import (
    UNKNOWN,
    GalleryModel,
    Stamp,
    Voices,
    check_model,
    check_name,
    is_gallery,
    read_voices,
    remove_voice,
    rename_voice,
    stamp,
    update,
)
from sdpn_k2.inference.verification import DecisionRule, Verdict
from sdpn_k2.scoring.backend import Backend, Enrolled
from sdpn_k2.scoring.calibration import Calibration
from sdpn_k2.scoring.embeddings import Embeddings, vector_norms

BLOCK_VOICES = 2048  # prepared at a time
SPARE = 10  # candidates beyond those asked for, since float32 may swap neighbours


@dataclass(frozen=True)
class Candidate:
    """A voice that a recording was compared with; ``llr`` and ``probability`` are None without a calibration."""

    name: str
    score: float
    llr: Optional[float]
    probability: Optional[float]


@dataclass(frozen=True)
class Identification:
    """The answer to "who is this?"; ``print`` shows it in lines.

    Attributes:
        name: the voice; None if no score reaches the threshold ("unknown"), or if there is no threshold.
        verdict: the decision on the best candidate, as ``Embedder.verify`` gives it.
        best: the best candidates, best first.
        num_voices: how many voices the recording was compared with.
    """

    name: Optional[str]
    verdict: Verdict
    best: List[Candidate]
    num_voices: int

    def __str__(self) -> str:
        answer = self.name or ("no decision" if self.verdict.same_speaker is None else UNKNOWN)
        best = ", ".join(f"{candidate.name} {candidate.score:.4f}" for candidate in self.best)
        return "\n".join([answer, *self.verdict.grounds(), f"{f'best of {self.num_voices}':<12} {best}"])


class Gallery:
    """Enrolled voices in a folder, such as ``Gallery.open("voices", model)``.

    The folder holds Kaldi's ``spk_xvector.scp`` and ``num_utts.ark`` beside the embeddings of all recordings. Any
    number of processes may enrol and identify at once. Voices that another process enrols are seen at the next call.
    """

    def __init__(self, folder: Union[str, Path], model: Embedder) -> None:
        """Use ``Gallery.open`` or ``Gallery.create``."""
        self.folder = Path(folder)
        self.model = model
        path = model.checkpoint
        self._id = GalleryModel(model.extractor.digest, model.dim, "" if path is None else str(path.absolute()))
        self._read: Optional[Tuple[Stamp, Voices]] = None
        self._enrolled: Optional[Tuple[Voices, str, List[str], List[Enrolled]]] = None

    @classmethod
    def open(cls, folder: Union[str, Path], model: Embedder, missing_ok: bool = False) -> Gallery:
        """Open a gallery.

        Args:
            folder: the gallery.
            model: the model that its voices were enrolled with (``sdpn_k2.load``).
            missing_ok: let the first enrolment make the gallery if the folder is empty or does not exist.

        Raises:
            InputError: not a gallery; one of another model (the message has both digests).
        """
        gallery = cls(folder, model)
        if is_gallery(gallery.folder) or not missing_ok:
            check_model(gallery.folder, gallery._id)
        else:
            gallery._read = (), Voices.empty(model.dim)
        return gallery

    @classmethod
    def create(cls, folder: Union[str, Path], model: Embedder) -> Gallery:
        """Make an empty gallery in a folder that is empty or does not exist.

        Raises:
            InputError: the folder is a gallery already or holds other files, or it cannot be written.
        """
        gallery = cls(folder, model)
        if is_gallery(gallery.folder):
            raise InputError(f"{folder}: this gallery exists already; open it")
        update(gallery.folder, lambda voices: voices, gallery._id)
        return gallery

    def __repr__(self) -> str:
        return f"Gallery({str(self.folder)!r}, {len(self)} voices, model {self._id.digest[:12]})"

    def __len__(self) -> int:
        """Return the number of voices."""
        return len(self._voices().rows)

    @property
    def num_utts(self) -> Dict[str, int]:
        """The number of recordings of each voice, by name, in the order of enrolment."""
        return self._voices().num_utts

    def enroll(self, name: str, *audio: Union[Audio, Sequence[Audio]], channel: int = 0, skip_bad: bool = False) -> int:
        """Add recordings of a voice; return how many the voice has now.

        A recording that the voice has already, by its embedding, is not added again. So a call that failed can be
        repeated.

        Args:
            name: the voice, new or enrolled before.
            audio: recordings that ``Embedder.embed`` accepts, or lists of them.
            channel: channel to use in recordings with several (0-based).
            skip_bad: leave out recordings that cannot be embedded. Without it they are left out as well, but once the
                others are enrolled they raise an error.

        Raises:
            InputError: a name with blanks, or "unknown"; no recordings; recordings that cannot be embedded; a gallery
                that cannot be written, which then keeps the voices that it had.
        """
        check_name(name)
        recordings: List[Audio] = []
        for given in audio:
            recordings += given if isinstance(given, (list, tuple)) else [given]
        vectors, skipped = self.model.embed_usable(name_recordings(recordings)[0], channel=channel)
        self.enroll_embeddings({name: np.stack(list(vectors.values()))})
        check_embedded(vectors, skipped, skip_bad)
        return self.num_utts[name]

    def enroll_embeddings(self, embeddings: Mapping[str, np.ndarray]) -> None:
        """Add embeddings of any number of voices, which this gallery's model computed.

        Args:
            embeddings: ``(dim,)``, or ``(recordings, dim)``, by the name of the voice.

        Raises:
            InputError: embeddings of another shape, of zero norm, or with NaN or infinity; otherwise as ``enroll``.
        """
        added: Dict[str, np.ndarray] = {}
        for name, given in embeddings.items():
            check_name(name)
            vectors = np.atleast_2d(np.asarray(given, np.float32))
            if vectors.ndim != 2 or vectors.shape[1] != self.model.dim or not len(vectors):
                raise InputError(
                    f"{name}: embeddings of this gallery have shape ({self.model.dim},) or (recordings, "
                    f"{self.model.dim}), not {np.shape(given)}"
                )
            vector_norms(Embeddings([name] * len(vectors), vectors, f"the embeddings of {name}"))
            added[name] = vectors
        self._read = update(self.folder, lambda voices: voices.with_added(added), self._id)

    def remove(self, name: str) -> None:
        """Remove a voice with all its embeddings. Raises InputError if there is none of this name."""
        remove_voice(self.folder, name)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a voice. Raises InputError if there is none of this name, or one of the new name already."""
        rename_voice(self.folder, name, new_name)

    def identify(
        self,
        audio: Audio,
        *,
        best: int = 5,
        channel: int = 0,
        backend: Optional[Union[str, Path, Backend]] = None,
        scoring: str = "auto",
        calibration: Optional[Union[str, Path, Calibration]] = None,
        threshold: Optional[float] = None,
        p_target: Optional[float] = None,
    ) -> Identification:
        """Find the voice that speaks in a recording, if it is enrolled.

        The score of each voice, and the threshold, are those of ``Embedder.verify``. The recording is compared with
        every voice, so false alarms add up: of many voices, one may reach a threshold by chance. With a calibration,
        set ``p_target`` to the share of recordings whose speaker is enrolled, divided by the number of voices.

        Args:
            audio: a recording that ``Embedder.embed`` accepts.
            best: how many candidates to return.
            channel: channel to use in recordings with several (0-based).
            backend: how to score, as for ``Embedder.verify``.
            scoring: kind of score, as for ``Embedder.verify``.
            calibration: calibration of such scores, for likelihood ratios, probabilities and a threshold at any prior.
            threshold: least score for a voice to be named, as for ``Embedder.verify``.
            p_target: prior probability that the recording is of one particular voice.

        Raises:
            InputError: no voices are enrolled; all that ``Embedder.verify`` raises.
        """
        rule = self._rule(backend, scoring, calibration, threshold, p_target)
        return self._answer(self.model.embed(audio, channel=channel), rule, best)

    def identify_many(
        self,
        recordings: Union[str, Path, Iterable[Audio], Mapping[str, Audio]],
        *,
        best: int = 5,
        channel: int = 0,
        skip_bad: bool = False,
        **decision: Any,
    ) -> Iterator[Tuple[str, Identification]]:
        """Identify the speakers of many recordings, which are embedded in batches; yield the name and the answer.

        Args:
            recordings: as for ``Embedder.embed_many``.
            best: how many candidates to return.
            channel: channel to use in recordings with several (0-based).
            skip_bad: leave out recordings that cannot be embedded. Without it they are left out as well, but after the
                other answers they raise an error.
            decision: ``backend``, ``scoring``, ``calibration``, ``threshold`` and ``p_target``, as for ``identify``.

        Raises:
            InputError: as ``identify`` and ``Embedder.embed_many``.
        """
        rule = self._rule(**decision)
        vectors, skipped = self.model.embed_usable(name_recordings(recordings)[0], channel=channel)
        for name, vector in vectors.items():
            yield name, self._answer(vector, rule, best)
        check_embedded(vectors, skipped, skip_bad)

    def identify_embedding(self, embedding: np.ndarray, *, best: int = 5, **decision: Any) -> Identification:
        """Find the voice of an embedding ``(dim,)``, which this gallery's model computed; see ``identify``."""
        embedding = np.asarray(embedding)
        if embedding.shape != (self.model.dim,):
            raise InputError(f"embeddings of this gallery have shape ({self.model.dim},), not {embedding.shape}")
        return self._answer(embedding, self._rule(**decision), best)

    def _rule(
        self,
        backend: Optional[Union[str, Path, Backend]] = None,
        scoring: str = "auto",
        calibration: Optional[Union[str, Path, Calibration]] = None,
        threshold: Optional[float] = None,
        p_target: Optional[float] = None,
    ) -> DecisionRule:
        """Return the rule of ``Embedder.verify``; raise InputError if it, or this gallery, cannot be used."""
        if not len(self):
            raise InputError(f"{self.folder}: no voices are enrolled")
        chosen = self.model.backend(scoring, backend)
        return DecisionRule(chosen, calibration=calibration, threshold=threshold, p_target=p_target)

    def _answer(self, embedding: np.ndarray, rule: DecisionRule, best: int) -> Identification:
        """Find the best candidates by a matrix product, and score these again in double precision."""
        if best < 1:
            raise InputError(f"best is {best}; it must be at least 1")
        voices, backend = self._voices(), rule.backend
        tested = Embeddings(["the recording"], embedding[None])
        names, groups = self._prepared(voices, backend)
        scores = np.concatenate(
            [group.factors @ backend.test_factors(tested, group)[0].astype(np.float32) for group in groups]
        )
        count = min(best + SPARE, len(scores))
        names = [names[row] for row in np.argpartition(scores, -count)[-count:]]
        utterances, spk2utt = voices.embeddings(names)
        exact = backend.pairs(utterances, tested, spk2utt).scores(None)[:, 0]
        order = np.argsort(-exact, kind="stable")[:best]
        verdicts = [rule.verdict(exact[row]) for row in order]
        candidates = [
            Candidate(names[row], verdict.score, verdict.llr, verdict.probability)
            for row, verdict in zip(order, verdicts)
        ]
        name = candidates[0].name if verdicts[0].same_speaker else None
        return Identification(name, verdicts[0], candidates, len(voices.rows))

    def _voices(self) -> Voices:
        """Return all voices; read them again if another process changed them."""
        current = stamp(self.folder)
        if self._read is None or current != self._read[0]:
            self._read = current, read_voices(self.folder)
        return self._read[1]

    def _prepared(self, voices: Voices, backend: Backend) -> Tuple[List[str], List[Enrolled]]:
        """Return all names, and the voices prepared for a back end, those with equally many recordings together.

        They are in float32, which halves the memory to read for each answer.
        """
        kind = backend.kind
        if self._enrolled is None or self._enrolled[0] is not voices or self._enrolled[1] != kind:
            by_size: Dict[int, List[str]] = {}
            for name, rows in voices.rows.items():
                by_size.setdefault(len(rows), []).append(name)
            groups = [self._group(voices, backend, names) for names in by_size.values()]
            self._enrolled = voices, kind, [name for group in groups for name in group.names], groups
        return self._enrolled[2:]

    def _group(self, voices: Voices, backend: Backend, names: List[str]) -> Enrolled:
        """Prepare voices with equally many recordings, block by block, since large temporary arrays are slow."""
        blocks = []
        for start in range(0, len(names), BLOCK_VOICES):
            block = backend.enroll(*voices.embeddings(names[start : start + BLOCK_VOICES]))
            blocks.append(block._replace(factors=block.factors.astype(np.float32)))
        return Enrolled(names, np.concatenate([block.factors for block in blocks]), blocks[0].num_utts)
