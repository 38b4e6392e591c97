#!/usr/bin/env python3
"""Place files on the disks that utils/create_split_dir.pl has set up.

Usage: utils/create_data_link.pl file ...

    utils/create_data_link.pl exp/fbank/raw.1.ark

makes exp/fbank/raw.1.ark a link to a file of that name in one of exp/fbank/storage/1, 2, ..., always the same one.
Without a folder named storage beside the file, the script does nothing.
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
        # The last number in a name is the job's: deal the jobs out in turn.
        number = int(([0] + re.findall(r"\d+", file.name))[-1])
        target = disks[number % len(disks)].resolve() / file.name
        if file.is_symlink() or file.exists():
            file.unlink()
        file.symlink_to(target)


script.run(main, __doc__, arguments=(1, None))
