"""Options and argument types that several commands share."""

import importlib
import shlex
import sys
from pathlib import Path
from typing import Any, Callable, List, TypeVar

import click

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE_OR_FOLDER = click.Path(path_type=Path)

Command = TypeVar("Command", bound=Callable[..., Any])


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Make one decorator of several options, which the help lists in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def completed_by(name: str) -> Callable[..., List[str]]:
    """Return a function that completes values by a function of ``cli/completion.py``, imported when called."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> List[str]:
        function: Callable[..., List[str]] = getattr(importlib.import_module("sdpn_k2.cli.completion"), name)
        return function(context, parameter, incomplete)

    return complete


def command_line() -> str:
    """Return this process's command line, for results that record how they were made."""
    return "sdpn-k2 " + shlex.join(sys.argv[1:])


# Passed on as config_path and overrides, the arguments of sdpn_k2.config.load_config.
config_options = together(
    click.option(
        "--config", "config_path", type=click.Path(dir_okay=False), help="YAML file whose keys override the defaults."
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=completed_by("config_keys"),
        help="Override one key, such as train.batch_size=128. Repeatable.",
    ),
)

device_option = click.option(
    "--device",
    default="auto",
    shell_complete=completed_by("devices"),
    help="Device to compute on: cpu, cuda, cuda:N, or auto (a GPU if there is one).",
)

channel_option = click.option(
    "--channel", type=click.IntRange(min=0), default=0, help="Channel to use in multi-channel files (0-based)."
)

max_duration_option = click.option(
    "--max-duration",
    default=60.0,
    metavar="SECONDS",
    help="Longest recording to embed in one piece; longer ones are split, and their embeddings averaged.",
)

# Passed on as window, shift and min_window, the fields of Windowing.
window_options = together(
    click.option("--window", default=1.5, metavar="SECONDS", help="Length of a window."),
    click.option("--shift", default=0.75, metavar="SECONDS", help="Time from one window to the next."),
    click.option("--min-window", default=0.5, metavar="SECONDS", help="Shortest window at the end of a segment."),
)

manifests_option = click.option(
    "--manifests",
    type=FOLDER,
    show_default="the folder of CUTS",
    help="Folder of recordings_{noise,speech,music,rir}.jsonl.gz for augmentation.",
)

mean_option = click.option(
    "--mean", metavar="FILE", help="Vector to subtract from every embedding, such as the recipe's mean.vec."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

# Passed on as backend and scoring, the arguments of Backend.load.
backend_options = together(
    click.option(
        "--backend",
        metavar="FOLDER",
        help="Score with the mean, LDA and PLDA of this experiment, or of a folder with mean.vec, transform.mat, plda.",
    ),
    click.option(
        "--scoring",
        type=click.Choice(["auto", "cosine", "cosine_mean", "plda"]),
        default="auto",
        help="Kind of score. auto is PLDA if the back end has one, else the cosine after its mean, else the cosine.",
    ),
)

skip_bad_option = click.option(
    "--skip-bad", is_flag=True, help="Exit with status 0 even if some recordings cannot be used, as long as one can."
)

# Passed on as threshold, calibration and p_target, the arguments of DecisionRule.
decision_options = together(
    click.option("--threshold", type=float, help="Least score for the same speaker.", show_default="see above"),
    click.option(
        "--calibration",
        metavar="FILE",
        help='Add the probability, by a calibration that "sdpn-k2 calibrate" trained on such scores.',
    ),
    click.option(
        "--p-target",
        type=float,
        show_default="0.5; without a calibration, the threshold at the EER",
        help="Prior probability that the speaker is the same. Without a calibration: 0.01, 0.05, 0.1 or 0.5.",
    ),
)

gallery_argument = click.argument("gallery", type=FOLDER)
