"""tgdav with each of its threads profiled, counting processor time alone, so that waiting costs nothing.

``python -m benchmarks.profiled FILE ARGUMENT…`` runs ``tgdav ARGUMENT…`` and writes a pstats file for each group of threads
at its end: FILE.web, FILE.writer, ….
"""

import cProfile
import pstats
import re
import sys
import threading
import time
from types import FrameType
from typing import Any

from tgdav.cli import main

_NUMBER = re.compile(r"[^A-Za-z]+")


class _Profiles:
    """A profile for each thread that was started since."""

    def __init__(self) -> None:
        self._made: list[tuple[str, cProfile.Profile]] = []

    def begin(self, _frame: FrameType, _event: str, _argument: Any) -> None:
        """Take over from ``threading.setprofile`` in a thread that has just begun."""
        profile = cProfile.Profile(time.thread_time)
        self._made.append((_group(threading.current_thread().name), profile))
        profile.enable()

    def write(self, target: str) -> None:
        """Write one file a group of threads, those still running included."""
        groups: dict[str, pstats.Stats] = {}
        for group, profile in list(self._made):
            profile.snapshot_stats()
            if profile.stats:
                known = groups.get(group)
                groups[group] = known.add(profile) if known else pstats.Stats(profile)
        for group, stats in groups.items():
            stats.dump_stats(f"{target}.{group}")


def _group(name: str) -> str:
    """Return a thread's name without numbers; cheroot's workers are ``web``."""
    return "web" if name.startswith("CP Server") else _NUMBER.sub("-", name).strip("-").lower()


def run() -> int:
    target, sys.argv[1:] = sys.argv[1], sys.argv[2:]
    profiles = _Profiles()
    threading.setprofile(profiles.begin)
    try:
        return int(main() or 0)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        threading.setprofile(None)
        profiles.write(target)


if __name__ == "__main__":
    sys.exit(run())
