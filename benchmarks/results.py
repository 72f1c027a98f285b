"""What the benchmarks find: samples of each contestant, ratios against targets, and counts against limits. Pure."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec


class Measurement(msgspec.Struct, frozen=True):
    """Samples of one contestant in one workload, one a round; ``unit`` is a rate unless ``lower_is_better``.

    ``processor``: milliseconds that its process spent on one of what the rate counts, one a round, where that was taken.
    """

    workload: str
    contestant: str
    unit: str
    samples: tuple[float, ...]
    lower_is_better: bool = False
    processor: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def spread(self) -> float:
        """The distance of the extremes as a part of the median."""
        return (max(self.samples) - min(self.samples)) / self.median if self.median else 0.0


class Target(msgspec.Struct, frozen=True):
    """tgdav shall be at least ``ratio`` times as fast as ``rival``; a ``floor`` is what must not be missed."""

    rival: str
    ratio: float
    floor: bool = False


class Comparison(msgspec.Struct, frozen=True):
    """A target and what came of it; ``met`` is None where the sizes were too small to judge."""

    workload: str
    rival: str
    ratio: float
    wanted: float
    floor: bool
    met: bool | None


class Count(msgspec.Struct, frozen=True):
    """Something counted, with the most it may be; ``met`` as above."""

    what: str
    value: float
    limit: float
    unit: str
    met: bool | None


class Results(msgspec.Struct):
    """All that a run, or a part of it, found."""

    measurements: list[Measurement] = []
    comparisons: list[Comparison] = []
    counts: list[Count] = []

    def add(self, more: "Results") -> None:
        self.measurements += more.measurements
        self.comparisons += more.comparisons
        self.counts += more.counts


def ratio(ours: Measurement, other: Measurement) -> float:
    """Return how many times as fast ``ours`` is: the median over the rounds, each compared within itself."""
    pairs = zip(ours.samples, other.samples, strict=True)
    return median(theirs / own if ours.lower_is_better else own / theirs for own, theirs in pairs)


def compare(measurements: Sequence[Measurement], ours: str, targets: Sequence[Target], *, judge: bool) -> Results:
    """Return the measurements of one workload with each target whose rival was measured; ``judge`` says if it counts."""
    found = {each.contestant: each for each in measurements}
    comparisons = []
    for target in targets:
        if ours in found and target.rival in found:
            value = ratio(found[ours], found[target.rival])
            met = value >= target.ratio if judge else None
            comparisons.append(Comparison(found[ours].workload, target.rival, value, target.ratio, target.floor, met))
    return Results(list(measurements), comparisons)


def count(what: str, value: float, limit: float, unit: str, *, judge: bool) -> Count:
    """Return ``value`` held against ``limit``."""
    return Count(what, value, limit, unit, value <= limit if judge else None)


def as_json(results: Results, run: dict[str, Any]) -> bytes:
    """Return the JSON document: what ``run`` says of the run, then the results."""
    measured = [
        {**msgspec.to_builtins(each), "median": each.median, "spread": each.spread} for each in results.measurements
    ]
    whole = {**run, **msgspec.to_builtins(results), "measurements": measured}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)
