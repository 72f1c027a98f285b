"""Damage to stored files, by hand or at seeded random places, and the way back.

::

    for harm in random_damage(store.iterdir(), seed=3, count=1000):
        with preserved(*harm.paths):
            harm.do()
            ...  # must be noticed; str(harm) says what was done
"""

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def flip_bit(path: Path, bit: int) -> None:
    """Flip bit number ``bit`` of the file (bit 0 is the lowest of the first byte)."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        value = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([value ^ 1 << bit % 8]))


def truncate(path: Path, length: int) -> None:
    """Cut the file at ``length`` bytes."""
    os.truncate(path, length)


def extend(path: Path, data: bytes) -> None:
    """Append ``data``."""
    with open(path, "ab") as file:
        file.write(data)


def swap(one: Path, other: Path) -> None:
    """Exchange the contents of two files."""
    first, second = one.read_bytes(), other.read_bytes()
    replay(one, second)
    replay(other, first)


def replay(path: Path, older: bytes) -> None:
    """Put older (or other) bytes into a file that is there."""
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(older)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Put ``data`` at ``offset``."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def delete(path: Path) -> None:
    """Take the file away."""
    path.unlink()


def rename(path: Path, target: Path) -> None:
    """Give the file another name."""
    path.rename(target)


@contextmanager
def preserved(*paths: Path) -> Iterator[None]:
    """Put the bytes and the modes of these files (some may be missing) back afterwards."""
    before = [(path, path.read_bytes(), path.stat().st_mode) if path.exists() else (path, None, 0) for path in paths]
    try:
        yield
    finally:
        for path, data, mode in before:
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
                path.chmod(mode)


@dataclass(frozen=True)
class Damage:
    """One damage to come: its kind, the files that it touches and where."""

    kind: str
    paths: tuple[Path, ...]
    detail: str
    do: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.kind} {self.detail} of {', '.join(path.name for path in self.paths)}"


KINDS = ("flip", "truncate", "extend", "swap", "zero", "delete")


def random_damage(files: Iterable[Path], seed: int, count: int, kinds: Sequence[str] = KINDS) -> Iterator[Damage]:
    """Yield ``count`` damages at random places of ``files`` (sorted; empty ones are passed over), by ``seed``."""
    choose = random.Random(seed)
    chosen = sorted(path for path in files if path.is_file() and path.stat().st_size)
    for _ in range(count):
        yield _damage(choose.choice(kinds), chosen, choose)


def _damage(kind: str, files: Sequence[Path], choose: random.Random) -> Damage:
    path = choose.choice(files)
    size = path.stat().st_size
    match kind:
        case "flip":
            bit = choose.randrange(size * 8)
            return Damage(kind, (path,), f"bit {bit}", lambda: flip_bit(path, bit))
        case "truncate":
            length = choose.randrange(size)
            return Damage(kind, (path,), f"to {length}", lambda: truncate(path, length))
        case "extend":
            data = choose.choice((bytes(choose.randint(1, 4096)), choose.randbytes(choose.randint(1, 4096))))
            return Damage(kind, (path,), f"by {len(data)}", lambda: extend(path, data))
        case "swap":
            content = path.read_bytes()
            others = [file for file in files if file.stat().st_size != size or file.read_bytes() != content]
            if not others:
                raise ValueError("no two files differ: nothing to swap")
            other = choose.choice(others)
            return Damage(kind, (path, other), "contents", lambda: swap(path, other))
        case "zero":
            content = path.read_bytes()
            offset = choose.choice([at for at in (choose.randrange(size) for _ in range(64)) if content[at]] or [0])
            return Damage(
                kind, (path,), f"at {offset}", lambda: overwrite(path, offset, bytes(min(512, size - offset)))
            )
        case "delete":
            return Damage(kind, (path,), "", lambda: delete(path))
    raise ValueError(f"no such damage: {kind}")
