"""Which of the machine's cores a thread runs on.

Threads that run the interpreter most of the time cannot run beside each other, and on different cores they pay for every
hand-over of the interpreter with a wake-up of the other core: eight clients that put small files got a quarter less. So
threads at such work gather on one core, as batch threads: one that wakes up there waits for its turn, as it would wait for
the interpreter if it pushed the running one aside. Threads that move much data work outside the interpreter and spread out.

Only Linux lets a thread choose; elsewhere these functions do nothing. A thread begins with the cores of the one that
started it, so every thread that a gathered one may start must say what it wants.
"""

import os
import threading

_ALL: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
_ONE = {max(_ALL)} if len(_ALL) > 1 else set()
_chosen = threading.local()


def gather() -> None:
    """Run this thread on the one core that all gathered threads share."""
    _choose(_ONE)


def spread() -> None:
    """Let this thread run wherever there is room."""
    _choose(_ALL)


def _choose(cores: set[int]) -> None:
    if _ONE and getattr(_chosen, "cores", None) is not cores:
        os.sched_setaffinity(0, cores)
        os.sched_setscheduler(0, os.SCHED_BATCH if cores is _ONE else os.SCHED_OTHER, os.sched_param(0))
        _chosen.cores = cores
