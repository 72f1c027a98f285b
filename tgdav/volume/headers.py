"""Keeping two whole copies of the vault header in the store, and replacing them when a secret changes."""

from collections.abc import Iterable

import msgspec

from tgdav.blobs.contract import BlobInfo, BlobStore, BytesSource
from tgdav.crypto.header import HEADER_BYTES, Header, decode, encode, is_genuine, make_header_label, superseded
from tgdav.entropy import Entropy
from tgdav.errors import BlobMissing, DamageError
from tgdav.failpoints import reach
from tgdav.ids import BlobId, BlobName
from tgdav.replication.survey import header_blobs

COPIES = 2


class Placed(msgspec.Struct, frozen=True):
    """The newest header, its copies in the store, and the blobs of headers that it supersedes."""

    header: Header
    copies: list[BlobInfo]
    outdated: list[BlobId]


def place_headers(store: BlobStore, header: Header, master: bytes, entropy: Entropy) -> Placed:
    """See to it that the store has two whole copies of the newest header: ``header``, or a later one found there.

    Nothing is deleted: the caller first keeps the header locally, then deletes what is outdated, so that an interruption
    anywhere is finished by the next call. Raises StoreUnavailable.
    """
    found = _headers(store, store.list())
    header = _newest(found, header, master)
    wanted = encode(header)
    copies = [info for info, each in found if encode(each) == wanted]
    outdated = [info.id for info, each in found if encode(each) != wanted and superseded(each, header)]
    while len(copies) < COPIES:
        reach("headers.before-append")
        copies.append(store.append(BlobName(entropy.bytes(16)), BytesSource(wanted), make_header_label(entropy)))
        reach("headers.after-append")
    return Placed(header, copies, outdated)


def newest_header(store: BlobStore, listed: Iterable[BlobInfo], header: Header, master: bytes) -> Header:
    """Return ``header``, or the genuine one in the store that supersedes it."""
    return _newest(_headers(store, listed), header, master)


def _headers(store: BlobStore, listed: Iterable[BlobInfo]) -> list[tuple[BlobInfo, Header]]:
    return [(info, each) for info in header_blobs(listed) if (each := _read(store, info)) is not None]


def _newest(found: list[tuple[BlobInfo, Header]], header: Header, master: bytes) -> Header:
    for _, each in found:
        if superseded(header, each) and is_genuine(each, master):
            header = each
    return header


def _read(store: BlobStore, info: BlobInfo) -> Header | None:
    """Return the header in a blob; a damaged one counts as missing here, and ``check`` reports it."""
    try:
        return decode(store.read(info.id, 0, HEADER_BYTES))
    except (DamageError, BlobMissing):
        return None
