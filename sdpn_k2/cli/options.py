"""Options that several commands share."""

import click


def config_options(command):
    """``--config FILE`` and ``--set section.key=value``, passed on as ``config_path`` and ``overrides``."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key: --set train.batch_size=128."
    )(command)
    return click.option(
        "--config", "config_path", type=click.Path(dir_okay=False), help="YAML file; its keys override the defaults."
    )(command)


device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:N, or auto: a GPU where there is one."
)


def window_options(command):
    """``--window``, ``--shift`` and ``--min-window``, in seconds."""
    for option in (
        click.option("--min-window", default=0.5, show_default=True, metavar="SECONDS", help="Least length at an end."),
        click.option("--shift", default=0.75, show_default=True, metavar="SECONDS", help="From window to window."),
        click.option("--window", default=1.5, show_default=True, metavar="SECONDS", help="Length of a window."),
    ):
        command = option(command)
    return command


checkpoint_option = click.option(
    "--checkpoint",
    "-c",
    required=True,
    envvar="SDPN_K2_CHECKPOINT",
    show_envvar=True,
    metavar="PATH",
    help="A checkpoint, or an experiment folder (its final.pt).",
)
