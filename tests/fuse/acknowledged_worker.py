"""Changes without any sync, and the state that a mount must have after it was killed.

Run as ``python -m tests.fuse.acknowledged_worker DIRECTORY NOTES SEED`` until the mount dies. Each line of NOTES (on another file
system) is a step as JSON, written before it is done; an empty line follows when it was acknowledged.
"""

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = [f"n{number}" for number in range(14)]
SIZES = (100, 4096, 70_000, 400_000, 1_500_000)
PAUSE = 0.04
"""Longest pause of the worker, seconds: without pauses the kill would always hit an unacknowledged step."""

Step = dict[str, Any]


def content_of(seed: int, size: int) -> bytes:
    """Return the bytes of a write."""
    return random.Random(seed).randbytes(size)


class Node:
    """A file, directory or symbolic link. ``mtime`` is None where it was not set since the last write."""

    def __init__(self, kind: str, content: bytes = b"") -> None:
        self.kind, self.content = kind, content
        self.mode: int | None = None
        self.mtime: int | None = None
        self.xattrs: dict[str, str] = {}


class Tree:
    """The expected nodes in one directory."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def take(self, step: Step) -> None:
        """Do what a step does."""
        name = step["name"]
        match step["do"]:
            case "save" | "change" | "append":
                node = self.nodes.setdefault(name, Node("file"))
                old, new = node.content, content_of(step["seed"], step["size"])
                start = {"save": 0, "change": step["at"], "append": len(old)}[step["do"]]
                kept = b"" if step["do"] == "save" else old[start + len(new) :]
                node.content, node.mtime = old[:start].ljust(start, b"\0") + new + kept, None
            case "truncate":
                node = self.nodes[name]
                node.content, node.mtime = node.content[: step["size"]].ljust(step["size"], b"\0"), None
            case "mkdir" | "symlink":
                self.nodes[name] = Node(step["do"], step.get("target", "").encode())
            case "unlink" | "rmdir":
                del self.nodes[name]
            case "rename":
                self.nodes[step["to"]] = self.nodes.pop(name)
            case "link":
                self.nodes[step["to"]] = self.nodes[name]
            case "chmod":
                self.nodes[name].mode = step["mode"]
            case "utime":
                self.nodes[name].mtime = step["mtime"]
            case "setxattr":
                self.nodes[name].xattrs[step["key"]] = step["value"]

    def names(self, *kinds: str) -> list[str]:
        """Return the names of nodes of these kinds."""
        return [name for name, node in self.nodes.items() if node.kind in kinds]

    def differences(self, directory: Path, apart_from: set[str]) -> Iterator[str]:
        """Yield the differences between ``directory`` and this tree, except for some names."""
        there = set(os.listdir(directory)) - apart_from
        for name in sorted(there ^ (self.nodes.keys() - apart_from)):
            yield f"{name} is {'there' if name in there else 'missing'}"
        for name in sorted(there & self.nodes.keys()):
            yield from _differences(self.nodes[name], directory / name)


def _differences(node: Node, path: Path) -> Iterator[str]:
    found = os.lstat(path)
    if node.kind == "symlink":
        if path.readlink().as_posix().encode() != node.content:
            yield f"{path.name} points elsewhere"
        return
    if node.kind == "file" and (read := path.read_bytes()) != node.content:
        yield f"{path.name} has {len(read)} bytes {_digest(read)}, not {len(node.content)} {_digest(node.content)}"
    if node.mode not in (None, found.st_mode & 0o7777):
        yield f"{path.name} has mode {found.st_mode:o}, not {node.mode:o}"
    if node.mtime not in (None, found.st_mtime_ns):
        yield f"{path.name} has mtime {found.st_mtime_ns}, not {node.mtime}"
    for key, value in node.xattrs.items():
        if key not in os.listxattr(path) or os.getxattr(path, key) != value.encode():
            yield f"{path.name} lacks {key}={value}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def next_step(tree: Tree, choose: random.Random) -> Step | None:
    """Return a step that the tree allows, or None."""
    do = choose.choice(list(DO))
    files, directories, links = tree.names("file"), tree.names("mkdir"), tree.names("symlink")
    free = [name for name in NAMES if name not in tree.nodes]
    of = {
        "save": files + free,
        "mkdir": free,
        "symlink": free,
        "rmdir": directories,
        "setxattr": files + directories,
        "chmod": files + directories,
        "utime": files + directories,
        "unlink": files + links,
        "rename": files + links,
    }.get(do, files)
    to = {"link": free, "rename": free + files + links}.get(do, NAMES)
    if not of or not to:
        return None
    step = {"do": do, "name": choose.choice(of), "to": choose.choice(to), "seed": choose.randrange(1 << 30)}
    step |= {"size": choose.choice(SIZES) - choose.randrange(90), "at": choose.randrange(300_000)}
    step |= {
        "mode": choose.choice((0o600, 0o640, 0o755)),
        "mtime": choose.randrange(1 << 60),
        "target": f"t{step['seed']}",
    }
    step |= {"key": f"user.{choose.choice('ab')}", "value": f"v{step['seed']}"}
    if do == "rename" and tree.nodes.get(step["to"]) is tree.nodes[step["name"]]:
        return None  # rename(2) does nothing between two names of one file
    return step


def _save(path: Path, step: Step) -> None:
    path.write_bytes(content_of(step["seed"], step["size"]))


def _change(path: Path, step: Step) -> None:
    with open(path, "r+b") as file:
        file.seek(step["at"])
        file.write(content_of(step["seed"], step["size"]))


def _append(path: Path, step: Step) -> None:
    with open(path, "ab") as file:
        file.write(content_of(step["seed"], step["size"]))


DO: dict[str, Callable[[Path, Step], object]] = {
    "save": _save,
    "change": _change,
    "append": _append,
    "truncate": lambda path, step: os.truncate(path, step["size"]),
    "mkdir": lambda path, step: path.mkdir(),
    "symlink": lambda path, step: path.symlink_to(step["target"]),
    "unlink": lambda path, step: path.unlink(),
    "rmdir": lambda path, step: path.rmdir(),
    "rename": lambda path, step: path.rename(path.with_name(step["to"])),
    "link": lambda path, step: path.with_name(step["to"]).hardlink_to(path),
    "chmod": lambda path, step: path.chmod(step["mode"]),
    "utime": lambda path, step: os.utime(path, ns=(step["mtime"], step["mtime"])),
    "setxattr": lambda path, step: os.setxattr(path, step["key"], step["value"].encode()),
}


def work(directory: Path, notes: Path, seed: int) -> None:
    """Do steps until the mount is killed."""
    tree, choose = Tree(), random.Random(seed)
    file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        step = next_step(tree, choose)
        if step is None:
            continue
        os.write(file, json.dumps(step).encode() + b"\n")
        DO[step["do"]](directory / step["name"], step)
        os.write(file, b"\n")
        tree.take(step)
        if choose.random() < 0.1:
            time.sleep(choose.random() * PAUSE)


def promised(notes: Path) -> tuple[Tree, set[str]]:
    """Return the acknowledged state, and the names that an unacknowledged step may have changed."""
    tree = Tree()
    *answered, last = notes.read_text().split("\n\n")
    for line in answered:
        tree.take(json.loads(line))
    step = json.loads(last) if last.strip() else {}
    names = {step[key] for key in ("name", "to") if key in step}
    touched = {tree.nodes.get(name) for name in names}
    return tree, names | {name for name, node in tree.nodes.items() if node in touched}


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
