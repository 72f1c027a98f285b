"""Memory: no dumps; one heap for all threads, large blocks kept for the next use, what lasts left to no collector."""

import ctypes
import gc
import resource

ARENAS = 1
HEAP_BYTES = 3 * 1024 * 1024
"""Blocks up to this size come from a heap: chunks, sealed ones and requests of the kernel do."""
KEPT_BYTES = 4 * 1024 * 1024
"""Free bytes at the end of a heap that are not given back."""

YOUNG_OBJECTS = 5000
"""So many new objects let the collector look for cycles; little of a request's work leaves any behind."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""mallopt(3); glibc alone has it."""
_PR_SET_DUMPABLE = 4
"""prctl(2); Linux alone has it."""


def forbid_dumps() -> None:
    """Keep the process's memory, which holds the keys, from core dumps and from debuggers of the same user.

    Children that are started as programs of their own may be debugged again (PR_SET_DUMPABLE ends with exec).
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def set_up_memory() -> None:
    """Let all threads share one heap: each further one kept tens of megabytes that the others could have used.

    And keep what was just freed: content passes through in blocks of a MiB or two, and to fetch each from the kernel and
    give it back made every write of a MiB touch a thousand new pages.

    To be called before there are threads. Does nothing where the C library knows no such settings.
    """
    gc.set_threshold(YOUNG_OBJECTS)  # with the default, a tenth of a command's start is spent on collections
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def settle_memory() -> None:
    """Take what is there now out of the collector's rounds: modules and what a server is made of last until its end.

    A round through all of it took 60 ms, in which nobody was answered. To be called once everything is set up.
    """
    gc.collect()
    gc.freeze()
