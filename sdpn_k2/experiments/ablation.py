"""The paper's questions as one grid of trainings (arXiv 2308.02774; the dimension regularisations: 2505.13826).

A variant is a change of the base configuration, the small or the published one. Variants that change nothing in it
(K = 128 where the base has 128 prototypes) are the base's own run. Every training gets an experiment folder,
OUT/<run>/seed<N>.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from sdpn_k2.config import Config, load_config
from sdpn_k2.errors import InputError

# Question → variants: (name, what it is, overrides of the base configuration). The base stands in many of them.
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
            ("fixed-prototypes", "prototypes that do not learn", ("train.prototype_lr_scale=0",)),
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
    """One line of the table: the answer ``label`` to ``question``, given by the run of that name."""

    question: str
    label: str
    run: str
    config: Config


@dataclass(frozen=True)
class Job:
    """One training: a run with a seed."""

    run: str
    config: Config

    def folder(self, out: Path) -> Path:
        """Its experiment folder."""
        return out / self.run / f"seed{self.config.seed}"


def grid(config_path: Optional[Path] = None, overrides: Sequence[str] = ()) -> List[Row]:
    """The lines of the table for a base configuration; lines of equal configurations share a run.

    Raises:
        InputError: a configuration that cannot be used, or whose method is not sdpn.
    """
    base = load_config(config_path, overrides)
    if base.method != "sdpn":
        raise InputError(
            f"the base configuration has method={base.method}, but the grid asks about SDPN and trains "
            "DINO besides: leave the method out"
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
    """All trainings, those with seed 0 first.

    Args:
        config_path: YAML file of the base configuration.
        overrides: of it, ``section.key=value``.
        seeds: how many, from 0 on.
        only: names of runs; all when empty.

    Raises:
        InputError: an unknown run, or a configuration that cannot be used.
    """
    runs = {row.run for row in grid(config_path, overrides)}
    unknown = [name for name in only if name not in runs]
    if unknown:
        raise InputError(f"there is no run {unknown[0]}; choose from {', '.join(sorted(runs))}")
    found: List[Job] = []
    for seed in range(seeds):
        for row in grid(config_path, [*overrides, f"seed={seed}"]):
            job = Job(row.run, row.config)
            if job not in found and (not only or row.run in only):
                found.append(job)
    return found
