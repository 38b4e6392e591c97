"""``sdpn-k2 train``."""

import logging
import sys
from pathlib import Path

import click

from sdpn_k2.cli.options import config_options, device_option

# sysexits.h's EX_TEMPFAIL: run again and it goes on. Schedulers requeue on it.
EXIT_INTERRUPTED = 75


@click.command()
@config_options
@click.option(
    "--manifests",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of recordings_{noise,speech,music,rir}.jsonl.gz for augmentation.  [default: beside CUTS]",
)
@click.option(
    "--resume",
    default="auto",
    show_default=True,
    metavar="auto|none|PATH",
    help="Take up EXP's newest checkpoint where there is one, or start anew, or take up PATH.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Start a new run from the weights of this checkpoint (from training, average or convert).",
)
@click.option(
    "--dev",
    type=click.Path(path_type=Path, file_okay=False),
    help="Kaldi data directory with trials: its EER is logged on the way, the best checkpoint kept.",
)
@device_option
@click.argument("cuts", type=click.Path(path_type=Path))
@click.argument("exp", type=click.Path(path_type=Path, file_okay=False))
def train(cuts: Path, exp: Path, manifests, resume: str, init, dev, device: str, config_path, overrides) -> None:
    """Train SDPN on the utterances of CUTS (a manifest from select-cuts, or a folder from shar), into the folder EXP.

    A run that was stopped is taken up from its newest checkpoint. SIGTERM and SIGUSR1 write a checkpoint and leave with
    exit status 75. Several processes: torchrun --nproc-per-node N -m sdpn_k2 train …
    """
    from sdpn_k2.config import load_config
    from sdpn_k2.device import start_process
    from sdpn_k2.files import make_folder
    from sdpn_k2.progress import log_to
    from sdpn_k2.training.trainer import Interrupted, Trainer

    config = load_config(config_path, overrides)
    process = start_process(device)
    make_folder(exp)
    if process.is_main:
        log_to(exp / "train.log")
    try:
        final = Trainer(config, cuts, manifests or cuts.parent, exp, process, resume=resume, dev=dev, init=init).run()
    except Interrupted as error:
        logging.getLogger(__name__).warning("%s", error)
        sys.exit(EXIT_INTERRUPTED)
    if process.is_main:
        click.echo(f"{final}: trained; metrics in {exp / 'metrics.jsonl'}, curves: tensorboard --logdir {exp}")
