"""``sdpn-k2 kaldi <tool> …``: the drop-in tools without utils/kaldi-bin on the PATH."""

import sys

import click

from sdpn_k2.cli.shared_options import completed_by


@click.command(
    "kaldi",
    add_help_option=False,
    options_metavar="",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument(
    "arguments",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="TOOL [OPTIONS] ARGUMENTS",
    shell_complete=completed_by("kaldi_tools"),
)
def kaldi(arguments):
    """Run one of Kaldi's command-line tools.

    The tool is a reimplementation with Kaldi's options and formats. It gets all arguments after its name:

        sdpn-k2 kaldi copy-vector scp:xvector.scp ark,t:-

    "sdpn-k2 kaldi TOOL --help" explains a tool; without a name, the tools are listed. This puts all of them, and the
    scripts of utils, steps, sid and local, on the PATH of a shell, behind Kaldi's own binaries:

        eval "$(sdpn-k2 kaldi --path)"
    """
    from sdpn_k2.cli.groups import suggestion
    from sdpn_k2.errors import InputError
    from sdpn_k2.kaldi import tools

    if arguments == ("--path",):
        from sdpn_k2.installation import shell_setup

        click.echo(shell_setup(), nl=False)
        return

    if not arguments or arguments[0] in ("--help", "-h"):
        click.echo(click.get_current_context().get_help())
        click.echo("\nTools:\n  " + "\n  ".join(tools.names()))
        return
    if arguments[0] not in tools.names():
        hint = suggestion(arguments[0], tools.names()) or ' "sdpn-k2 kaldi" lists the tools.'
        raise click.UsageError(f"No such tool '{arguments[0]}'.{hint}")
    try:
        sys.exit(tools.run(arguments[0], arguments[1:]))
    except InputError as error:
        raise click.ClickException(str(error)) from None
