"""What the redo log keeps of files whose writes wait for their commit, and how the next start goes on from there.

A small file is closed before it is committed, and attributes of a file with unflushed writes are answered before. Each such
answer writes a record first: the whole content of a file that is closed, or the attributes that were asked for. Records of one
file are numbered by ``version``, and a record takes the place of older ones that say no more than it does. The transaction
that settles the file releases them.

The bytes are described in ``docs/formats/redo-log.md``.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from tgdav.db.redo_log import KeptRecord, RedoLog
from tgdav.errors import NotFound, TgdavError
from tgdav.failpoints import failpoint
from tgdav.fs import node_attributes
from tgdav.ids import ContentTag, NodeId
from tgdav.metadata import queries
from tgdav.metadata.change import Change
from tgdav.metadata.types import AttributeChange, Attributes

if TYPE_CHECKING:
    from tgdav.fs.files.open_file import OpenFile
    from tgdav.fs.files.open_files import OpenFiles

_log = logging.getLogger(__name__)

_encode = msgspec.msgpack.Encoder().encode


class Record(msgspec.Struct, array_like=True, frozen=True):
    """``attributes``: by their names in ``AttributeChange``. ``content`` is the whole of a closed file, in place of the content
    with the tag ``base`` (empty: none); None where only attributes were set."""

    node: bytes
    version: int
    base: bytes
    attributes: dict[str, int]
    content: bytes | None


_decode = msgspec.msgpack.Decoder(Record).decode


class FileRecords:
    """What the log keeps of one open file. Not thread-safe: its open file locks."""

    def __init__(self, log: RedoLog, node: NodeId) -> None:
        self._log, self._node = log, node
        self._version = 0
        self._content: tuple[KeptRecord, ...] = ()
        self._attributes: tuple[KeptRecord, ...] = ()
        self._asked: dict[str, int] = {}
        self._noted: int | None = None

    @property
    def kept(self) -> tuple[KeptRecord, ...]:
        """What is to be released by the transaction that settles the file."""
        return self._content + self._attributes

    @property
    def has_content(self) -> bool:
        """Whether a content is kept."""
        return bool(self._content)

    def has(self, state: int) -> bool:
        """Whether the content that was kept last is that of ``state``, a number that moves with each change of the file."""
        return self._noted == state

    def keep_content(self, base: ContentTag | None, attributes: Mapping[str, int], content: bytes, state: int) -> bool:
        """Keep the content of a closed file with its attributes; False if that is not possible now."""
        kept = self._keep(base, attributes, content, self.kept)
        if kept is not None:
            self._content, self._attributes, self._asked, self._noted = (kept,), (), {}, state
        return kept is not None

    def keep_attributes(self, asked: Mapping[str, int]) -> bool:
        """Keep attributes that were asked for; False if that is not possible now."""
        attributes = {**self._asked, **asked}
        kept = self._keep(None, attributes, None, self._attributes)
        if kept is not None:
            self._attributes, self._asked, self._noted = (kept,), attributes, None
        return kept is not None

    def _keep(
        self,
        base: ContentTag | None,
        attributes: Mapping[str, int],
        content: bytes | None,
        replaced: Iterable[KeptRecord],
    ) -> KeptRecord | None:
        try:
            payload = _encode((self._node, self._version + 1, base or b"", attributes, content))
        except OverflowError:
            return None  # a time that no commit takes either
        kept = self._log.keep(payload, replaced)
        self._version += kept is not None
        return kept

    def take_over(self, found: "Found") -> None:
        """Go on with what an earlier process kept."""
        self._version, self._content = found.version, tuple(found.kept)

    def forget(self) -> None:
        """The file was settled: what was kept is released."""
        self._content = self._attributes = ()
        self._asked, self._noted = {}, None


class Found:
    """What an earlier process kept of one node."""

    def __init__(self) -> None:
        self.kept: list[KeptRecord] = []
        self._records: list[Record] = []

    def add(self, kept: KeptRecord, record: Record) -> None:
        """Add one more, in any order."""
        self.kept.append(kept)
        self._records.append(record)

    @property
    def version(self) -> int:
        """Number of the latest record."""
        return max(record.version for record in self._records)

    def latest(self, tag: ContentTag | None) -> tuple[dict[str, int], bytes | None]:
        """Return attributes and content, for a node whose committed content has ``tag``."""
        attributes: dict[str, int] = {}
        content = None
        for record in sorted(self._records, key=lambda record: record.version):
            if record.content is None:
                attributes |= record.attributes
            elif record.base == (tag or b""):
                attributes, content = attributes | record.attributes, record.content
        return attributes, content


def take_over(files: "OpenFiles") -> "list[OpenFile]":
    """Let files have again what an earlier process kept of them; return those that are to be settled.

    What cannot be changed now (another machine became the writer, the disk is full) stays in the log.
    """
    dirty: list[OpenFile] = []
    for node, found in _by_node(files.context.database.redo.found).items():
        with files.context.database.reading() as connection:
            attributes = queries.attributes_of(connection, node)
        try:
            dirty += _take_over(files, found, attributes)
        except TgdavError as error:
            _log.warning("a file that was closed before a crash could not be taken over yet: %s", error)
        failpoint("redo.taken-over")
    files.context.database.redo.found = ()
    return dirty


def _by_node(kept: Iterable[KeptRecord]) -> dict[NodeId, Found]:
    nodes: dict[NodeId, Found] = {}
    for each in kept:
        assert each.payload is not None, "what is found at start has its bytes"
        record = _decode(each.payload)
        nodes.setdefault(NodeId(record.node), Found()).add(each, record)
    return nodes


def _take_over(files: "OpenFiles", found: Found, node: Attributes | None) -> "list[OpenFile]":
    context = files.context
    values, content = found.latest(None if node is None else node.tag)
    if node is not None and content is not None:
        file = files.acquire(node.inode)
        try:
            file.restore(content, values, found)
        except TgdavError:
            files.release(file)
            raise
        return [file]

    def work(change: Change) -> None:
        if node is not None and values:
            node_attributes.set_attributes(change, node.inode, AttributeChange(**values))
        change.transaction.release(found.kept)

    try:
        context.journal.change(work, lazy=True)
    except NotFound:
        context.database.writer.run(lambda transaction: transaction.release(found.kept), lazy=True)
    return []
