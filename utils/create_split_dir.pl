#!/usr/bin/env python3
"""Spread the files of one folder over several disks.

Usage: utils/create_split_dir.pl [--suffix X] disk-folder ... storage-folder

    utils/create_split_dir.pl /export/{a,b,c}/me/fbank exp/fbank/storage

makes the disk folders, and links to them named exp/fbank/storage/1, 2, 3. Then utils/create_data_link.pl
exp/fbank/raw.1.ark places that file on one of the disks.

  --suffix X  use the folder X inside each disk folder

A disk folder that cannot be made is skipped with a warning. Existing links stay, since files may lie behind them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.errors import InputError
from sdpn_k2.kaldi.tools import script


def main(options, *arguments):
    *disks, storage = (Path(argument) for argument in arguments)
    disks = [disk / options.suffix for disk in disks]
    usable = []
    for disk in disks:
        try:
            disk.mkdir(parents=True, exist_ok=True)
            usable.append(disk.resolve())
        except OSError as error:
            script.warn(f"warning: skipped {disk}: {error.strerror}")
    if not usable:
        raise InputError("cannot make any of the disk folders")
    storage.mkdir(parents=True, exist_ok=True)
    for number, disk in enumerate(usable, start=1):
        link = storage / str(number)
        if not link.is_symlink():
            link.symlink_to(disk)
        elif link.resolve() != disk:
            script.warn(f"warning: link {link} already exists, not overwriting it: {link.resolve()}")


script.run(main, __doc__, arguments=(2, None), values={"--suffix": ""})
