#!/usr/bin/env python3
"""Prepare files on the disks that utils/create_split_dir.pl has set up.

Usage: utils/create_data_link.pl file ...

    utils/create_data_link.pl exp/fbank/raw.1.ark

makes exp/fbank/raw.1.ark a link to that name in one of exp/fbank/storage/1, 2, ..., the same one every time.
Where there is no folder storage beside the file, nothing is done.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.tools import script


def main(_options, *arguments):
    for argument in arguments:
        file = Path(argument)
        disks = sorted(disk for disk in (file.parent / "storage").glob("*") if disk.name.isdigit())
        if not disks:
            continue
        # The last number of a name counts jobs: deal them out in turn.
        number = int(([0] + re.findall(r"\d+", file.name))[-1])
        target = disks[number % len(disks)].resolve() / file.name
        if file.is_symlink() or file.exists():
            file.unlink()
        file.symlink_to(target)


script.run(main, __doc__, arguments=(1, None))
