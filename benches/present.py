"""Free memory of a virtual machine, present at its host.

A guest tells its host of pages that it has freed, and the host takes them back (free page reporting): who gets one some seconds later waits until the
host has given it again, at the first touch by the disk and at the first by a processor. `Present` has nearly all free memory held by a process and touches the rest
whenever it is asked, so that what is measured next is what it takes on a machine of one's own.
"""

import mmap
import pathlib
import re
import subprocess
import sys

LEFT_MB = 3000
TOUCHED_MB = 1500
PAGE = 4096
HOLD = "import sys, present; held = present.touched(int(sys.argv[1])); print('held', flush=True); sys.stdin.read()"


def touched(megabytes):
    memory = mmap.mmap(-1, megabytes << 20)
    for at in range(0, megabytes << 20, PAGE):
        memory[at] = 1
    return memory


class Present:
    def __init__(self):
        available = int(re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())[1]) // 1024
        here = pathlib.Path(__file__).resolve().parent
        command = [sys.executable, "-c", HOLD, str(max(1, available - LEFT_MB))]
        self.holder = subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.holder.stdout.readline() != b"held\n":
            self.close()
            raise RuntimeError("memory cannot be held")

    def touch(self):
        touched(TOUCHED_MB).close()

    def close(self):
        self.holder.stdin.close()
        self.holder.wait()
