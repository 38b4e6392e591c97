"""``sdpn-k2 recipe``: a new folder with the recipe."""

import click


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--copy", is_flag=True, help="Copy the scripts, to change them, instead of linking to them.")
def recipe(directory, copy):
    """Make a recipe folder.

    DIR gets run.sh, cmd.sh, path.sh, conf, and links to the folders of scripts: utils, steps, sid, local. No file is
    overwritten. Then:

        cd DIR && bash run.sh
    """
    from sdpn_k2.errors import InputError
    from sdpn_k2.installation import make_recipe

    if not directory:
        raise InputError("DIR is empty; give a folder")
    names = make_recipe(directory, copy)
    click.echo(f"{directory}: made {', '.join(names)}")
