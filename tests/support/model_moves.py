"""Renames and copies in the tree of the model file system. Callers hold the lock."""

from tests.support.model_tree import Node, Tree
from tgdav.errors import Exists, InvalidArgument, IsADirectory, NotADirectory, NotEmpty
from tgdav.fs.api import Precondition, RenameFlag


class Moves:
    """rename(2) with its flags, and copies. Everything is checked before anything changes."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def rename(
        self,
        old: Node,
        name: bytes,
        new: Node,
        new_name: bytes,
        flags: RenameFlag,
        replace_tree: bool,
        precondition: Precondition | None,
    ) -> bool:
        if flags == RenameFlag.NO_REPLACE | RenameFlag.EXCHANGE:
            raise InvalidArgument("one flag or the other")
        node = self._tree.get(old, name)
        target = self._target(new, new_name, precondition)
        if RenameFlag.NO_REPLACE in flags and target:
            raise Exists
        if node.is_directory and self._tree.is_inside(new, node):
            raise InvalidArgument("a folder cannot go into itself")
        if RenameFlag.EXCHANGE in flags:
            self._exchange(old, name, new, new_name)
            return False
        if (old, name) == (new, new_name) or (target is node and not replace_tree):
            return False
        if target:
            if not replace_tree:
                _check_rename(node, target)
            if target.is_directory and self._tree.is_inside(old, target):
                raise InvalidArgument("the folder holds what would replace it")
            self._tree.drop(new, new_name)
        self._move(old, name, new, new_name)
        return target is not None

    def copy(
        self, source: Node, folder: Node, name: bytes, recursive: bool, replace: bool, precondition: Precondition | None
    ) -> tuple[Node, bool]:
        target = self._target(folder, name, precondition)
        if target and not replace:
            raise Exists
        if target is source or (source.is_directory and recursive and self._tree.is_inside(folder, source)):
            raise InvalidArgument("a copy cannot go into itself")
        if target:
            self._check_replaced(source, target)
            self._tree.drop(folder, name)
        twin = self._tree.copy(source, recursive=recursive)
        self._tree.place(folder, name, twin)
        return twin, target is not None

    def _target(self, folder: Node, name: bytes, precondition: Precondition | None) -> Node | None:
        """Return the node that a name to be created has so far, after checking the precondition."""
        self._tree.check_new(folder, name)
        found = self._tree.find(folder, name)
        if precondition:
            precondition(self._tree.attributes(found[1]) if found else None)
        return found[1] if found else None

    def _exchange(self, old: Node, name: bytes, new: Node, new_name: bytes) -> None:
        target = self._tree.get(new, new_name)
        if target.is_directory and self._tree.is_inside(old, target):
            raise InvalidArgument("a folder cannot go into itself")
        if (old, name) != (new, new_name):
            node, number = self._tree.take(old, name)
            self._move(new, new_name, old, name)
            self._tree.place(new, new_name, node, number=number)

    def _move(self, old: Node, name: bytes, new: Node, new_name: bytes) -> None:
        node, number = self._tree.take(old, name)
        self._tree.place(new, new_name, node, number=number)

    def _check_replaced(self, source: Node, target: Node) -> None:
        """Refuse to remove a directory that contains the node replacing it."""
        if any(below is source for below in self._tree.below(target)):
            raise InvalidArgument("the folder holds what would replace it")


def _check_rename(node: Node, target: Node) -> None:
    """Apply rename(2)'s rules on which kind of node may replace which."""
    if node.is_directory and not target.is_directory:
        raise NotADirectory
    if target.is_directory and not node.is_directory:
        raise IsADirectory
    if target.entries:
        raise NotEmpty
