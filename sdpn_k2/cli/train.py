"""``sdpn-k2 train``: the encoder of an experiment."""

import logging
import os
import sys
import tempfile
from pathlib import Path

import click

from sdpn_k2.cli.shared_options import (
    FILE_OR_FOLDER,
    FOLDER,
    command_line,
    config_options,
    device_option,
    manifests_option,
)

# EX_TEMPFAIL of sysexits.h: the same command continues the run, so schedulers may requeue it.
EXIT_INTERRUPTED = 75


@click.command()
@config_options
@manifests_option
@click.option(
    "--resume",
    default="auto",
    metavar="auto|none|PATH",
    help="Continue from EXP's newest checkpoint if there is one (auto), start a new run (none), or continue from "
    "the checkpoint PATH.",
)
@click.option(
    "--init",
    type=FILE_OR_FOLDER,
    help="Start a new run from the weights of this checkpoint or experiment (of train, average or convert).",
)
@click.option(
    "--dev",
    type=FILE_OR_FOLDER,
    help="Log the EER during training on this Kaldi data directory with trials, or on this trial list in one, and keep "
    "the best checkpoint as best.pt.",
)
@device_option
@click.argument("cuts", type=FILE_OR_FOLDER)
@click.argument("exp", type=FOLDER)
def train(cuts: Path, exp: Path, manifests, resume: str, init, dev, device: str, config_path, overrides) -> None:
    """Train an encoder without speaker labels.

    CUTS is a manifest from select-cuts or a folder from shar. Checkpoints, logs and metrics go into the folder EXP.

    SIGTERM, SIGUSR1 and Ctrl-C write a checkpoint and end the run with exit status 75; the same command continues it. A
    second Ctrl-C ends it at once. For several processes:

        torchrun --nproc-per-node N -m sdpn_k2 train CUTS EXP …
    """
    from sdpn_k2.config import load_config
    from sdpn_k2.device import start_process
    from sdpn_k2.files import make_folder
    from sdpn_k2.progress import log_to
    from sdpn_k2.training.trainer import Interrupted, Trainer

    config = load_config(config_path, overrides)
    process = start_process(device)
    make_folder(exp)
    try:
        tempfile.gettempdir()  # torch's optimisers need one, which a container may lack
    except FileNotFoundError:
        os.environ["TMPDIR"] = str(exp.resolve())
    if process.is_main:
        log_to(exp / "train.log")
    try:
        final = Trainer(
            config,
            cuts,
            manifests or cuts.parent,
            exp,
            process,
            resume=resume,
            dev=dev,
            init=init,
            command=command_line(),
        ).run()
    except Interrupted as error:
        logging.getLogger(__name__).warning("%s", error)
        sys.exit(EXIT_INTERRUPTED)
    if process.is_main:
        click.echo(f"{final}: trained; metrics in {exp / 'metrics.jsonl'}, curves: tensorboard --logdir {exp}")
