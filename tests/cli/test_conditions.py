"""The conditions of ``find``."""

import os
from datetime import datetime

import pytest

from tgdav.cli.files.access import Entry
from tgdav.cli.files.conditions import (
    Condition,
    is_before,
    is_named,
    is_of_kind,
    is_since,
    parse_size,
    parse_time,
)
from tgdav.errors import UsageError
from tgdav.metadata.types import Kind

SECOND = 1_000_000_000
NOW = 1_800_000_000 * SECOND


def entry(path: str = "/a/b.jpg", *, kind: Kind = Kind.FILE, size: int = 0, mtime: int = 0) -> Entry:
    return Entry(os.fsencode(path), kind, 0o644, size, mtime)


@pytest.mark.parametrize(
    ("glob", "ignores_case", "path", "matches"),
    [
        ("*.jpg", False, "/a/b.jpg", True),
        ("*.jpg", False, "/a.jpg/b", False),
        ("b*", False, "/a/b.jpg", True),
        ("b", False, "/a/b.jpg", False),
        ("?.jp[fg]", False, "/a/b.jpg", True),
        ("*.JPG", False, "/a/b.jpg", False),
        ("*.JPG", True, "/a/b.jpg", True),
        ("*", False, "/a/line\nend", True),
        ("b\u00fc", False, "/bu\u0308", True),
        ("bu\u0308", False, "/b\u00fc", True),
        ("*\udce9*", False, "/not \udce9 text", True),
    ],
)
def test_names(glob: str, ignores_case: bool, path: str, matches: bool) -> None:
    assert is_named(glob, ignores_case=ignores_case)(entry(path)) is matches


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("4096", [4096], [4095, 4097]),
        ("+1k", [1025], [1024]),
        ("-1k", [0, 1023], [1024]),
        ("+2M", [(2 << 20) + 1], [2 << 20]),
        ("1G", [1 << 30], [1]),
        ("+1TiB", [(1 << 40) + 1], [1 << 40]),
        ("1kB", [1024], [1000]),
    ],
)
def test_sizes(text: str, matching: list[int], others: list[int]) -> None:
    condition = parse_size(text)
    assert [condition(entry(size=size)) for size in matching] == [True] * len(matching)
    assert [condition(entry(size=size)) for size in others] == [False] * len(others)


@pytest.mark.parametrize("text", ["", "x", "1x", "--1", "1.5M", "+", "9" * 30])
def test_malformed_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_types() -> None:
    assert is_of_kind("d")(entry(kind=Kind.DIRECTORY))
    assert not is_of_kind("f")(entry(kind=Kind.SYMLINK))
    assert is_of_kind("l")(entry(kind=Kind.SYMLINK))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - 90 * SECOND),
        ("30min", NOW - 1800 * SECOND),
        ("2h", NOW - 7200 * SECOND),
        ("7d", NOW - 7 * 86400 * SECOND),
        ("1w", NOW - 7 * 86400 * SECOND),
        ("2026-12-01T10:00:00+00:00", 1_796_119_200 * SECOND),
        ("2026-12-01", int(datetime(2026, 12, 1).timestamp()) * SECOND),
        ("2026-12-01T10:00", int(datetime(2026, 12, 1, 10).timestamp()) * SECOND),
    ],
)
def test_times(text: str, moment: int) -> None:
    assert parse_time(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "7m", "2026-13-01", "1y", "-7d"])
def test_malformed_times(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time(text, NOW)


@pytest.mark.parametrize(
    ("condition", "result"), [(is_since(5), [False, False, True]), (is_before(5), [True, False, False])]
)
def test_before_and_after(condition: Condition, result: list[bool]) -> None:
    assert [condition(entry(mtime=mtime)) for mtime in (4, 5, 6)] == result
