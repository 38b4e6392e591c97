"""``sdpn-k2 voices``: list the voices of a gallery, rename or remove one."""

import click

from sdpn_k2.cli.shared_options import gallery_argument


@click.command("voices")
@click.option("--remove", metavar="NAME", help="Remove this voice with all its embeddings.")
@click.option("--rename", nargs=2, metavar="NAME NEW", help="Rename a voice.")
@gallery_argument
def voices(remove, rename, gallery):
    """List, rename or remove enrolled voices.

    Prints the voices of GALLERY, and how many recordings each was enrolled from.
    """
    from sdpn_k2.inference.gallery_folder import read_voices, remove_voice, rename_voice

    if remove and rename:
        raise click.UsageError("--remove and --rename exclude each other")
    if remove:
        remove_voice(gallery, remove)
    elif rename:
        rename_voice(gallery, *rename)
    for name, count in sorted(read_voices(gallery).num_utts.items()):
        click.echo(f"{name} {count}")
