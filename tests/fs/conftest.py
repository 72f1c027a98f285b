"""Fixtures that run a test on each file system of ``subjects.FACTORIES``."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fs.subjects import FACTORIES, Factory, Subject
from tgdav.fs.api import FileSystem


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.name)
def factory(request: pytest.FixtureRequest) -> Factory:
    chosen: Factory = request.param
    return chosen


@pytest.fixture
def make_subject(factory: Factory, tmp_path: Path) -> Iterator[Callable[[], Subject]]:
    """Return a maker of subjects; all are closed at the end."""
    made: list[Subject] = []

    def make() -> Subject:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(factory.make(folder))
        return made[-1]

    yield make
    for subject in made:
        subject.close()


@pytest.fixture
def make_filesystem(make_subject: Callable[[], Subject]) -> Callable[[], FileSystem]:
    return lambda: make_subject().fs


@pytest.fixture
def filesystem(make_filesystem: Callable[[], FileSystem]) -> FileSystem:
    return make_filesystem()
