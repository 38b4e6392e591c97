"""The questions of the paper as one grid of training runs (arXiv 2308.02774; dimension regularisations: 2505.13826).

A variant changes the base configuration, which is the small or the published one. A variant without effect, such as
K = 128 where the base has 128 prototypes, shares the run of the base. Each training run has an experiment folder,
OUT/<run>/seed<N>.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from sdpn_k2.config import Config, load_config
from sdpn_k2.errors import InputError

# Question → variants: (name, label, overrides of the base configuration). Many of them include the base.
QUESTIONS: Tuple[Tuple[str, Tuple[Tuple[str, str, Tuple[str, ...]], ...]], ...] = (
    (
        "Method",
        (
            ("sdpn", "SDPN", ("method=sdpn",)),
            ("dino", "DINO", ("method=dino",)),
        ),
    ),
    (
        "Parts of SDPN",
        (
            ("sdpn", "all of it", ()),
            ("no-dr", "without L_DR", ("objective.dr_weight=0",)),
            ("no-me", "without L_ME", ("objective.me_weight=0",)),
            ("fixed-prototypes", "fixed prototypes", ("train.prototype_lr_scale=0",)),
        ),
    ),
    (
        "Prototypes",
        tuple(
            (f"k{count}", f"K = {count}", (f"objective.num_prototypes={count}",)) for count in (64, 128, 256, 512, 1024)
        ),
    ),
    (
        "Local crops",
        (
            ("local2", "2", ("crops.num_local=2",)),
            ("local4", "4", ("crops.num_local=4",)),
        ),
    ),
    (
        "Augmentation",
        (
            ("sdpn", "with", ()),
            ("no-augment", "without", ("augment.clean_prob=1", "augment.single_prob=0", "augment.mask_prob=0")),
        ),
    ),
    (
        "L_DR",
        (
            ("koleo", "KoLeo", ("objective.dim_reg=koleo",)),
            ("off-diagonal", "off-diagonal", ("objective.dim_reg=off_diagonal",)),
            ("frobenius", "Frobenius", ("objective.dim_reg=frobenius",)),
        ),
    ),
)


@dataclass(frozen=True)
class Row:
    """One row of the table: the variant ``label`` of ``question``, answered by a run."""

    question: str
    label: str
    run: str
    config: Config


@dataclass(frozen=True)
class Job:
    """One training: a run and a seed."""

    run: str
    config: Config

    def folder(self, out: Path) -> Path:
        """Return the experiment folder."""
        return out / self.run / f"seed{self.config.seed}"


def grid(config_path: Optional[Path] = None, overrides: Sequence[str] = ()) -> List[Row]:
    """Return the rows of the table for a base configuration; rows of equal configurations share a run.

    Raises:
        InputError: an unusable configuration, or one whose method is not sdpn.
    """
    base = load_config(config_path, overrides)
    if base.method != "sdpn":
        raise InputError(
            f"method={base.method}: the grid varies SDPN and adds DINO by itself; omit the method from the base "
            "configuration"
        )
    rows: List[Row] = []
    for question, variants in QUESTIONS:
        for name, label, changes in variants:
            config = load_config(config_path, [*overrides, *changes])
            run = next((row.run for row in rows if row.config == config), name)
            rows.append(Row(question, label, run, config))
    return rows


def jobs(
    config_path: Optional[Path] = None, overrides: Sequence[str] = (), seeds: int = 2, only: Sequence[str] = ()
) -> List[Job]:
    """Return all training runs, those with seed 0 first.

    Args:
        config_path: YAML file of the base configuration.
        overrides: changes to it, ``section.key=value``.
        seeds: number of seeds, from 0 on.
        only: names of runs; all when empty.

    Raises:
        InputError: an unknown run, or an unusable configuration.
    """
    runs = {row.run for row in grid(config_path, overrides)}
    unknown = [name for name in only if name not in runs]
    if unknown:
        raise InputError(f"{unknown[0]!r} is not a valid run (use one of {', '.join(sorted(runs))})")
    found: List[Job] = []
    for seed in range(seeds):
        for row in grid(config_path, [*overrides, f"seed={seed}"]):
            job = Job(row.run, row.config)
            if job not in found and (not only or row.run in only):
                found.append(job)
    return found
