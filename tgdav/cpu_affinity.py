"""CPU affinity: threads that keep the interpreter busy share one core, threads that move data use all of them.

Only one thread runs Python at a time. When threads on different cores take turns at it, each turn wakes up another core
(an inter-processor interrupt): eight clients that uploaded small files were a quarter slower. Threads that mostly run
Python therefore share one core. Threads that move much data spend their time outside the interpreter, in ciphers, hashes
and system calls, and run in parallel.

Only Linux lets a thread choose its cores; elsewhere these functions do nothing. A new thread inherits the affinity of the
thread that started it, so threads started by one that shares a core choose for themselves, too.
"""

import os
import threading

_ALL: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
_ONE = {max(_ALL)} if len(_ALL) > 1 else set()
_chosen = threading.local()


def share_one_core() -> None:
    """Run the calling thread on the core that all callers of this function share."""
    _choose(_ONE)


def use_all_cores() -> None:
    """Run the calling thread on any core that the process may use."""
    _choose(_ALL)


def _choose(cores: set[int]) -> None:
    # Called for every request: the system calls are made only when the choice changes.
    if _ONE and getattr(_chosen, "cores", None) is not cores:
        os.sched_setaffinity(0, cores)
        # A batch thread does not preempt the running one when it wakes up: it could not run Python yet anyway.
        os.sched_setscheduler(0, os.SCHED_BATCH if cores is _ONE else os.SCHED_OTHER, os.sched_param(0))
        _chosen.cores = cores
