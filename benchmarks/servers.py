"""Whole processes compared: large files, a large folder, many small files."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contestants import CHEROOT, RCLONE, TGDAV, WSGIDAV, Contestant, contest, in_turn, quiet, rotated
from benchmarks.http_client import Failed, get_file, put_file, request, run_load, small_gets, small_puts
from benchmarks.results import Measurement, Results, Target, compare
from benchmarks.scale import MIB, Scale, make_file

PROPERTIES = b"""<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/><getlastmodified/>
<creationdate/><getetag/><displayname/></prop></propfind>"""
"""What clients ask for when they list a folder."""


class _Samples:
    """Samples of one workload by contestant."""

    def __init__(self, workload: str, unit: str, *, lower_is_better: bool = False) -> None:
        self._workload, self._unit, self._lower_is_better = workload, unit, lower_is_better
        self._found: dict[str, list[float]] = {}

    def add(self, contestant: Contestant, sample: float) -> None:
        self._found.setdefault(contestant.name, []).append(sample)

    def against(self, targets: Sequence[Target], scale: Scale) -> Results:
        measured = [
            Measurement(self._workload, name, self._unit, tuple(samples), self._lower_is_better)
            for name, samples in self._found.items()
        ]
        return compare(measured, TGDAV, targets, judge=scale.judged)


def large_files(folder: Path, scale: Scale) -> Results:
    """PUT a large file, and GET it when it was read once before. Each round and contestant puts the same new content."""
    size = scale.large / MIB
    puts, gets = _Samples(f"PUT {size:g} MiB", "MiB/s"), _Samples(f"GET {size:g} MiB, warm", "MiB/s")
    with contest(folder, [TGDAV, RCLONE, WSGIDAV]) as contestants:
        for number in range(scale.rounds):
            source = make_file(folder / "source", scale.large)
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.sync()
            for each in rotated(contestants, number):
                puts.add(each, size / put_file(each.endpoint, "/large", source))
                quiet(each)
            for each in rotated(contestants, number):
                get_file(each.endpoint, "/large", scale.large, digest=digest)
                gets.add(each, size / get_file(each.endpoint, "/large", scale.large))
    found = puts.against([Target(RCLONE, 1.5)], scale)
    found.add(gets.against([Target(RCLONE, 1.0)], scale))
    return found


def small_files(folder: Path, scale: Scale) -> Results:
    """PUT and GET many small files over several keep-alive connections."""
    size, label = scale.small, f"{scale.small // 1024} KiB x {scale.files}, {scale.clients} clients"
    puts, gets = _Samples(f"PUT {label}", "files/s"), _Samples(f"GET {label}", "files/s")
    with contest(folder, [TGDAV, RCLONE, WSGIDAV, CHEROOT]) as contestants:
        for number, each in enumerate(in_turn(contestants, scale.rounds)):
            place = f"/round{number}"
            _make_folder(each, place)
            seconds = run_load(each.endpoint, small_puts(each.endpoint, place, scale.files, size), scale.clients)
            puts.add(each, scale.files / seconds)
            quiet(each)
            seconds = run_load(each.endpoint, small_gets(each.endpoint, place, scale.files), scale.clients)
            gets.add(each, scale.files / seconds)
    targets = [Target(CHEROOT, 0.6), Target(RCLONE, 0.6, floor=True), Target(WSGIDAV, 1.4, floor=True)]
    found = puts.against(targets, scale)
    found.add(gets.against(targets, scale))
    return found


def listing(folder: Path, scale: Scale) -> Results:
    """PROPFIND, depth 1, of a folder with many files: without a body, as curl asks, and as clients do, by name."""
    label = f"PROPFIND depth 1, {scale.files} files"
    kinds = {b"": _Samples(label, "s", lower_is_better=True)}
    kinds[PROPERTIES] = _Samples(f"{label}, six properties", "s", lower_is_better=True)
    with contest(folder, [TGDAV, RCLONE, WSGIDAV]) as contestants:
        for each in contestants:
            _make_folder(each, "/folder")
            run_load(each.endpoint, small_puts(each.endpoint, "/folder", scale.files, 64), scale.clients)
            _list(each, PROPERTIES, scale)
            quiet(each)
        for each in in_turn(contestants, scale.listings):
            for body, seconds in kinds.items():
                seconds.add(each, _list(each, body, scale))
    found = Results()
    for seconds in kinds.values():
        found.add(seconds.against([Target(RCLONE, 3.0), Target(WSGIDAV, 10.0)], scale))
    return found


def _make_folder(contestant: Contestant, place: str) -> None:
    if contestant.name != CHEROOT:
        request(contestant.endpoint, "MKCOL", place)


def _list(contestant: Contestant, body: bytes, scale: Scale) -> float:
    seconds, answer = request(
        contestant.endpoint, "PROPFIND", "/folder/", body, Depth=1, Content_Type="application/xml"
    )
    found = answer.body().count(b"href>") // 2
    if answer.status != 207 or found != scale.files + 1:
        raise Failed(f"PROPFIND by {contestant.name}: {answer.status} with {found} entries")
    return seconds
