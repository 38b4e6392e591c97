"""The folder of a training run: its configuration, the checkpoints it keeps, and the links best.pt and final.pt."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional

from sdpn_k2.config import Config, config_differences, config_to_yaml
from sdpn_k2.errors import InputError
from sdpn_k2.files import atomic_output, exclusive, make_folder
from sdpn_k2.models.checkpoint import (
    Checkpoint,
    checkpoint_path,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)

log = logging.getLogger(__name__)

# Keys that a resumed run may change: they decide how the run is computed and reported, not its result. Micro-batches
# are the borderline case, since batch normalisation sees one at a time.
RESUME_MAY_CHANGE = {
    "train.workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_every",
    "train.evaluate_every",
    "train.compile",
    "train.deterministic",
    "train.micro_batch_size",
}


class RunFolder:
    """The experiment folder ``exp`` of a run with ``config`` on ``data`` (:attr:`Checkpoint.data`)."""

    def __init__(self, exp: Path, config: Config, data: str):
        self.exp, self.config, self.data = exp, config, data
        self.checkpoints = exp / "checkpoints"
        make_folder(self.checkpoints)

    @property
    def newest(self) -> Optional[Path]:
        """The newest checkpoint, or None."""
        return latest_checkpoint(self.checkpoints)

    def newest_readable(self) -> Optional[Path]:
        """Return the newest checkpoint that can be read, or None if there is none at all.

        Damaged ones are renamed to ``….damaged``, with a warning: a disk was full, or the machine lost its power.

        Raises:
            InputError: none of the checkpoints can be read.
        """
        paths = list_checkpoints(self.checkpoints)
        damaged: Dict[Path, InputError] = {}
        for path in reversed(paths):
            try:
                load_checkpoint(path)
            except InputError as error:
                damaged[path] = error
                continue
            for bad, reason in damaged.items():
                kept = bad.with_name(f"{bad.name}.damaged")
                bad.replace(kept)
                log.warning("%s; renamed to %s, and continuing from %s", reason, kept.name, path.name)
            return path
        if damaged:
            reason = damaged[paths[-1]]
            raise InputError(f"{reason}; no checkpoint here can be read: remove {self.checkpoints} to start again")
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder, by a lock that ends with this process.

        Raises:
            InputError: another process trains here; the message names it and its host.
        """
        with exclusive(self.exp / ".lock", f"{self.exp}: another training runs in this folder"):
            yield

    def checkpoint(self, step: int) -> Path:
        """Return the path of the checkpoint after ``step`` steps."""
        return checkpoint_path(self.checkpoints, step)

    def load_for_resuming(self, path: Path, newest: Optional[Path]) -> Checkpoint:
        """Read the checkpoint that the run continues from.

        Args:
            path: the checkpoint, here or in another folder.
            newest: the newest checkpoint here, as rank 0 sees it.

        Raises:
            InputError: the checkpoint is unreadable; it has another configuration or other training data; the folder
                holds a later one.
        """
        checkpoint = load_checkpoint(path)
        differences = [
            f"{key} ({old} there, {new} now)"
            for key, old, new in config_differences(checkpoint.config, self.config)
            if key not in RESUME_MAY_CHANGE
        ]
        if differences:
            raise InputError(
                f"{path} was trained with another configuration: {', '.join(differences)}; use another folder"
            )
        if checkpoint.data not in ("", self.data):
            raise InputError(
                f"{path} was trained on other utterances ({checkpoint.data} there, {self.data} now): "
                f"use another folder, or remove {self.checkpoints} to start again"
            )
        if newest is not None and newest.name > self.checkpoint(checkpoint.step).name:
            raise InputError(
                f"--resume {path}: {newest} is from a later step, and --resume auto would continue from it: "
                "use another folder, or remove the later checkpoints"
            )
        return checkpoint

    def write_config(self) -> None:
        """Write the resolved configuration to ``config.yaml``."""
        with atomic_output(self.exp / "config.yaml", "w") as stream:
            stream.write(config_to_yaml(self.config))

    def save(self, checkpoint: Checkpoint, steps_per_epoch: int) -> None:
        """Write a checkpoint, and remove those that the configuration does not keep."""
        path = self.checkpoint(checkpoint.step)
        save_checkpoint(path, checkpoint)
        train = self.config.train
        remove_old_checkpoints(self.checkpoints, train.keep_checkpoints, round(train.keep_every * steps_per_epoch))
        log.info("wrote %s", path)

    def keep_best(self, step: int, eer: float) -> None:
        """Link ``best.pt`` to the checkpoint after ``step`` steps if its EER is the lowest of this run."""
        record = self.exp / "best_dev_eer"
        best = float(record.read_text().split()[0]) if record.is_file() else float("inf")
        path = self.checkpoint(step)
        if eer < best and path in list_checkpoints(self.checkpoints):
            # A hard link, since the checkpoint itself may be removed later.
            self._replace(self.exp / "best.pt", path, lambda link: os.link(path, link))
            with atomic_output(record, "w") as stream:
                stream.write(f"{eer:.4f} {path.name}\n")

    @property
    def final(self) -> Path:
        """The link to the last checkpoint of a finished run."""
        return self.exp / "final.pt"

    def link_final(self, step: int) -> None:
        """Link ``final.pt`` to the checkpoint after ``step`` steps."""
        path = self.checkpoint(step)
        self._replace(self.final, path, lambda link: link.symlink_to(path.relative_to(self.exp)))

    def _replace(self, name: Path, path: Path, make_link: Callable[[Path], None]) -> None:
        """Make ``name`` a link to ``path``, or a copy on file systems without links (exFAT, CIFS)."""
        link = name.with_name(f".{name.name}.new")
        try:
            link.unlink(missing_ok=True)
            make_link(link)
            link.replace(name)
            return
        except OSError as error:
            log.info("%s: copied, since links are not possible here (%s)", name, error.strerror)
        if name.is_symlink():
            name.unlink()
        with atomic_output(name) as output, open(path, "rb") as checkpoint:
            shutil.copyfileobj(checkpoint, output)
