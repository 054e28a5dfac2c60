from __future__ import annotations

import subprocess
import sys

import pytest

from jupyter_swarm.link.memory import keep_buffers

COUNT = """
import resource, sys
from jupyter_swarm.link.memory import keep_buffers
if sys.argv[1] == "keep":
    assert keep_buffers() and keep_buffers()
bytes(bytearray(1 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    bytes(bytearray(1 << 20))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_buffers_of_a_mebibyte_are_not_faulted_in_again() -> None:
    assert faults("keep") * 10 < faults("leave")


@pytest.mark.skipif(sys.platform == "linux", reason="everywhere but on glibc")
def test_elsewhere_nothing_is_done() -> None:
    assert keep_buffers() is False
