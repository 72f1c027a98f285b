"""Seeded file trees with all that file systems stumble over, and a way to compare trees."""

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

Tree = dict[bytes, bytes]
"""Relative path to content; folders are implied by the files in them."""

WORDS = b"the log is the database every change to a namespace is an operation in an append only ".split()
SIZES = (0, 1, 2, 100, 511, 4095, 4096, 4097, 32_768, 32_769, 65_536, 70_000, 262_144, 300_001)
ODD_NAMES = tuple(
    name.encode()
    for name in (
        "caf\u00e9-nfc", "cafe\u0301-nfd", "\u65e5\u672c\u8a9e.txt", "\U0001f4be disk",
        "with space", " leading", "trailing ", "100%", "%41",
        "a;b=c", "#hash", "what?", "'single' \"double\"", "back\\slash", "a&b<c>d", "col:on", "star*", "...", "-dash",
        "~tilde", "tab\there", "new\nline", "CON", "name.", "+plus+", "[brackets]", "{0}", "$HOME", "x" * 255, "\u00fc" * 127,
    )
)  # fmt: skip
NOT_UTF8 = (b"latin1-\xe9", b"\xff\xfe", b"cut-\xe6\x97")


def content(choose: random.Random, size: int, kind: str = "") -> bytes:
    """Return ``size`` bytes: ``random``, ``text`` (compressible), ``repeated`` blocks, or ``zeros``; a random kind by default."""
    match kind or choose.choice(("random", "text", "repeated", "zeros")):
        case "random":
            return choose.randbytes(size)
        case "text":
            return b" ".join(choose.choices(WORDS, k=size // 3 + 1))[:size].ljust(size, b".")
        case "repeated":
            block = choose.randbytes(choose.randint(1, 8192))
            return (block * (size // len(block) + 1))[:size]
        case "zeros":
            return bytes(size)
    raise ValueError(f"no such content: {kind}")


def stream(seed: int, size: int, kind: str = "random", block: int = 1 << 20) -> Iterator[bytes]:
    """Yield ``size`` bytes in blocks, the same for the same seed, without holding them."""
    choose = random.Random(seed)
    for start in range(0, size, block):
        yield content(choose, min(block, size - start), kind)


def make_tree(seed: int, files: int = 60, *, not_utf8: bool = False, most: int = SIZES[-1]) -> Tree:
    """Return a tree of ``files`` files no larger than ``most`` bytes, nested, odd names first, some contents equal."""
    choose = random.Random(seed)
    odd = list(ODD_NAMES + (NOT_UTF8 if not_utf8 else ()))
    folders, tree = [b""], Tree()
    for number in range(files):
        folder = choose.choice(folders)
        if number % 5 == 4 and folder.count(b"/") < 6 and len(folder) < 2000:
            folder += choose.choice((b"folder-%d" % number, b"Ordner \xc3\xa4 %d" % number, b"f%%20%d" % number)) + b"/"
            folders.append(folder)
        name = odd.pop(0) if odd else b"file-%d.bin" % number
        tree[folder + name] = _any_content(choose, list(tree.values())[-20:], most)
    return tree


def _any_content(choose: random.Random, known: list[bytes], most: int) -> bytes:
    if known and choose.random() < 0.15:
        return choose.choice(known)
    return content(choose, min(most, choose.choice(SIZES)))


def write_tree(tree: Mapping[bytes, bytes], folder: Path) -> None:
    """Write a tree below ``folder``."""
    for path, data in tree.items():
        target = os.path.join(os.fsencode(folder), path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(data)


def digests(tree: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Return the SHA-256 of each file of a tree."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in tree.items()}


def digests_below(folder: Path, *, folders: bool = False) -> dict[bytes, str]:
    """Return the SHA-256 of each file below ``folder`` by relative path, links' targets and, if wanted, folders too."""
    found = {}
    for at, names, files in os.walk(folder):
        for path in [Path(at, name) for name in files + names]:
            if folders or path.is_symlink() or not path.is_dir():
                found[os.fsencode(path.relative_to(folder))] = _digest(path)
    return found


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link {path.readlink()}"
    if path.is_dir():
        return "folder"
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
