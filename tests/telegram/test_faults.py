"""Each fault of the server, and how the store handles it."""

import random
import threading
from collections.abc import Callable

import pytest
from telethon.tl.types import Message

from tests.blobs.calls import BLOCK, content, ids, put
from tests.blobs.conftest import name_of
from tests.mtproto.harness import Server
from tests.support.telegram import TelegramAccount
from tgdav.blobs import BytesSource
from tgdav.blobs.telegram import TelegramStore
from tgdav.blobs.telegram.flood_waits import MAX_JITTER
from tgdav.errors import AccessError, BlobMissing, DamageError, StoreRejected, StoreUnavailable
from tgdav.ids import BlobId

DATA = random.Random(9).randbytes(12 * BLOCK + 5)
"""Of the size of a big file: 25 parts."""


both = pytest.mark.parametrize("account", ["me", "channel"], indirect=True)


def append(store: TelegramStore, source: BytesSource, attempts: int = 40) -> int:
    """Append, and again while the store is unavailable."""
    for _ in range(attempts):
        try:
            return store.append(name_of(1), source, "label").id
        except StoreUnavailable:
            store._session.pause(0.05)
    raise AssertionError(f"not stored in {attempts} attempts")


class TestUploads:
    @pytest.mark.parametrize("kind", ["internal", "timeout", "rpc_call_fail", "worker_busy", "part_refused"])
    @pytest.mark.parametrize("after", [0, 3])
    def test_survive_errors_of_parts(self, server: Server, store: TelegramStore, kind: str, after: int) -> None:
        server.arm(kind, "upload.saveBigFilePart", after=after)
        assert content(store, put(store, 1, DATA)) == DATA
        assert server.fault_counts()[kind] == 1

    @pytest.mark.parametrize("kind", ["flood_wait", "flood_premium_wait"])
    def test_wait_when_required(self, server: Server, store: TelegramStore, kind: str) -> None:
        server.arm(kind, "upload.saveBigFilePart", after=3, seconds=1)
        assert content(store, put(store, 1, DATA)) == DATA

    def test_leave_a_long_wait_to_the_caller(self, server: Server, store: TelegramStore) -> None:
        server.arm("flood_wait", "upload.saveFilePart", seconds=500)
        with pytest.raises(StoreUnavailable) as caught:
            put(store, 1)
        assert 400 < (caught.value.retry_after or 0) <= 500 + MAX_JITTER
        with pytest.raises(StoreUnavailable):
            put(store, 1)

    @pytest.mark.parametrize("kind", ["part_lost", "part_zero_lost", "md5_invalid"])
    @pytest.mark.parametrize("size", [700_000, len(DATA)])
    def test_send_again_what_was_lost(self, server: Server, store: TelegramStore, kind: str, size: int) -> None:
        server.arm(kind, "messages.sendMedia")
        assert content(store, put(store, 1, DATA[:size])) == DATA[:size]
        assert server.fault_counts()[kind] == 1

    @pytest.mark.parametrize("kind", ["dropped_connection", "half_open", "restart", "lost_answer", "dropped_answer"])
    @pytest.mark.parametrize("method", ["upload.saveBigFilePart", "messages.sendMedia", "messages.getHistory"])
    def test_survive_a_broken_connection(self, server: Server, store: TelegramStore, kind: str, method: str) -> None:
        server.arm(kind, method)
        source = BytesSource(DATA)
        blob_id = append(store, source)
        assert ids(store) == [blob_id]
        assert store.read(store.find(name_of(1)).id, 0, len(DATA)) == DATA  # type: ignore[union-attr]
        assert server.statistics()["messages_sent"] == 1

    def test_continue_with_the_parts_that_arrived(self, server: Server, store: TelegramStore) -> None:
        source = BytesSource(DATA)
        server.arm("dropped_connection", "messages.sendMedia")
        append(store, source)
        assert server.statistics()["calls"]["upload.saveBigFilePart"] == 25

    def test_start_over_when_the_server_forgot_the_upload(self, server: Server, store: TelegramStore) -> None:
        source = BytesSource(DATA)
        server.arm("error", "messages.sendMedia", code=500, text="INTERNAL")
        with pytest.raises(StoreUnavailable):
            store.append(name_of(1), source, "label")
        server.expire_uploads()
        append(store, source)
        assert store.read(ids(store)[0], 0, len(DATA)) == DATA  # type: ignore[arg-type]


