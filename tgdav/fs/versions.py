"""The versions of files: listing them, bringing one back, and dropping those that are too many."""

from tgdav.content.format.manifest import decode
from tgdav.crdt.ops import Attr, Write
from tgdav.crypto.keys import NamespaceKeys
from tgdav.errors import Exists, InvalidArgument, NotFound, UsageError
from tgdav.fs import changes
from tgdav.fs.api import Owner
from tgdav.fs.files.open_files import OpenFiles
from tgdav.fs.listeners import ChangeListeners
from tgdav.fs.names import JunkPolicy, check_new_name
from tgdav.ids import ContentTag, Inode, NodeId
from tgdav.metadata import pruning, queries, settings, versions
from tgdav.metadata.change import Change
from tgdav.metadata.types import FILE
from tgdav.metadata.versions import Version

FILES_A_STEP = 100
"""Files that are looked at in one step."""
_DELETE_OVERLAY = "DELETE FROM overlays WHERE ino = ?"


class Versions:
    """Works on the versions of one namespace. Thread-safe, except for ``upkeep``."""

    def __init__(
        self, open_files: OpenFiles, listeners: ChangeListeners, keys: NamespaceKeys, junk: JunkPolicy
    ) -> None:
        self._open_files, self._listeners, self._keys, self._junk = open_files, listeners, keys, junk
        self._journal, self._database = open_files.context.journal, open_files.context.database

    def listed(self, inode: Inode) -> list[Version]:
        """Return the versions of a file, the newest first; the first is its present content. Raises UsageError: no such file."""
        self._open_files.flush_queued()
        with self._database.reading() as connection:
            found = versions.versions_of(connection, inode)
        if not found:
            raise UsageError("only files have versions, and none of those that stay on this machine")
        return found[::-1]

    def restore(self, inode: Inode, number: int, to: tuple[Inode, bytes] | None = None) -> Version:
        """Write a version as a new content of its file, or of a new file (directory, name) ``to``; return it. It is durable then.

        No data moves, and the content that it replaces becomes a version. The modification time is that of then. Raises
        UsageError (there is no such version), Exists, InvalidArgument, NotFound (the file or the directory is gone), ReadOnly.
        """
        if to is not None and check_new_name(*to, self._junk):
            raise InvalidArgument("a file with this name would stay on this machine")
        # What was written until now becomes the version before the restored one.
        self._open_files.flush(lambda file: to is None and file.inode == inode)
        self._open_files.flush_queued()

        def work(change: Change) -> tuple[Version, bytes, Inode]:
            version = _find(change, inode, number)
            content = versions.manifest_of(change.connection, version)
            node = self._own(change, inode) if to is None else self._new(change, to, version)
            return version, content, self._write(change, node, version, content)

        version, content, written = self._journal.change(work, durable=True)
        open_file = self._open_files.find(written)
        if open_file is not None:
            open_file.replaced(decode(content), _tag(version))
        with self._database.reading() as connection:
            places = queries.places_of(connection, written)
        for parent, name in places:
            self._listeners.notify(written, parent, name)
        return version

    @staticmethod
    def _own(change: Change, inode: Inode) -> NodeId:
        node = change.attributes(inode)
        if node is None or not node.nlink:
            raise NotFound
        return node.node

    def _new(self, change: Change, to: tuple[Inode, bytes], version: Version) -> NodeId:
        """Make a file like the one that had the version."""
        parent, old = changes.require_directory(change, to[0]), version.attributes
        if changes.find(change, *to) is not None:
            raise Exists
        return changes.make(change, self._keys, parent, to[1], FILE, old.mode, Owner(old.uid, old.gid), inherits=False)

    def _write(self, change: Change, node: NodeId, version: Version, content: bytes) -> Inode:
        before, old = changes.made(change, node), version.attributes
        if before.tag != old.tag:
            change.emit(Write(node, old.size, _tag(version), content, before.tag, old.mtime, restores=True))
        else:
            change.emit(Attr(node, {"mtime": old.mtime}))
        open_file = self._open_files.find(before.inode)
        if open_file is not None:
            # Unflushed writes from before must not be recovered over this content after a crash.
            change.transaction.execute(_DELETE_OVERLAY, (before.inode,))
            change.transaction.release(open_file.records.kept)
        change.changes.nodes.add(before.inode)
        return before.inode

    def upkeep(self) -> bool:
        """Drop versions of some files that have more than the policy allows; return whether there may be more to do.

        A file that gets a version drops others itself. This is for a policy that was changed.
        """
        with self._database.reading() as connection:
            most = settings.get(connection, settings.VERSION_POLICY)
            done, after = settings.get(connection, settings.PRUNED, (None, 0))
            if most is None or (done == most and after is None):
                return False
            files = pruning.with_versions(connection, Inode(after if done == most else 0), FILES_A_STEP)
            now = self._open_files.context.clock.now_ns()
            ops = [op for inode in files for op in pruning.beyond(connection, inode, most, now)]
        # What a file has lost or won meanwhile does no harm: an operation that finds nothing changes nothing.
        for op in ops:
            self._journal.change(lambda change, op=op: change.emit(op))  # type: ignore[misc]
        reached = (most, files[-1] if files else None)
        self._database.writer.run(lambda transaction: settings.put(transaction, settings.PRUNED, reached))
        return bool(files)


def _find(change: Change, inode: Inode, number: int) -> Version:
    found = versions.versions_of(change.connection, inode)
    for each in found:
        if each.number == number:
            return each
    raise UsageError(f"there is no version {number}", hint="'tgdav versions PATH' lists them")


def _tag(version: Version) -> ContentTag:
    assert version.attributes.tag is not None, "files have a tag"
    return version.attributes.tag
