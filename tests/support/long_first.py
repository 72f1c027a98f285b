"""The order of the tests: long ones first, dealt out to all workers, so that none runs alone at the end.

``tests/durations.txt`` has the seconds of the long ones, one a line before its name; ``pytest --store-durations`` writes it
anew. A test that is not in it counts as a short one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

DURATIONS = Path(__file__).parents[1] / "durations.txt"
LONG_SECONDS = 2.0

Item = TypeVar("Item")


def read_durations(path: Path = DURATIONS) -> dict[str, float]:
    """Return the seconds of the long tests by their names."""
    if not path.exists():
        return {}
    pairs = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {name: float(seconds) for seconds, name in pairs}


def write_durations(durations: Mapping[str, float], path: Path = DURATIONS) -> None:
    """Store the long ones of ``durations``, the longest first."""
    longest = sorted(((-seconds, name) for name, seconds in durations.items() if seconds >= LONG_SECONDS))
    path.write_text("".join(f"{-seconds:.0f} {name}\n" for seconds, name in longest), encoding="utf-8")


def arranged(items: Mapping[str, Item], durations: Mapping[str, float], workers: int) -> Sequence[Item]:
    """Return ``items``, by name, as one share for each worker after the other: its part of the long ones, then short ones.

    pytest-xdist gives each worker an equal run of the list, which the worker goes through in order; whoever is done first
    takes over from the end of another's. Short tests keep their order, as neighbours share fixtures.
    """
    long = sorted((name for name in items if name in durations), key=lambda name: (-durations[name], name))
    short = [name for name in items if name not in durations]
    order: list[str] = []
    for worker in range(workers):
        share = long[worker::workers]
        size = (len(items) - len(order)) // (workers - worker) if worker < workers - 1 else len(items)
        fill = max(0, size - len(share))
        order += share + short[:fill]
        short = short[fill:]
    return [items[name] for name in order]
