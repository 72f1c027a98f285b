"""What the store contains, by labels alone: headers, packs, segments, checkpoints. Foreign blobs are left out."""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from tgdav.blobs.interface import START, BlobInfo
from tgdav.crypto.header import later_header_label, recognise
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import BLOB_VERSION, BlobKind, Label, decode_label, later_label
from tgdav.errors import NewerFormat
from tgdav.ids import BlobId, BlobName, Incarnation, NamespaceId


class LabelledBlob(msgspec.Struct, frozen=True):
    """A blob of the vault with its label. ``spares`` are further copies: same name, and the same body by their labels."""

    info: BlobInfo
    label: Label
    spares: tuple[BlobInfo, ...] = ()


def header_blobs(blobs: Iterable[BlobInfo]) -> Iterator[BlobInfo]:
    """Yield the blobs whose label shows, without any key, that they are vault headers."""
    return (info for info in blobs if recognise(info.label))


class BlobListing:
    """A listing of the store, sorted by kind. It covers the ids above ``after``.

    ``last`` is the highest id listed, ids of foreign blobs included. ``later`` are blobs that only later programs read, each
    with its format's version.
    """

    def __init__(self, blobs: Iterable[BlobInfo], vault_keys: VaultKeys, after: BlobId = START) -> None:
        self._vault_keys = vault_keys
        self.after = self.last = after
        self.headers: list[BlobInfo] = []
        self.found: list[LabelledBlob] = []
        self.later: list[tuple[BlobInfo, int]] = []
        for info in blobs:
            self.add(info)

    def add(self, info: BlobInfo) -> None:
        """Add the next blob of the listing."""
        self.last = max(self.last, info.id)
        if recognise(info.label):
            self.headers.append(info)
            return
        if later_header_label(info.label) is not None:
            return  # judged by what opens the vault by its header, or adds one
        label = decode_label(info.label, self._vault_keys, info.name)
        version = later_label(info.label, self._vault_keys, info.name) if label is None else label.format_version
        if version is not None and version > BLOB_VERSION:
            self.later.append((info, version))
        elif label is not None:
            self.found.append(LabelledBlob(info, label))

    def refuse_later(self, known: Callable[[BlobName], bool] = lambda _: False) -> None:
        """Raise NewerFormat if a later program wrote to the store; a blob that is ``known`` by its name is only damaged."""
        for info, version in self.later:
            if not known(info.name):
                raise NewerFormat(f"blob {info.name.hex()} in the store", version)

    def namespaces(self) -> list[NamespaceId]:
        """Return the namespaces that have a segment, oldest first."""
        return list(dict.fromkeys(each.label.namespace for each in self.found if each.label.kind == BlobKind.SEGMENT))

    def of(self, namespace: NamespaceId, kind: BlobKind) -> list[LabelledBlob]:
        """Return the blobs of a kind in append order, each name once: equal copies count as one."""
        copies: dict[bytes, list[LabelledBlob]] = {}
        for each in self.found:
            if each.label.namespace == namespace and each.label.kind == kind:
                copies.setdefault(each.info.name, []).append(each)
        return [_joined(several) for several in copies.values()]

    def checkpoints(self, namespace: NamespaceId) -> list[list[LabelledBlob]]:
        """Return the parts of each complete checkpoint, in order, oldest checkpoint first."""
        groups: dict[tuple[Incarnation, int], dict[int, LabelledBlob]] = {}
        for each in self.of(namespace, BlobKind.CHECKPOINT):
            groups.setdefault((each.label.incarnation, each.label.number), {})[each.label.part] = each
        complete = [
            [parts[number] for number in sorted(parts)]
            for parts in groups.values()
            if sorted(parts) == list(range(next(iter(parts.values())).label.parts))
        ]
        return sorted(complete, key=lambda parts: parts[-1].info.id)


def _joined(copies: list[LabelledBlob]) -> LabelledBlob:
    """Return the first copy with the others as its spares; copies of a wrong size come last."""
    first = copies[0].label
    same = [each.info for each in copies if each.label.body_hash == first.body_hash]
    same.sort(key=lambda info: info.size != first.size)
    return LabelledBlob(same[0], first, tuple(same[1:]))
