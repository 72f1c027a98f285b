"""A store under attack: histories of several writers, the store's segments in any order, and a fresh machine that rebuilds."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from tests.support.platform import SeededEntropy
from tests.support.vaults import Vault, make_folder
from tgdav.blobs.interface import BlobInfo
from tgdav.blobs.memory import MemoryBlobs, MemoryStore
from tgdav.crdt.membership import Base, Link
from tgdav.crypto.keys import NamespaceKeys, VaultKeys
from tgdav.crypto.label import BlobKind, Label, encode_label
from tgdav.crypto.machine import MachineIdentity
from tgdav.crypto.sealing import Kind
from tgdav.db.database import Database
from tgdav.disk import SystemDisk
from tgdav.ids import BlobId, BlobName, Incarnation, MachineId
from tgdav.metadata.history import HistoryPolicy
from tgdav.metadata.journal import Journal
from tgdav.replication.blob_listing import BlobListing
from tgdav.replication.format import envelope
from tgdav.replication.format.segment import Segment
from tgdav.replication.format.segment import encode as encode_segment
from tgdav.replication.intake import Intake
from tgdav.replication.log_reader import LogReader
from tgdav.replication.rebuild import Rebuilder, Rebuilt, find_secret
from tgdav.volume.volume import Volume

_NAMES = "SELECT name FROM entries WHERE local = 0 AND parent = 1"
_scratch = itertools.count()


@dataclass(frozen=True)
class Blob:
    """A blob as it lies in a store: its name and label, its bytes."""

    info: BlobInfo
    data: bytes


@dataclass(frozen=True)
class Sent:
    """A segment of a history: its blob, what it says, and the folder that it makes (None: only a membership)."""

    blob: Blob
    link: Link
    folder: bytes | None

    @property
    def author(self) -> Incarnation:
        return self.link.incarnation


@dataclass
class History:
    """What several writers in a row left in a store. ``segments`` in the order in which they were sent."""

    vault_keys: VaultKeys
    segments: list[Sent]

    def chain(self, author: Incarnation) -> list[Sent]:
        return [each for each in self.segments if each.author == author]

    @property
    def authors(self) -> list[Incarnation]:
        """The writers, oldest first."""
        return list(dict.fromkeys(each.author for each in self.segments))

    @property
    def tree(self) -> set[bytes]:
        return {each.folder for each in self.segments if each.folder is not None}


class Recorder:
    """Writers that follow each other in one vault, each with folders of its own, one segment a folder."""

    def __init__(self, folder: Path) -> None:
        self.vault = Vault(folder)
        self.folders: dict[bytes, bytes] = {}
        """The folder that a segment makes, by the segment's name."""

    def write(self, volume: Volume, *names: str) -> None:
        """Make folders, each sent by a segment of its own."""
        for name in names:
            before = self._names()
            make_folder(volume, name)
            volume.replicator.pusher.push()
            (new,) = self._names() - before
            self.folders[new] = name.encode()

    def branch(self, volume: Volume, *names: str) -> None:
        """Make folders that leave in one segment, without a look that would find another writer."""
        for name in names:
            make_folder(volume, name)
        volume.replicator.pusher.push()

    def _names(self) -> set[bytes]:
        return {bytes.fromhex(path.name.split("-")[1]) for path in self.vault.blobs()}

    def history(self, volume: Volume) -> History:
        """Return what lies in the store now."""
        store = volume.stores.store
        blobs = {info.name: Blob(info, store.read(info.id, 0, info.size)) for info in store.list()}
        survey = BlobListing(store.list(), volume.vault_keys)
        secret = find_secret(store, survey, volume.vault_keys, volume.log.namespace)
        intake = Intake(LogReader(store, volume.vault_keys, NamespaceKeys(volume.log.namespace, secret)), Base())
        found = survey.of(volume.log.namespace, BlobKind.SEGMENT)
        intake.open_all(found)
        assert not intake.troubles
        links = {intake.found(link).info.name: link for link in intake.links}
        sent = [Sent(blobs[each.info.name], links[each.info.name], self.folders.get(each.info.name)) for each in found]
        return History(volume.vault_keys, sent)


