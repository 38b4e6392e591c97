"""Build commands: the wheel carries the scripts, and the source distribution keeps the links between them.

pyproject.toml describes the package. In a wheel, the folders below are in ``sdpn_k2/share``, where
``sdpn_k2.installation`` looks for them.
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

FOLDERS = ("diarization", "egs", "local", "sid", "steps", "utils")
FOR_CHECKOUTS = {"utils/run_checks.sh", "utils/run_tests.sh", "utils/run_wheel.sh"}
# Replaces a link to a script, since a wheel has no links. A copy would not find the files beside the script.
FORWARD = """#!/usr/bin/env bash
exec "$(dirname "$(readlink -f "${{BASH_SOURCE[0]}}")")/{target}" "$@"
"""


def scripts():
    """Yield the files and links of FOLDERS as paths below this folder; not what runs of a recipe leave there."""
    for top in FOLDERS:
        for parent, folders, files in os.walk(top):
            if parent.count("/") == 1 and top == "egs":  # a recipe, which may hold data and experiments
                folders[:] = [name for name in folders if name in ("conf", *FOLDERS)]
                files = [name for name in files if name.endswith(".sh")]
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            links = [name for name in folders if os.path.islink(f"{parent}/{name}")]
            yield from (Path(parent, name) for name in sorted(links + files) if not name.endswith((".pyc", "~")))


class BuildWithScripts(build_py):
    """Adds ``sdpn_k2/share`` to a wheel."""

    def run(self):
        """Build the package, then copy the scripts."""
        super().run()
        if self.editable_mode:
            return
        share = Path(self.build_lib, "sdpn_k2", "share")
        shutil.rmtree(share, ignore_errors=True)
        for path in scripts():
            if str(path) in FOR_CHECKOUTS:
                continue
            for file in [path] if path.is_file() else linked_files(path):
                target = share / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
                if path.is_symlink() and file.read_bytes().startswith(b"#!"):
                    forward = os.path.relpath(file.resolve(), Path.cwd().resolve() / file.parent)
                    target.write_text(FORWARD.format(target=forward), encoding="utf-8")


def linked_files(link):
    """List the files in the folder behind ``link``; none for those of a recipe, which ``sdpn-k2 recipe`` makes."""
    return [] if link.parts[0] == "egs" else [path for path in link.iterdir() if path.is_file()]


class SdistWithLinks(sdist):
    """Stores links as links, and not what they point to."""

    def make_release_tree(self, base_dir, files):
        """Copy the files, and then the links."""
        paths = list(scripts())
        kept = {str(path) for path in paths if not path.is_symlink()}
        files = [name for name in files if name.partition("/")[0] not in FOLDERS or name in kept]
        super().make_release_tree(base_dir, files)
        for path in paths:
            if path.is_symlink():
                target = Path(base_dir, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(os.readlink(path))


setup(cmdclass={"build_py": BuildWithScripts, "sdist": SdistWithLinks})