@both
class TestOneMessage:
    @pytest.mark.parametrize("rule", ["first", "error"])
    def test_although_the_response_was_lost(
        self, server: Server, account: TelegramAccount, open_store: Callable[..., TelegramStore], rule: str
    ) -> None:
        """The next process finds the message."""
        server.set_rules(repeat_random_id=rule)
        server.arm("dropped_answer", "messages.sendMedia")
        first = open_store()
        with pytest.raises(StoreUnavailable):
            put(first, 1)
        first.close()
        second = open_store()
        info = put(second, 1)
        assert ids(second) == [info.id]
        assert server.statistics()["messages_sent"] == 1

    def test_although_the_server_forgot_the_random_id(self, server: Server, store: TelegramStore) -> None:
        server.set_rules(random_id_memory=1.0)
        server.arm("dropped_answer", "messages.sendMedia")
        with pytest.raises(StoreUnavailable):
            put(store, 1)
        server.advance(3600)
        assert put(store, 1).id == ids(store)[0]
        assert len(ids(store)) == 1

    def test_of_a_name_that_was_deleted_is_a_new_one(self, server: Server, store: TelegramStore) -> None:
        server.set_rules(repeat_random_id="error")
        for _ in range(3):
            store.delete([put(store, 1).id])
        assert [put(store, 1).id] == ids(store)

    @pytest.mark.parametrize("rule", ["first", "error"])
    def test_of_a_name_whose_caption_was_edited_is_a_new_one(
        self, server: Server, account: TelegramAccount, open_store: Callable[..., TelegramStore], rule: str
    ) -> None:
        """The server still responds with the edited message, to this process and to the next."""
        server.set_rules(repeat_random_id=rule)
        for _ in range(2):
            store = open_store()
            edited = put(store, 1)
            server.edit(account.phone, edited.id, "my holidays!", account.channel, account.channel is not None)
            again = put(store, 1)
            assert again.id > edited.id
            assert ids(store) == [again.id]
            store.close()

    def test_of_a_name_for_which_only_an_id_is_returned(
        self, server: Server, account: TelegramAccount, store: TelegramStore
    ) -> None:
        edited = put(store, 1)
        server.edit(account.phone, edited.id, "my holidays!", account.channel, account.channel is not None)
        server.set_rules(repeat_random_id="id")
        assert [put(store, 1).id] == ids(store)

    def test_of_a_name_for_which_the_id_of_a_deleted_message_is_returned(
        self, server: Server, account: TelegramAccount, store: TelegramStore
    ) -> None:
        """The message may merely not be visible yet, until its id is returned again."""
        deleted = put(store, 1)
        server.delete(account.phone, [deleted.id], account.channel, account.channel is not None)
        server.set_rules(repeat_random_id="id")
        with pytest.raises(StoreUnavailable, match="does not show it yet"):
            put(store, 1)
        assert [put(store, 1).id] == ids(store)


class TestReads:
    @pytest.mark.parametrize(
        "kind", ["internal", "short_read", "reference_expired", "reference_invalid", "reference_empty"]
    )
    @pytest.mark.parametrize("after", [0, 2])
    def test_survive(self, server: Server, store: TelegramStore, kind: str, after: int) -> None:
        info = put(store, 1, DATA)
        server.arm(kind, "upload.getFile", after=after)
        assert content(store, info) == DATA
        assert server.fault_counts()[kind] == 1

    @pytest.mark.parametrize("kind", ["flood_wait", "flood_premium_wait"])
    def test_wait_when_required(self, server: Server, store: TelegramStore, kind: str) -> None:
        info = put(store, 1, DATA)
        server.arm(kind, "upload.getFile", after=2, seconds=1)
        assert content(store, info) == DATA

    def test_with_all_references_aged(self, server: Server, store: TelegramStore) -> None:
        info = put(store, 1, DATA)
        server.age_references()
        assert content(store, info) == DATA

    def test_of_a_file_in_another_data_centre(self, server: Server, store: TelegramStore) -> None:
        server.arm("other_dc", "messages.sendMedia")
        info = put(store, 1, DATA)
        assert content(store, info) == DATA
        assert content(store, info) == DATA

    def test_of_a_lost_file_whose_message_exists(self, server: Server, store: TelegramStore) -> None:
        info = put(store, 1, DATA)
        server.arm("file_id_invalid", "upload.getFile", count=1000)
        with pytest.raises(BlobMissing):
            content(store, info)

    def test_of_a_file_refused_once_after_stale_references_continue(self, server: Server, store: TelegramStore) -> None:
        info = put(store, 1)
        for kind in ("reference_expired", "reference_invalid", "reference_empty", "file_id_invalid"):
            server.arm(kind, "upload.getFile")
        assert content(store, info) == b"sealed"

    def test_that_stay_short_are_damage(self, server: Server, store: TelegramStore) -> None:
        info = put(store, 1, DATA)
        server.arm("short_read", "upload.getFile", count=1000)
        with pytest.raises(DamageError):
            content(store, info)

    def test_of_a_blob_that_the_user_deleted(
        self, server: Server, account: TelegramAccount, store: TelegramStore
    ) -> None:
        info = put(store, 1)
        server.delete(account.phone, [info.id], account.channel, account.channel is not None)
        with pytest.raises(BlobMissing):
            content(store, info)
        assert ids(store) == []