def successive(folder: Path, counts: Sequence[int]) -> History:
    """Return the history of writers that joined one after the other; ``counts``: segments that each sends, at least 1."""
    recorder = Recorder(folder)
    for number, count in enumerate(counts, 1):
        home = "home" if number == 1 else f"home-{number}"
        if number > 1:
            assert not recorder.vault.join(home).damage
        with recorder.vault.opened(home) as volume:
            recorder.write(volume, *(f"{number}-{each}" for each in range(2, count + 1)))
            history = recorder.history(volume)
    return history


@dataclass
class Fresh:
    """What a fresh machine has after rebuilding: names in the root, and the report."""

    names: set[bytes]
    rebuilt: Rebuilt

    @property
    def damage(self) -> list[tuple[str, str]]:
        """What was reported: blobs, or where a chain has a gap, and the kind."""
        return [(each.blob, each.kind) for each in self.rebuilt.damage]

    @property
    def left_out(self) -> dict[Incarnation, int]:
        """How many changes of each chain do not count."""
        return dict(_sums((link.incarnation, link.changes) for link in self.rebuilt.left_out))


def _sums(pairs: Iterable[tuple[Incarnation, int]]) -> Iterator[tuple[Incarnation, int]]:
    for key, group in itertools.groupby(sorted(pairs), key=lambda pair: pair[0]):
        yield key, sum(count for _, count in group)


def store_of(segments: Iterable[Sent | Blob]) -> MemoryStore:
    """Return a store that shows these blobs in this order, some perhaps twice."""
    blobs = MemoryBlobs()
    for number, each in enumerate(segments, 1):
        blob = each.blob if isinstance(each, Sent) else each
        blobs.blobs[BlobId(number)] = (msgspec.structs.replace(blob.info, id=BlobId(number)), blob.data)
        blobs.last_id = number
    return MemoryStore(blobs)


def forged(volume: Volume, identity: MachineIdentity, segment: Segment) -> Blob:
    """Return a segment that somebody who has the vault's keys made and signed."""
    log, entropy = volume.log, volume.platform.entropy
    name = BlobName(entropy.bytes(16))
    content = encode_segment(segment, identity, name)
    data = envelope.wrap(log.vault_keys, log.keys, log.box, Kind.SEGMENT, name, content, entropy)
    label = Label(
        kind=BlobKind.SEGMENT,
        namespace=log.namespace,
        machine=segment.machine,
        incarnation=segment.incarnation,
        number=segment.number,
        body_hash=blake3(data).digest(),
        size=len(data),
    )
    return Blob(BlobInfo(BlobId(0), name, len(data), encode_label(label, log.vault_keys, name, entropy)), data)


def join(folder: Path, history: History, segments: Iterable[Sent | Blob]) -> Fresh:
    """Rebuild the state of a fresh machine from a store that has these segments in this order."""
    store = store_of(segments)
    survey = BlobListing(store.list(), history.vault_keys)
    (namespace,) = survey.namespaces()
    keys = NamespaceKeys(namespace, find_secret(store, survey, history.vault_keys, namespace))
    database = Database.open(folder / f"{next(_scratch)}.db", bytes(32), disk=SystemDisk())
    with closing(database):

        def begin() -> Journal:
            clock, entropy = _Still(), SeededEntropy(1)
            policy = HistoryPolicy()
            return Journal(database, keys, MachineId(b"fresh machine id"), Incarnation(1), clock, entropy, policy)

        rebuilt, _ = Rebuilder(store, survey, history.vault_keys, keys, database, begin, lambda *_: None).run()
        with database.reading() as connection:
            return Fresh({row[0] for row in connection.all(_NAMES)} - {b"lost+found"}, rebuilt)


class _Still:
    def now_ns(self) -> int:
        return 1_800_000_000_000_000_000

    file_time_ns = now_ns

    def monotonic(self) -> float:
        return 0.0
