"""What a process of the service may not do: dump its memory, take all of the machine's, outlive the server in need.

Each is what Linux offers, and nothing elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
LEAST_SHARE = 1 << 30
"""A DICOM file of 15 megapixels takes 630 MiB to read (42 bytes a pixel), and the detector is loaded beside it."""
PR_SET_DUMPABLE = 4  # linux/prctl.h
FIRST_TO_GO = 1000  # the largest, proc(5)


def forbid_dumps() -> None:
    """Keep what is in memory, pictures and keys, out of core dumps and from other processes of this user."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def go_first() -> None:
    """Be what the system ends when it runs out of memory: the server must live, and a worker is soon replaced."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{FIRST_TO_GO}")


def limit_memory(more_bytes: int) -> None:
    """Let this process take so much more memory than it has now; beyond that Python raises MemoryError.

    What is counted is RLIMIT_DATA's: memory of the process's own that can be written. Address space (RLIMIT_AS) would
    also count model files and libraries, which OpenVINO maps in gigabytes without taking memory for them.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack, proc(5)
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def memory_share(processes: int) -> int:
    """Return what each of so many processes may take, bytes: of half the memory, at least ``LEAST_SHARE``."""
    return max(LEAST_SHARE, memory_bytes() // 2 // processes)


def memory_bytes() -> int:
    """Return how much memory there is for this process: the machine's, or less if a container or systemd says so."""
    found = []
    with suppress(AttributeError, OSError, ValueError):  # no sysconf on Windows
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError):
        group = Path(Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip())  # version 2's, cgroups(7)
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # none at the root, "max" where there is no limit
                found.append(int((CGROUPS / folder / "memory.max").read_text()))
    return min(found, default=0)
