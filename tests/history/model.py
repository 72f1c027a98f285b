"""A model of one namespace with its history: nodes in dictionaries, no database, no log.

``Model.do`` does an action of ``tests.history.actions``. ``tests.history.judging`` compares the model with what a vault shows.
"""

from dataclasses import dataclass, field

from tests.history.showing import Shown, Tree, Version
from tgdav.metadata.types import Kind

BURST_NS = 5_000_000_000
FRESH_NS = 60_000_000_000
BACKUP_NS = 600_000_000_000
Path = tuple[bytes, ...]


@dataclass(eq=False)
class Node:
    """A file, directory or symlink. ``up``: the directory and the name that a directory has, or had when it was deleted.

    ``versions``: earlier contents as they were shown last. ``must``: contents that are earlier ones since then; ``may``: those
    that the rules leave open. ``position`` and ``machine``: when and by whom the content was written; ``is_written``: since it
    was shown last. ``was_linked``: it has or had several names. ``is_too_long``: it may be pruned.
    ``successor``: when it became the backup of which
    file; ``took_over``: it continues the history of another file, and the burst of that one.
    """

    kind: Kind
    mode: int
    mtime: int
    made: int
    content: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    properties: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, "Node"] = field(default_factory=dict)
    up: "tuple[Node, bytes] | None" = None
    is_purged: bool = False
    is_written: bool = False
    was_linked: bool = False
    is_too_long: bool = False
    took_over: bool = False
    successor: "tuple[int, Node] | None" = None
    versions: list[Version] = field(default_factory=list)
    must: list[bytes] = field(default_factory=list)
    may: list[bytes] = field(default_factory=list)
    burst: int = 0
    position: int = 0
    machine: int = 0

    @property
    def is_directory(self) -> bool:
        return self.kind == Kind.DIRECTORY

    @property
    def is_file(self) -> bool:
        return self.kind == Kind.FILE

    def history(self) -> list[bytes]:
        """All contents that it has and had."""
        return [*(each.content for each in self.versions), *self.must, *self.may, self.content]


@dataclass(eq=False)
class Deleted:
    """An entry in the trash. ``is_open``: the rules leave open whether it is there."""

    node: Node
    parent: Node
    name: bytes
    time: int
    is_open: bool = False


@dataclass(eq=False)
class Pin:
    """A snapshot and what it shows; None until the vault has shown it."""

    name: str
    time: int
    position: int
    tree: Tree | None = None


