#!/usr/bin/env python3
"""Spread what will be written to one folder over several disks.

Usage: utils/create_split_dir.pl [--suffix X] disk-folder ... storage-folder

    utils/create_split_dir.pl /export/{a,b,c}/me/fbank exp/fbank/storage

makes the disk folders and exp/fbank/storage/1, 2, 3 as links to them. utils/create_data_link.pl exp/fbank/raw.1.ark
then puts that file on one of the disks. A disk folder that cannot be made is left out with a warning. Links that are
there stay as they are: files may lie behind them.
  --suffix X  the folder X in each disk folder
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
            script.warn(f"warning: left out {disk}: {error.strerror}")
    if not usable:
        raise InputError("none of the disk folders can be made")
    storage.mkdir(parents=True, exist_ok=True)
    for number, disk in enumerate(usable, start=1):
        link = storage / str(number)
        if not link.is_symlink():
            link.symlink_to(disk)
        elif link.resolve() != disk:
            script.warn(f"warning: link {link} already exists, not overwriting it: {link.resolve()}")


script.run(main, __doc__, arguments=(2, None), values={"--suffix": ""})
