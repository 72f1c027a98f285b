"""How often the store is listed: on Telegram each listing is a request for a page of history, or for many."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replication.test_writers import interrupted_join
from tests.support.vaults import Vault, content, put, read, rows
from tgdav.blobs.interface import START, BlobInfo, BlobStore
from tgdav.crypto.label import BlobKind, decode_label
from tgdav.ids import BlobId
from tgdav.metadata import settings
from tgdav.replication.writer_check import SEEN
from tgdav.volume.volume import Volume

Listings = list[BlobId]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Volume], Listings]:
    """Count a volume's listings from now on: returns the list of where each began."""

    def count(volume: Volume) -> Listings:
        begun: Listings = []
        store = volume.stores.store
        whole = store.list

        def listed(after: BlobId = START) -> Iterator[BlobInfo]:
            begun.append(after)
            return whole(after)

        monkeypatch.setattr(store, "list", listed)
        return begun

    return count


@pytest.fixture
def joining(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    """A second machine whose join the store does not know yet; ``volume`` is still the writer."""
    put(volume, "before", b"before")
    volume.sync(wait=True)
    interrupted_join(vault, "second", monkeypatch)
    with vault.opened("second") as second:
        yield second


def test_a_missed_segment_is_applied_from_the_listing_that_found_it(
    volume: Volume, joining: Volume, counted: Callable[[Volume], Listings]
) -> None:
    put(volume, "in between", content(2, 60_000))
    volume.sync(wait=True)
    begun = counted(joining)
    joining.replicator.poll()
    assert len(begun) == 1
    assert read(joining, "in between") == content(2, 60_000)


def test_a_pack_that_an_earlier_poll_saw_needs_no_listing_either(
    volume: Volume, joining: Volume, counted: Callable[[Volume], Listings]
) -> None:
    put(volume, "in between", content(2, 60_000))
    volume.content.flush(60)
    joining.replicator.poll()
    seen = rows(joining, "SELECT value FROM settings WHERE key = ?", (SEEN,))
    volume.sync(wait=True)
    begun = counted(joining)
    joining.replicator.poll()
    assert rows(joining, "SELECT value FROM settings WHERE key = ?", (SEEN,)) != seen
    assert len(begun) == 1
    assert read(joining, "in between") == content(2, 60_000)


def test_a_pack_that_no_poll_recorded_is_looked_up(volume: Volume, joining: Volume) -> None:
    put(volume, "in between", content(2, 60_000))
    volume.content.flush(60)
    joining.replicator.poll()
    joining.database.writer.run(lambda t: t.execute("DELETE FROM blobs WHERE kind = ?", (int(BlobKind.PACK),)))
    volume.sync(wait=True)
    joining.replicator.poll()
    assert read(joining, "in between") == content(2, 60_000)


def test_a_poll_that_finds_nothing_lists_once(volume: Volume, counted: Callable[[Volume], Listings]) -> None:
    put(volume, "file", b"x")
    volume.sync(wait=True)
    begun = counted(volume)
    volume.replicator.poll()
    assert len(begun) == 1


def test_the_newest_blob_is_looked_up_alone_when_it_is_far_behind(
    volume: Volume, counted: Callable[[Volume], Listings]
) -> None:
    """Of a Telegram chat with many messages of its user's, a poll does not list those again."""
    put(volume, "file", b"x")
    volume.sync(wait=True)
    (newest,) = rows(volume, "SELECT max(id) FROM blobs WHERE gone = 0 AND kind != 0")[0]
    volume.database.writer.run(lambda t: settings.put(t, SEEN, newest + 100))
    begun = counted(volume)
    volume.replicator.poll()
    assert begun == [newest + 100, newest - 1]


def test_a_noticed_segment_counts_although_the_listing_lags_behind(
    volume: Volume, joining: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = _last(volume.stores.store)
    put(volume, "in between", content(2, 60_000))
    volume.sync(wait=True)
    noticed = [info for info in volume.stores.store.list() if info.id > end]
    wanted = [joining.replicator.on_notice(info) for info in noticed]
    kinds = [_kind(joining, info) for info in noticed]
    assert wanted == [kind != BlobKind.PACK for kind in kinds], "packs change nothing by themselves"
    whole = joining.stores.store.list
    with monkeypatch.context() as patched:
        patched.setattr(
            joining.stores.store, "list", lambda after=START: (info for info in whole(after) if info.id <= end)
        )
        joining.replicator.poll()
    assert read(joining, "in between") == content(2, 60_000)
    joining.replicator.push()
    assert joining.read_only_reason is None


def test_a_notice_of_what_this_machine_stored_is_none(volume: Volume) -> None:
    assert not any(volume.replicator.on_notice(info) for info in volume.stores.store.list())


def _last(store: BlobStore) -> int:
    return max(info.id for info in store.list())


def _kind(volume: Volume, info: BlobInfo) -> Any:
    label = decode_label(info.label, volume.vault_keys, info.name)
    return None if label is None else label.kind
