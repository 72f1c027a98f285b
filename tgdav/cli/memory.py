"""The C library's memory: few heaps for many threads, and large blocks kept for the next use."""

import ctypes

ARENAS = 2
KEPT_BYTES = 32 * 1024 * 1024
"""Free bytes at the end of a heap that are not given back, and the size up to which blocks come from a heap at all."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""mallopt(3); glibc alone has it."""


def set_up_memory() -> None:
    """Let all threads share few heaps: a heap for each keeps tens of megabytes that another could use.

    And keep what was just freed: content passes through in blocks of a MiB or two, and to fetch each from the kernel and
    give it back made every write of a MiB touch a thousand new pages.

    To be called before there are threads. Does nothing where the C library knows no such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
