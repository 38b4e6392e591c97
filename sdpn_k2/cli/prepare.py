"""``sdpn-k2 prepare``: audio to lhotse manifests and Kaldi data directories."""

import click

from sdpn_k2.cli.groups import SuggestingGroup
from sdpn_k2.cli.shared_options import channel_option, together
from sdpn_k2.errors import MAX_SKIPPED_SHARE, InputError


def folder(name):
    """Declare an argument that is a folder, and refuse an empty name.

    An unset shell variable gives an empty name, which pathlib would read as the current folder.
    """

    def check(context, parameter, value):
        if not value:
            raise InputError(f"{parameter.human_readable_name} is empty; give a folder")
        return value

    return click.argument(name, callback=check)


num_jobs_option = click.option(
    "--nj", "num_jobs", type=click.IntRange(1), show_default="one per core", help="Number of parallel jobs."
)

# The options of every command that decodes and checks audio.
scan_options = together(
    num_jobs_option,
    click.option(
        "--max-bad", default=100 * MAX_SKIPPED_SHARE, help="Give up if more than this percentage of a set is unusable."
    ),
    click.option(
        "--sample-rate",
        "rate",
        type=click.IntRange(1000, 768000),
        default=16000,
        metavar="HZ",
        help="Sample rate of the prepared sets; audio at other rates is resampled on reading.",
    ),
)


@click.group(cls=SuggestingGroup)
def prepare():
    """Prepare a corpus for training and scoring.

    Every command but "demo" writes lhotse manifests and Kaldi data directories.
    """
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")


@prepare.command()
@folder("root")
@click.option("--seed", default=0, help="Random seed; it determines every byte of the corpus.")
@click.option("--num-train-speakers", default=60, help="Number of speakers in the training set.")
@click.option("--num-test-speakers", default=20, help="Number of speakers in the test set.")
@click.option("--num-utterances", default=12, help="Number of utterances per speaker, 3 to 8 s each.")
@num_jobs_option
def demo(root, **options):
    """Make a demo corpus of synthetic speech.

    ROOT becomes an audio folder of speech, noises and room responses, for "prepare audio-dir".
    """
    from sdpn_k2.data.corpora.demo import make_demo

    counts = make_demo(root, **options)
    click.echo(f"{root}: made " + ", ".join(f"{count} {name}" for name, count in counts.items()), err=True)


@prepare.command("audio-dir")
@folder("root")
@folder("data")
@click.option("--train-dir", show_default="ROOT/train", help="Training set, <speaker>/<utterance>.wav.")
@click.option("--test-dir", show_default="ROOT/test", help="Test set with its trial lists.")
@click.option("--noise-dir", show_default="ROOT/noise if it exists", help="Noises for augmentation.")
@click.option("--rir-dir", show_default="ROOT/rir if it exists", help="Room impulse responses for augmentation.")
@click.option("--unlabelled", is_flag=True, help="Take any tree of files for training, without folders of speakers.")
@channel_option
@scan_options
def audio_dir(root, data, train_dir, test_dir, noise_dir, rir_dir, **options):
    """Prepare a folder of audio files.

    ROOT holds <set>/<speaker>/<utterance>.wav. Manifests and data directories are written to DATA.
    """
    from sdpn_k2.data.corpora.audio_dir import prepare_audio_dir

    folders = {"train": train_dir, "test": test_dir, "noise": noise_dir, "rir": rir_dir}
    prepare_audio_dir(root, data, {name: folder for name, folder in folders.items() if folder}, **options)


@prepare.command("kaldi-dir")
@folder("train")
@folder("data")
@click.option(
    "--eval-dir",
    "eval_dirs",
    multiple=True,
    help="Data directory with trials, an evaluation set named after the folder. Repeatable.",
)
@click.option("--noise-dir", help="Noises for augmentation.")
@click.option("--rir-dir", help="Room impulse responses for augmentation.")
@scan_options
def kaldi_dir(train, data, eval_dirs, noise_dir, rir_dir, **options):
    """Prepare Kaldi data directories.

    TRAIN is the directory to train on. Manifests and data directories are written to DATA.
    """
    from pathlib import Path

    from sdpn_k2.data.corpora.kaldi_dir import prepare_kaldi_dirs

    names = [Path(folder).resolve().name for folder in eval_dirs]
    if len(set(names)) < len(names):
        raise click.UsageError(f"folders of evaluation sets must have different names, got {', '.join(names)}")
    folders = {kind: folder for kind, folder in (("noise", noise_dir), ("rir", rir_dir)) if folder}
    prepare_kaldi_dirs(train, dict(zip(names, eval_dirs)), data, folders, **options)


@prepare.command()
@folder("voxceleb1")
@folder("voxceleb2")
@folder("data")
@click.option(
    "--trials-dir", "trials", show_default="anywhere under VOXCELEB1", help="Folder of published trial lists."
)
@click.option("--musan-root", "musan", help="MUSAN corpus: noise, music and speech.")
@click.option("--rirs-root", "rirs_noises", help="RIRS_NOISES corpus: room impulse responses.")
@scan_options
def voxceleb(voxceleb1, voxceleb2, data, **options):
    """Prepare VoxCeleb1 and VoxCeleb2.

    Training uses VoxCeleb2-dev; evaluation uses the lists VoxCeleb1-O, -E and -H. Manifests and data directories are
    written to DATA.
    """
    from sdpn_k2.data.corpora.voxceleb import prepare_voxceleb

    prepare_voxceleb(voxceleb1, voxceleb2, data, **options)