class Model:
    """The state that a vault must show."""

    def __init__(self, max_versions: int) -> None:
        self.now = 0
        self.position = 0
        self.machine = 1
        self.max_versions = max_versions
        self.root = Node(Kind.DIRECTORY, 0o755, 0, 0)
        self.trash: list[Deleted] = []
        self.pins: list[Pin] = []
        self.vacated: dict[tuple[int, bytes], tuple[int, Node]] = {}
        self.live: Tree | None = None
        self.inodes: dict[int, Node] = {}
        self.made_snapshots = 0

    # ---- looking -------------------------------------------------------------------------------------------------

    def at(self, path: Path) -> Node:
        node = self.root
        for name in path:
            node = node.children[name]
        return node

    def walk(self, top: Node | None = None) -> list[tuple[Path, Node]]:
        """All paths below a node, and itself, in order."""
        found: list[tuple[Path, Node]] = [((), top or self.root)]
        for path, node in found:
            found += [((*path, name), child) for name, child in sorted(node.children.items())]
        return sorted(found, key=lambda each: each[0])

    def tree(self, top: Node | None = None) -> Tree:
        """What a node and all below it show, without what the model does not keep."""
        found = self.walk(top)
        links: dict[int, int] = {}
        first: dict[int, Path] = {}
        for path, node in found:
            links[id(node)] = links.get(id(node), 0) + 1
            first.setdefault(id(node), path)
        return {
            path: Shown(
                kind=node.kind,
                mode=node.mode,
                mtime=node.mtime,
                links=2 + sum(child.is_directory for child in node.children.values())
                if node.is_directory
                else links[id(node)],
                twin=first[id(node)],
                content=node.content,
                xattrs=tuple(sorted(node.xattrs.items())),
                properties=tuple(sorted(node.properties.items())),
            )
            for path, node in found
        }

    def in_burst(self, node: Node) -> bool:
        """Whether a save now is of the same burst as the last one."""
        last = self.pins[-1] if self.pins else None
        return (
            node.machine == self.machine
            and 0 <= self.now - node.burst < BURST_NS
            and (last is None or (node.position > last.position and node.burst >= last.time))
        )

    # ---- changing ------------------------------------------------------------------------------------------------

    def do(self, action: str, *arguments: object) -> None:
        """Do what the vault does for an action."""
        self.position += 1
        getattr(self, f"_{action}")(*arguments)

    def _new(self, path: Path, kind: Kind, mode: int, content: bytes = b"") -> Node:
        node = Node(kind, mode, self.now, self.now, content)
        node.burst, node.position, node.machine = self.now, self.position, self.machine
        self._put_into(path, node)
        return node

    def _put_into(self, path: Path, node: Node) -> None:
        parent, name = self.at(path[:-1]), path[-1]
        parent.children[name] = node
        parent.mtime = self.now
        if node.is_directory:
            node.up = (parent, name)
        time, before = self.vacated.pop((id(parent), name), (0, node))
        if node.is_file and before is not node and self.now - time < FRESH_NS:
            node.may += before.history()
            before.successor, node.took_over = (self.now, node), True

    def _create(self, path: Path) -> None:
        self._new(path, Kind.FILE, 0o644)

    def _mkdir(self, path: Path) -> None:
        self._new(path, Kind.DIRECTORY, 0o755)

    def _symlink(self, path: Path, target: bytes) -> None:
        self._new(path, Kind.SYMLINK, 0o777, target)

    def _put(self, path: Path, data: bytes) -> None:
        if path[-1] in self.at(path[:-1]).children:
            self._set_content(self.at(path), data)
        else:
            self._new(path, Kind.FILE, 0o644, data)

    def _write(self, path: Path, offset: int, data: bytes) -> None:
        node = self.at(path)
        content = node.content.ljust(offset, b"\0")
        self._set_content(node, content[:offset] + data + content[offset + len(data) :])

    def _rewrite(self, path: Path, data: bytes) -> None:
        self._set_content(self.at(path), data)

    def _set_content(self, node: Node, new: bytes) -> None:
        if not node.content:
            node.burst = self.now
        elif node.content != new and not self.in_burst(node):
            node.must.append(node.content)
            node.burst = self.now
        elif node.content != new and node.took_over:
            node.may.append(node.content)
        node.content, node.mtime = new, self.now
        node.position, node.machine, node.is_written = self.position, self.machine, True

    def _link(self, source: Path, target: Path) -> None:
        self.at(source).was_linked = True
        self._put_into(target, self.at(source))

    def _take(self, path: Path) -> Node:
        parent = self.at(path[:-1])
        parent.mtime = self.now
        return parent.children.pop(path[-1])

    def _rename(self, source: Path, target: Path) -> None:
        there = self.at(target[:-1]).children.get(target[-1])
        moved = self.at(source)
        if there is moved:
            return
        if there is not None:
            self._remove(target)
            if there.is_file and moved.is_file:
                self._replace(moved, there)
        self._take(source)
        if moved.is_file:
            self.vacated[(id(self.at(source[:-1])), source[-1])] = (self.now, moved)
        self._put_into(target, moved)

    def _replace(self, new: Node, old: Node) -> None:
        """Make the contents of a file earlier ones of the file that takes its name; it is not in the trash."""
        self.trash[-1].is_open = new.took_over = True
        earlier = [each.content for each in old.versions]
        if old.was_linked:  # each name has what it replaced, and the file shows all of it
            new.may += earlier
        else:
            new.must += earlier
        if old.content and old.content != new.content and not self.in_burst(old):
            new.must.append(old.content)
        new.may += [old.content, new.content]

    def _exchange(self, first: Path, second: Path) -> None:
        one, two = self.at(first), self.at(second)
        for path, node, other in ((first, two, one), (second, one, two)):
            parent = self.at(path[:-1])
            parent.children[path[-1]] = node
            parent.mtime = self.now
            if node.is_directory:
                node.up = (parent, path[-1])
            elif node.is_file and other.is_file:
                node.may += other.history()
                node.took_over = True

    def _remove(self, path: Path) -> None:
        parent = self.at(path[:-1])
        node = self._take(path)
        is_new = all(self.now - each.made < FRESH_NS for _, each in self.walk(node))
        since, successor = node.successor or (0, node)
        is_backup = successor is not node and self.now - since < BACKUP_NS
        if is_backup:  # it is a version of the file whose backup it is, and need not be in the trash
            successor.may += node.history()
        self.trash.append(Deleted(node, parent, path[-1], self.now, is_open=is_new or is_backup))

    def _chmod(self, path: Path, mode: int) -> None:
        self.at(path).mode = mode

    def _utime(self, path: Path, mtime: int) -> None:
        self.at(path).mtime = mtime

    def _xattr(self, path: Path, name: bytes, value: bytes | None) -> None:
        _set(self.at(path).xattrs, name, value)

    def _property(self, path: Path, name: bytes, value: bytes | None) -> None:
        _set(self.at(path).properties, name, value)

    # ---- history -------------------------------------------------------------------------------------------------

    def _snapshot(self, name: str) -> None:
        self.made_snapshots += 1
        self.pins.append(Pin(name, self.now, self.position))

    def _unsnapshot(self, name: str) -> None:
        self.pins = [pin for pin in self.pins if pin.name != name]

    def _restore(self, number: int) -> None:
        deleted = self.trash.pop(-1 - number)
        above, missing, name = self.target(deleted)
        for each, known in missing:
            mode = known.mode if known is not None and not known.is_purged else 0o755
            self._new((*above, each), Kind.DIRECTORY, mode)
            above = (*above, each)
        self._put_into((*above, name), deleted.node)

    def _empty(self, before: int | None) -> None:
        gone = [each for each in self.trash if before is None or each.time < before]
        for each in gone:
            self.trash.remove(each)
            for _, node in self.walk(each.node):
                node.is_purged = True
        for _, node in self.walk():
            node.is_purged = False

    def target(self, deleted: Deleted) -> tuple[Path, list[tuple[bytes, Node | None]], bytes]:
        """Where ``restore`` puts an entry: a directory, those to be made below it, the name there."""
        steps = self._steps(deleted.parent)
        node: Node = self.root
        if self._is_live(deleted.parent):
            path = tuple(name for name, _ in steps)
            return path, [], free_name(deleted.parent, deleted.name)
        above: Path = ()
        while steps and (child := node.children.get(steps[0][0])) is not None and child.is_directory:
            node, above = child, (*above, steps.pop(0)[0])
        if not steps:
            return above, [], free_name(node, deleted.name)
        missing: list[tuple[bytes, Node | None]] = [(free_name(node, steps[0][0]), steps[0][1]), *steps[1:]]
        return above, missing, deleted.name

    def former(self, deleted: Deleted) -> Path:
        return (*(name for name, _ in self._steps(deleted.parent)), deleted.name)

    def _steps(self, directory: Node) -> list[tuple[bytes, Node]]:
        """The names and nodes from the root to a directory, as it is or was."""
        steps: list[tuple[bytes, Node]] = []
        while directory.up is not None:
            steps.insert(0, (directory.up[1], directory))
            directory = directory.up[0]
        return steps

    def _is_live(self, directory: Node) -> bool:
        while directory.up is not None:
            above, name = directory.up
            if above.children.get(name) is not directory:
                return False
            directory = above
        return directory is self.root

    # ---- what changes nothing that is shown ------------------------------------------------------------------------

    def _nothing(self, *_: object) -> None:
        return

    _sync = _checkpoint = _upkeep = _restart = _check = _nothing

    def _gc(self) -> None:
        for _, node in self.walk():
            node.is_too_long = len(node.versions) > self.max_versions

    def _clock(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000_000)

    def _join(self) -> None:
        self.machine += 1
        self.inodes.clear()  # each machine has numbers of its own

    def _policy(self, max_versions: int) -> None:
        self.max_versions = max_versions


def _set(values: dict[bytes, bytes], name: bytes, value: bytes | None) -> None:
    if value is None:
        values.pop(name, None)
    else:
        values[name] = value


def free_name(directory: Node, name: bytes) -> bytes:
    """The name that a restored entry gets."""
    free, number = name, 1
    while free in directory.children:
        free = name + (b" (restored)" if number == 1 else f" (restored {number})".encode())
        number += 1
    return free
