"""One run of ``get`` or ``put``: what was copied, what failed and what was skipped, and which errors end the run."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from tgdav.cli.errors import ExitCode, as_json, exit_code, message_of
from tgdav.cli.output import Output
from tgdav.errors import BlobMissing, DamageError, FileSystemError, NoSpace, ReadOnly
from tgdav.volume.control import Progress
from tgdav.wording import counted, readable_size, shown_path

_ENDS = (ReadOnly, NoSpace)
_ENDING_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EPIPE)


@contextmanager
def naming(path: bytes) -> Iterator[None]:
    """Put the path in front of the message of an error that concerns what it names."""
    try:
        yield
    except (FileSystemError, DamageError, BlobMissing) as error:
        named = copy(error)  # several readers of one chunk get the same exception
        named.message = f"{shown_path(path)}: {error.message}"
        raise named from error


@dataclass
class Attempt:
    """Whether what was tried has failed."""

    failed: bool = False


class Transfer:
    """Counts what is copied, and lets the run continue after errors that concern a single file. Thread-safe.

    ``stage`` names the progress, ``total`` is the number of bytes to copy (0: unknown).
    """

    def __init__(self, output: Output, progress: Progress, stage: str, total: int) -> None:
        self._output, self._progress, self._stage, self._total = output, progress, stage, total
        self.files = self.directories = self.symlinks = self.bytes = 0
        self._moved = 0
        self._lock = threading.Lock()
        self._failed: list[tuple[str, Exception]] = []
        self._skipped: list[str] = []

    def moved(self, count: int) -> None:
        """Report that ``count`` more bytes were copied."""
        with self._lock:
            self._moved += count
            self._progress(self._stage, self._moved, self._total)

    def copied(self, count: int) -> None:
        """Count a file of ``count`` bytes."""
        with self._lock:
            self.files += 1
            self.bytes += count

    @contextmanager
    def attempt(self, path: str) -> Iterator[Attempt]:
        """Record an error that concerns only the file at ``path``, and go on; pass on all others."""
        attempt = Attempt()
        try:
            yield attempt
        except (FileSystemError, DamageError, BlobMissing, OSError) as error:
            if isinstance(error, _ENDS) or getattr(error, "errno", None) in _ENDING_ERRNOS:
                raise
            attempt.failed = True
            with self._lock:
                self._failed.append((path, error))
                self._output.notice(message_of(error))

    def skip(self, path: str, kind: str) -> None:
        """Record that something was left out because of its kind."""
        self._skipped.append(path)
        self._output.notice(f"{path}: skipped, because it is a {kind}")

    def warn(self, line: str) -> None:
        """Print a warning, once, with the result."""
        self._output.warn(line)

    @property
    def code(self) -> ExitCode:
        """The exit code: that of the first failure, but damage goes first."""
        codes = [exit_code(error) for _, error in self._failed]
        return ExitCode.DAMAGE if ExitCode.DAMAGE in codes else next(iter(codes), ExitCode.DONE)

    def result(self) -> dict[str, Any]:
        """Return the object for JSON."""
        failed = [{"path": path, **as_json(error)["error"]} for path, error in sorted(self._failed, key=itemgetter(0))]
        counts = {"files": self.files, "directories": self.directories, "symlinks": self.symlinks, "bytes": self.bytes}
        return counts | {"failed": failed, "skipped": self._skipped}

    def line(self, verb: str) -> str:
        """Return the result as text: ``fetched 3 files, 1.5 GiB; 1 failed``."""
        text = f"{verb} {counted(self.files, 'file')}, {readable_size(self.bytes)}"
        for number, what in ((len(self._failed), "failed"), (len(self._skipped), "skipped")):
            text += f"; {number} {what}" if number else ""
        return text
