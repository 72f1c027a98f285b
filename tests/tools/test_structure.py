"""The check of the source's structure finds what it is for, in packages made for it; the source itself is as it should be."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tools.structure import (
    MAX_FILE_LINES,
    ROOT,
    Module,
    circles,
    import_graph,
    importers,
    measure,
    modules_below,
    problems,
    report,
    single_use,
)

Make = Callable[[dict[str, str]], dict[str, Module]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(files: dict[str, str]) -> dict[str, Module]:
        for name, source in files.items():
            path = tmp_path / "house" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return modules_below(tmp_path, ["house"])

    return make


def test_the_source_has_no_circle_and_no_file_that_is_too_long() -> None:
    assert problems(modules_below(ROOT)) == []


@pytest.mark.parametrize(
    "back",
    [
        "import house.a",
        "from house.a import X",
        "from house import a",
        "from . import a",
        "from .a import X",
        "def late():\n    from house.a import X",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.a import X",
    ],
)
def test_a_planted_circle_is_found(make: Make, back: str) -> None:
    modules = make({"__init__.py": "", "a.py": "from house import b\nX = 1", "b.py": "import house.c", "c.py": back})
    assert circles(import_graph(modules)) == [["house.a", "house.b", "house.c"]]
    assert problems(modules) == ["circular imports: house.a house.b house.c"]


def test_imports_in_one_direction_are_no_circle(make: Make) -> None:
    modules = make(
        {"__init__.py": "from house.a import X", "a.py": "import house.b\nX = 1", "b.py": "import os, house.c"}
    )
    assert circles(import_graph(modules)) == []
    assert problems(modules) == []


def test_a_package_that_imports_its_user_is_a_circle(make: Make) -> None:
    modules = make({"__init__.py": "from house.a import X", "a.py": "from house import Y"})
    assert circles(import_graph(modules)) == [["house", "house.a"]]


def test_a_file_that_is_too_long_is_named(make: Make) -> None:
    modules = make({"a.py": "X = 1\n" * (MAX_FILE_LINES + 1), "b.py": "X = 1\n" * MAX_FILE_LINES})
    assert problems(modules) == [f"house.a has {MAX_FILE_LINES + 1} lines, more than {MAX_FILE_LINES}"]


def test_who_takes_a_name_from_the_package_uses_the_file_that_defines_it(make: Make) -> None:
    modules = make({
        "__init__.py": "from house.a import X", "a.py": "X = 1", "b.py": "from house import X", "c.py": "import house.b",
    })  # fmt: skip
    assert importers(modules)["house.a"] == {"house", "house.b"}
    assert single_use(modules) == ["house.b (1) <- house.c"]


def test_wide_and_long_functions_and_comments_are_counted() -> None:
    wide = measure(
        "a", "class C:\n    def f(self, a, b, c, d, e, f, *, g): ...\n    def g(self, a, b, c, d, e, *, f): ..."
    )
    assert wide.wide == ["a:2 f (7)"]
    long = measure("a", "async def f():\n" + "    x = 1\n" * 80 + "def g():\n" + "    x = 1\n" * 79)
    assert long.long == ["a:1 f (81)"]
    assert measure("a", "x = 1  # why\n# why\ny = '# no'  # noqa: F401\n").comments == 2


def test_the_report_gives_all_figures_and_the_names_on_demand(make: Make) -> None:
    modules = make({"a.py": "import house.b  # why", "b.py": "import house.a\nX = 1\nY = 2"})
    assert list(report(modules, verbose=False)) == [
        "2 modules, median 2 lines",
        "2 files with one importer and fewer than 150 lines",
        "1 circles",
        "0 functions with more than 6 parameters",
        "0 functions over 80 lines",
        "25.0% of 4 lines with a comment",
    ]
    assert "    house.a house.b" in list(report(modules, verbose=True))
