"""The redo log's records of files whose writes are not committed yet.

A small file is committed after its close was answered, and attributes of a file with unflushed writes are answered before they
are committed. A record is written before each such answer: the whole content of a closed file, or the attributes that were set.
Records of one file are numbered by ``version``. A new record replaces older ones that it makes redundant. The transaction that
commits the file releases its records. ``OpenFiles.recover_closed`` restores files from them after a crash.

The bytes are described in ``docs/formats/redo-log.md``.
"""

from collections.abc import Iterable, Mapping

import msgspec

from tgdav.db.redo_log import KeptRecord, RedoLog
from tgdav.ids import ContentTag, NodeId

_encode = msgspec.msgpack.Encoder().encode


class Record(msgspec.Struct, array_like=True, frozen=True):
    """``attributes`` are named as in ``AttributeChange``. ``content`` is the whole content of a closed file, which replaces the
    content with the tag ``base`` (empty: none); None if only attributes were set."""

    node: bytes
    version: int
    base: bytes
    attributes: dict[str, int]
    content: bytes | None


_decode = msgspec.msgpack.Decoder(Record).decode


class FileRecords:
    """The records of one open file. Not thread-safe: its open file locks."""

    def __init__(self, log: RedoLog, node: NodeId) -> None:
        self._log, self._node = log, node
        self._version = 0
        self._content: tuple[KeptRecord, ...] = ()
        self._attributes: tuple[KeptRecord, ...] = ()
        self._set_attributes: dict[str, int] = {}
        self._recorded_state: int | None = None

    @property
    def kept(self) -> tuple[KeptRecord, ...]:
        """The records that the transaction that commits the file must release."""
        return self._content + self._attributes

    @property
    def has_content(self) -> bool:
        """Whether there is a record with a content."""
        return bool(self._content)

    def has(self, state: int) -> bool:
        """Return whether the last record has the content of ``state``, a number that changes with every change of the file."""
        return self._recorded_state == state

    def keep_content(self, base: ContentTag | None, attributes: Mapping[str, int], content: bytes, state: int) -> bool:
        """Record the content and attributes of a closed file; return False if that fails."""
        # A whole content with all attributes makes every earlier record redundant.
        kept = self._keep(base, attributes, content, self.kept)
        if kept is not None:
            self._content, self._attributes = (kept,), ()
            self._set_attributes, self._recorded_state = {}, state
        return kept is not None

    def keep_attributes(self, attributes: Mapping[str, int]) -> bool:
        """Record attributes that were set; return False if that fails."""
        merged = {**self._set_attributes, **attributes}
        # It replaces the last record of attributes, whose values it contains, but not the content.
        kept = self._keep(None, merged, None, self._attributes)
        if kept is not None:
            self._attributes = (kept,)
            self._set_attributes, self._recorded_state = merged, None
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
            return None  # a time of more than 64 bits, which the commit refuses too
        kept = self._log.keep(payload, replaced)
        self._version += kept is not None
        return kept

    def resume(self, found: "FoundRecords") -> None:
        """Continue with the records of an earlier process."""
        # All of them are released by the next commit.
        self._version, self._content = found.version, tuple(found.kept)

    def forget(self) -> None:
        """Forget the records: the transaction that committed the file has released them."""
        self._content = self._attributes = ()
        self._set_attributes, self._recorded_state = {}, None


class FoundRecords:
    """The records of one node that an earlier process left."""

    def __init__(self) -> None:
        self.kept: list[KeptRecord] = []
        self._records: list[Record] = []

    def add(self, kept: KeptRecord, record: Record) -> None:
        """Add a record, in any order."""
        self.kept.append(kept)
        self._records.append(record)

    @property
    def version(self) -> int:
        """Number of the latest record."""
        return max(record.version for record in self._records)

    def latest(self, tag: ContentTag | None) -> tuple[dict[str, int], bytes | None]:
        """Return the attributes and the content to restore for a node whose committed content has ``tag``."""
        attributes: dict[str, int] = {}
        content = None
        for record in sorted(self._records, key=lambda record: record.version):
            if record.content is None:
                attributes |= record.attributes
            # A content that was closed over another one is obsolete: the committed content was replaced after the close.
            elif record.base == (tag or b""):
                attributes, content = attributes | record.attributes, record.content
        return attributes, content


def found_by_node(log: RedoLog) -> dict[NodeId, FoundRecords]:
    """Return the records that an earlier process left in the log, by node."""
    # The log may still contain records that later ones have replaced, so those of one node are collected and sorted.
    nodes: dict[NodeId, FoundRecords] = {}
    for kept in log.found:
        assert kept.payload is not None, "records found at the start have their bytes"
        record = _decode(kept.payload)
        nodes.setdefault(NodeId(record.node), FoundRecords()).add(kept, record)
    return nodes