@both
class TestForeignMessages:
    def test_are_neither_shown_nor_touched(
        self, server: Server, account: TelegramAccount, store: TelegramStore
    ) -> None:
        where = (account.channel, account.channel is not None)
        foreign = server.noise(account.phone, 250, *where)
        mine = [put(store, number).id for number in range(3)]
        foreign += server.noise(account.phone, 130, *where)
        assert ids(store) == mine
        store.delete([*foreign, *mine])  # type: ignore[list-item]
        with pytest.raises(BlobMissing):
            store.read(foreign[0], 0, 1)
        assert "messages.deleteMessages" not in server.statistics()["errors"]
        left = server.noise(account.phone, 1, *where)
        assert len(left) == 1
        assert self._count(account) == 381

    def _count(self, account: TelegramAccount) -> int:
        store = account.open()
        try:
            chat = store._chat
            after, count = 0, 0
            store.find(name_of(99))
            while page := chat.page_after(after):
                after, count = page[-1].id, count + sum(isinstance(it, Message) for it in page)
            return count
        finally:
            store.close()


class TestLogin:
    @pytest.mark.parametrize("kind", ["auth_key_unregistered", "session_revoked", "session_expired", "transport_404"])
    def test_that_ended_raises_and_sends_nothing_more(self, server: Server, store: TelegramStore, kind: str) -> None:
        put(store, 1)
        server.arm(kind, "messages.getHistory")
        with pytest.raises(AccessError, match="tgdav auth"):
            ids(store)
        calls = sum(server.statistics()["calls"].values())
        with pytest.raises(AccessError, match="tgdav auth"):
            put(store, 2)
        assert sum(server.statistics()["calls"].values()) == calls

    @pytest.mark.parametrize("status", ["frozen", "banned"])
    def test_of_a_lost_account_is_rejected(
        self, server: Server, account: TelegramAccount, store: TelegramStore, status: str
    ) -> None:
        put(store, 1)
        server.set_status(account.phone, status)
        with pytest.raises(StoreRejected, match="frozen, banned or deleted"):
            put(store, 2)

    def test_of_another_account_is_refused(self, server: Server, account: TelegramAccount) -> None:
        other = TelegramAccount(server)
        other.user_id = account.user_id
        store = other.open()
        with pytest.raises(AccessError, match="another Telegram account"):
            put(store, 1)
        store.close()
        assert server.statistics()["messages_sent"] == 0

    def test_has_one_connection(self, server: Server, store: TelegramStore) -> None:
        put(store, 1, DATA)
        assert server.online() == 1


class TestConnection:
    def test_that_cannot_be_made_is_unavailable_and_works_again(self, server: Server, store: TelegramStore) -> None:
        put(store, 1)
        server.stop_listening()
        with pytest.raises(StoreUnavailable):
            ids(store)
        server.listen_again()
        assert len(_eventually(store)) == 1

    def test_that_is_silent_is_replaced(self, server: Server, store: TelegramStore) -> None:
        put(store, 1)
        server.silence_connections()
        with pytest.raises(StoreUnavailable):
            ids(store)
        assert len(_eventually(store)) == 1

    def test_behind_a_silent_router_is_unavailable(
        self, server: Server, open_store: Callable[..., TelegramStore]
    ) -> None:
        server.accept_silently()
        store = open_store(connect_timeout=0.3, patience=0.3)
        with pytest.raises(StoreUnavailable):
            ids(store)
        server.accept_silently(False)
        assert _eventually(store) == []

    def test_refused_by_the_transport_backoffs(self, server: Server, store: TelegramStore) -> None:
        put(store, 1)
        server.arm("transport_429", "messages.getHistory")
        with pytest.raises(StoreUnavailable) as caught:
            ids(store)
        assert (caught.value.retry_after or 0) > 60
        connections = server.statistics()["connections"]
        with pytest.raises(StoreUnavailable):
            store.size(BlobId(1))
        assert server.statistics()["connections"] == connections
        assert store._session.backoff[0] > 60

    def test_that_cannot_be_closed_does_not_block_closing_the_store(
        self, store: TelegramStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(store, 1)
        (line,) = store._session._connections.values()
        hang_up = line.close

        async def fail() -> None:
            await hang_up()
            raise OSError

        monkeypatch.setattr(line, "close", fail)
        closing = threading.Thread(target=store.close, daemon=True)
        closing.start()
        closing.join(10.0)
        assert not closing.is_alive()

    def test_of_another_data_centre_may_end_while_the_store_closes(
        self, server: Server, store: TelegramStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.arm("other_dc", "messages.sendMedia")
        content(store, put(store, 1))
        session = store._session
        (_, home), (dc, other) = session._connections.items()
        hang_up = home.close

        async def meanwhile() -> None:
            await hang_up()
            del session._connections[dc]

        monkeypatch.setattr(home, "close", meanwhile)
        store.close()
        assert not other.is_alive


def _eventually(store: TelegramStore) -> list[int]:
    for _ in range(200):
        try:
            return ids(store)
        except StoreUnavailable:
            store._session.pause(0.05)
    raise AssertionError("did not come back")
