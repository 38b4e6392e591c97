"""The scripts and recipes that belong to the package: in a checkout beside it, from a wheel in ``sdpn_k2/share``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import List, Union

from sdpn_k2.errors import InputError
from sdpn_k2.files import make_folder

RECIPE = Path("egs", "voxceleb")
FOLDERS = ("diarization", "local", "sid", "steps", "utils")  # a recipe has links to them, or copies


def scripts_root() -> Path:
    """Return the folder that holds ``utils``, ``steps``, ``sid``, ``local`` and ``egs``.

    Raises:
        InputError: the folder is missing.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "share", package.parent):
        if (folder / "utils" / "kaldi-bin").is_dir():
            return folder
    raise InputError(f"{package}: the folder share, with Kaldi's scripts, is missing: install sdpn_k2 again")


def programs_folder() -> Path:
    """Return the folder of this installation's ``python3`` and ``sdpn-k2``.

    Raises:
        InputError: no folder has both.
    """
    # The folder of an environment's python3, not that of the interpreter it links to.
    places = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for folder in places:
        if all(os.access(folder / name, os.X_OK) for name in ("python3", "sdpn-k2")):
            return folder
    raise InputError(
        f"{places[0]}: this folder has no python3 with sdpn-k2 beside it: install sdpn_k2 into an environment "
        "(python3 -m venv)"
    )


def shell_setup() -> str:
    """Return the lines for a POSIX shell that put the tools and scripts on ``PATH``, behind Kaldi's own binaries."""
    root = scripts_root()
    settings = {"sdpn_k2_root": root, "sdpn_k2_bin": programs_folder()}
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
    return "\n".join([*lines, f". {shlex.quote(str(root / 'utils' / 'tool_path.sh'))}", ""])


def make_recipe(directory: Union[str, Path], copy: bool = False) -> List[str]:
    """Make a recipe folder: ``run.sh``, ``cmd.sh``, ``path.sh``, ``conf`` and the folders of scripts.

    Args:
        directory: the folder; it may exist, but without any of these names.
        copy: copy the folders of scripts instead of linking to them.

    Returns:
        The names that were made.

    Raises:
        InputError: a name exists, or the folder cannot be written. Nothing is changed then.
    """
    directory, root = Path(directory), scripts_root()
    programs = programs_folder()
    own = sorted(path for path in (root / RECIPE).iterdir() if path.name == "conf" or path.suffix == ".sh")
    shared = [root / name for name in FOLDERS if (root / name).is_dir()]
    names = [path.name for path in own + shared]
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: exists and is not a folder: name another one")
    for name in names:
        if os.path.lexists(directory / name):
            raise InputError(f"{directory / name}: already exists, so nothing was written: name another folder")
    make_folder(directory)
    try:
        with tempfile.TemporaryDirectory(prefix=".recipe.", dir=directory) as temporary:
            for path in own + shared:
                target = Path(temporary, path.name)
                if path in shared and not copy:
                    target.symlink_to(path)
                elif path.is_dir():
                    shutil.copytree(path, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(path, target)
            _set_programs(Path(temporary, "path.sh"), programs)
            for name in names:
                os.rename(Path(temporary, name), directory / name)
    except OSError as error:
        raise InputError(f"{directory}: cannot write this folder: {error.strerror or error}") from error
    return names


def _set_programs(path: Path, programs: Path) -> None:
    """Write the folder of the programs into ``path.sh``."""
    text = path.read_text(encoding="utf-8")
    setting = f"sdpn_k2_bin={shlex.quote(str(programs))}"
    path.write_text(re.sub(r"^sdpn_k2_bin=", lambda _: setting, text, count=1, flags=re.MULTILINE), encoding="utf-8")
