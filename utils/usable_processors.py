#!/usr/bin/env python3
"""Print the number of processors that may be used here.

Usage: utils/usable_processors.py

    nj=$(utils/usable_processors.py)

Unlike nproc, the script looks at the CPU quota of the container or job, too.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sdpn_k2.kaldi.tools import script
from sdpn_k2.processors import usable_processors

script.run(lambda _options: print(usable_processors()), __doc__, arguments=(0, 0))
