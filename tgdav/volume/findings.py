"""What a check found."""

from collections.abc import Iterable, Iterator

import msgspec


class Finding(msgspec.Struct):
    """Damage: a blob's name in hex (or a local file's role), what it is, what is wrong, which paths it hits."""

    blob: str
    kind: str
    reason: str
    paths: list[str] = []


class Findings:
    """Findings by blob; the first of a blob stays."""

    def __init__(self) -> None:
        self._by_blob: dict[str, Finding] = {}

    def __iter__(self) -> Iterator[Finding]:
        return iter(list(self._by_blob.values()))

    def __bool__(self) -> bool:
        return bool(self._by_blob)

    def add(self, blob: str, kind: str, reason: str, paths: Iterable[bytes] = ()) -> None:
        """Add a finding, or paths to the one that is there."""
        finding = self._by_blob.setdefault(blob, Finding(blob, kind, reason, []))
        finding.paths.extend(shown(path) for path in paths)

    def names(self, *kinds: str) -> list[str]:
        """Return the blobs of some kinds."""
        return [each.blob for each in self._by_blob.values() if each.kind in kinds]

    def drop(self, blobs: Iterable[str]) -> None:
        """Forget findings that turned out well."""
        for blob in blobs:
            self._by_blob.pop(blob, None)


def described(blob: str, kind: str, reason: str) -> str:
    """Return damage as a line for people. A gap's reason says itself where it is."""
    return reason if kind == "gap" else f"{kind} {blob}: {reason}"


def shown(path: bytes) -> str:
    """Return a path as people and JSON can read it."""
    return path.decode("utf-8", "backslashreplace")
