"""Mutants of the model, to show that random histories against it find bugs."""

from dataclasses import dataclass
from typing import Any

from tests.fs.subjects import Factory, ModelSubject
from tests.support.model_fs import ModelFileSystem
from tgdav.fs.api import RenameFlag
from tgdav.metadata.types import AttributeChange, Kind


class IgnoresNoReplace(ModelFileSystem):
    def rename(self, *args: Any, flags: RenameFlag = RenameFlag.NONE, **options: Any) -> bool:
        return super().rename(*args, flags=flags & ~RenameFlag.NO_REPLACE, **options)


class IgnoresPreconditions(ModelFileSystem):
    def remove_tree(self, *args: Any, precondition: Any = None, **options: Any) -> None:
        super().remove_tree(*args, **options)


class CopiesWithoutProperties(ModelFileSystem):
    def copy(self, *args: Any, **options: Any) -> Any:
        twin, replaced = super().copy(*args, **options)
        self._tree.node(twin.inode).properties.clear()
        return twin, replaced


class LosesLinksInRename(ModelFileSystem):
    def rename(self, parent: Any, name: bytes, new_parent: Any, new_name: bytes, **options: Any) -> bool:
        inode = self.lookup(parent, name).inode
        replaced = super().rename(parent, name, new_parent, new_name, **options)
        node = self._tree.node(inode)
        node.links = 1
        return replaced


class FindsOnlyExactNames(ModelFileSystem):
    def lookup(self, parent: Any, name: bytes, *, normalized: bool = False) -> Any:
        return super().lookup(parent, name)


class KeepsCutBytes(ModelFileSystem):
    def set_attributes(self, inode: Any, change: AttributeChange, *, durable: bool = False) -> Any:
        pages = self._tree.node(inode).content._pages
        before = super().set_attributes(inode, change, durable=durable)
        node = self._tree.node(inode)
        if change.size and node.kind == Kind.FILE:
            node.content._pages = pages
        return before


class LosesClosedWrites(ModelFileSystem):
    def crash(self) -> None:
        for node in self._tree.nodes.values():
            node.kept.truncate(0)
        super().crash()


class MixesWritesInCrash(ModelFileSystem):
    """The newest byte survives, older ones do not."""

    def crash(self) -> None:
        for node in self._tree.nodes.values():
            if node.dirty and node.size:
                last = node.content.read(node.size - 1, 1)
                node.kept.write(node.size - 1, last)
        super().crash()


class LosesNamesInCrash(ModelFileSystem):
    def crash(self) -> None:
        super().crash()
        root = self._tree.node(self.root)
        if root.entries:
            self._tree.drop(root, sorted(root.entries)[-1])


@dataclass(frozen=True)
class Mutant:
    """``expected``: what the message of the assertion must match. With ``seed`` a history that shows it comes early."""

    model: type[ModelFileSystem]
    expected: str
    seed: int

    @property
    def factory(self) -> Factory:
        """Makes a subject of the mutated model."""
        return Factory(self.model.__name__, lambda _folder: ModelSubject(self.model()))


MUTANTS = (
    Mutant(IgnoresNoReplace, "not refused: Exists", 1),
    Mutant(IgnoresPreconditions, "not refused: Exists", 1),
    Mutant(CopiesWithoutProperties, "the trees differ", 2),
    Mutant(LosesLinksInRename, "the trees differ", 1),
    Mutant(FindsOnlyExactNames, "refused, and should not be", 4),
    Mutant(KeepsCutBytes, "the trees differ", 4),
    Mutant(LosesClosedWrites, "a content that never was: 0 bytes", 0),
    Mutant(MixesWritesInCrash, r"a content that never was: \d+ bytes", 8),
    Mutant(LosesNamesInCrash, "the names differ", 0),
)
