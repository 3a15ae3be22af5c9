"""Memory that tensors free is kept by the process."""

import platform
import subprocess
import sys

import pytest

# in a process of its own: the setting lasts
COUNT = """
import resource
import torch
from semiscope.learn.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = faults()
keep_freed_memory()
faults()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_pages_of_freed_tensors_are_not_asked_for_again():
    done = subprocess.run(
        [sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, timeout=120
    )
    without, kept = map(int, done.stdout.split())
    # a block or two may still come anew, where what lies between has moved
    assert kept < without / 2
