"""The file systems under test. Every suite of this folder runs on each of ``FACTORIES``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.support.model_fs import ModelFileSystem
from tests.support.volumes import VolumeSubject
from tgdav.fs.api import FileSystem


class Subject(Protocol):
    """A file system that can be stopped hard."""

    fs: FileSystem

    def crash(self) -> None:
        """Drop the file system without closing it, as kill -9 does, and open what is left as ``fs``."""

    def restart(self) -> None:
        """Close the file system, of which no handle is open, and open it again as ``fs``."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Factory:
    """Makes a subject with an empty file system in a fresh directory."""

    name: str
    make: Callable[[Path], Subject]
    histories: int = 60
    """How many random histories it goes through in a short run."""


class ModelSubject:
    """The model, which forgets unflushed writes in a crash."""

    def __init__(self, file_system: ModelFileSystem) -> None:
        self._model = file_system
        self.fs: FileSystem = file_system

    def crash(self) -> None:
        self._model.crash()

    def restart(self) -> None:
        return

    def close(self) -> None:
        return


FACTORIES = [
    Factory("model", lambda _folder: ModelSubject(ModelFileSystem())),
    Factory("volume", VolumeSubject, histories=12),
]
