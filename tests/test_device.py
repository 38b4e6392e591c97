"""The device that commands compute on."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from sdpn_k2.device import start_process
start_process("cpu")
np.ones(2**23)  # 64 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_memory_of_freed_arrays_is_used_again():
    # New memory for each array would be 16,384 pages, or 32 huge ones and a few thousand beside them.
    output = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    assert int(output) < 200
