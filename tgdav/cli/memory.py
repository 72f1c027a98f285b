"""The C library's memory: many threads must not each keep a heap of their own."""

import ctypes

ARENAS = 2
_M_ARENA_MAX = -8
"""mallopt(3); glibc alone has it."""


def bound_arenas() -> None:
    """Let all threads share few heaps: a heap for each keeps tens of megabytes that another could use.

    To be called before there are threads. Does nothing where the C library knows no arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
