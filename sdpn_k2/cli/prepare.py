"""``sdpn-k2 prepare``: from audio to lhotse manifests and Kaldi data directories."""

import click

from sdpn_k2.errors import InputError


def folder(name):
    """A folder as argument. An empty name, as of a variable never set in a script, would mean the current folder."""

    def check(context, parameter, value):
        if not value:
            raise InputError(f"no {parameter.human_readable_name} given: its name is empty")
        return value

    return click.argument(name, callback=check)


def scan_options(command):
    """Options of every command that decodes and checks audio."""
    for option in (
        click.option("--nj", "num_jobs", type=click.IntRange(1), help="Threads.  [default: one per core]"),
        click.option("--max-bad", default=5.0, show_default=True, help="Give up above this percentage of bad audio."),
    ):
        command = option(command)
    return command


@click.group()
def prepare():
    """Prepare a corpus: lhotse manifests and Kaldi data directories."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")


@prepare.command()
@folder("root")
@click.option("--seed", default=0, show_default=True, help="Fixes every byte of the corpus.")
@click.option("--num-train-speakers", default=60, show_default=True, help="Speakers of the training set.")
@click.option("--num-test-speakers", default=20, show_default=True, help="Speakers of the test set.")
@click.option("--num-utterances", default=12, show_default=True, help="Utterances per speaker, 3 to 8 s each.")
@click.option("--nj", "num_jobs", type=click.IntRange(1), help="Processes.  [default: one per core]")
def demo(root, **options):
    """Make the demo corpus in ROOT: synthetic speech, noises and room responses, as an audio folder."""
    from sdpn_k2.data.corpora.demo import make_demo

    counts = make_demo(root, **options)
    click.echo(f"{root}: made " + ", ".join(f"{count} {name}" for name, count in counts.items()), err=True)


@prepare.command("audio-dir")
@folder("root")
@folder("data")
@click.option("--train-dir", help="Training set, <speaker>/<utterance>.wav.  [default: ROOT/train]")
@click.option("--test-dir", help="Test set with its trials.  [default: ROOT/test]")
@click.option("--noise-dir", help="Noises.  [default: ROOT/noise, where it exists]")
@click.option("--rir-dir", help="Room impulse responses.  [default: ROOT/rir, where it exists]")
@click.option("--channel", default=0, show_default=True, help="Channel to use of recordings with several, from 0.")
@scan_options
def audio_dir(root, data, train_dir, test_dir, noise_dir, rir_dir, **options):
    """Prepare an audio folder, ROOT/<set>/<speaker>/<utterance>.wav, and write to DATA."""
    from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir

    folders = {"train": train_dir, "test": test_dir, "noise": noise_dir, "rir": rir_dir}
    prepare_audio_dir(root, data, {name: folder for name, folder in folders.items() if folder}, **options)


@prepare.command("kaldi-dir")
@folder("train")
@folder("data")
@click.option(
    "--eval-dir", "eval_dirs", multiple=True, help="Data directory with trials; may be repeated. Named as its folder."
)
@click.option("--noise-dir", help="Folder of noises.")
@click.option("--rir-dir", help="Folder of room impulse responses.")
@scan_options
def kaldi_dir(train, data, eval_dirs, noise_dir, rir_dir, **options):
    """Prepare Kaldi data directories: TRAIN to train on, those of --eval-dir for evaluation, and write to DATA."""
    from pathlib import Path

    from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs

    names = [Path(folder).resolve().name for folder in eval_dirs]
    if len(set(names)) < len(names):
        raise click.UsageError(f"evaluation sets need folders of different names, got {', '.join(names)}")
    folders = {kind: folder for kind, folder in (("noise", noise_dir), ("rir", rir_dir)) if folder}
    prepare_kaldi_dirs(train, dict(zip(names, eval_dirs)), data, folders, **options)


@prepare.command()
@folder("voxceleb1")
@folder("voxceleb2")
@folder("data")
@click.option("--trials-dir", "trials", help="Folder of trial lists as published.  [default: anywhere under VOXCELEB1]")
@click.option("--musan-root", "musan", help="MUSAN: noise, music and speech.")
@click.option("--rirs-root", "rirs_noises", help="RIRS_NOISES: impulse responses.")
@scan_options
def voxceleb(voxceleb1, voxceleb2, data, **options):
    """Prepare VoxCeleb: train on VoxCeleb2-dev, evaluate on the VoxCeleb1-O, -E and -H lists, and write to DATA."""
    from sdpn_k2.data.corpora.voxceleb import prepare_voxceleb

    prepare_voxceleb(voxceleb1, voxceleb2, data, **options)
