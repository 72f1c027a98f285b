"""The contract of ``BlobStore``, behaviour by behaviour, for every store and every benign wrapper."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tests.blobs.calls import BLOCK, content, ids, private_file, put
from tests.blobs.conftest import Place, name_of
from tgdav.blobs import BlobStore, BytesSource, FileSource
from tgdav.errors import DamageError, StoreRejected
from tgdav.ids import BlobId, BlobName


class TestAppend:
    def test_info_says_what_was_stored(self, store: BlobStore) -> None:
        info = put(store, 1, b"abc", "some_label-1")
        assert (info.name, info.size, info.label) == (name_of(1), 3, "some_label-1")

    def test_bytes_come_back(self, store: BlobStore) -> None:
        for size in (0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1):
            data = random.Random(size).randbytes(size)
            assert content(store, put(store, size, data)) == data, size

    def test_a_big_blob_comes_back(self, store: BlobStore) -> None:
        data = random.Random(20).randbytes(20 * BLOCK)
        assert content(store, put(store, 1, data)) == data

    def test_all_byte_values(self, store: BlobStore) -> None:
        assert content(store, put(store, 1, bytes(range(256)))) == bytes(range(256))

    def test_blobs_do_not_mix(self, store: BlobStore) -> None:
        infos = [put(store, number, b"%d" % number) for number in range(20)]
        assert [content(store, info) for info in infos] == [b"%d" % number for number in range(20)]

    def test_equal_bytes_under_two_names_are_two_blobs(self, store: BlobStore) -> None:
        assert put(store, 1, b"same").id != put(store, 2, b"same").id

    def test_a_file(self, store: BlobStore, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"from a file")
        assert content(store, store.append(name_of(1), FileSource(path), "f")) == b"from a file"

    def test_an_empty_file(self, store: BlobStore, tmp_path: Path) -> None:
        info = store.append(name_of(1), FileSource(private_file(tmp_path, b"")), "f")
        assert (info.size, content(store, info)) == (0, b"")

    def test_a_file_is_kept(self, store: BlobStore, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"from a file")
        store.append(name_of(1), FileSource(path), "f")
        assert path.read_bytes() == b"from a file"

    def test_a_file_may_be_deleted_afterwards(self, store: BlobStore, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"from a file")
        info = store.append(name_of(1), FileSource(path), "f")
        path.unlink()
        assert content(store, info) == b"from a file"

    def test_deleting_the_blob_leaves_the_file(self, store: BlobStore, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"from a file")
        store.delete([store.append(name_of(1), FileSource(path), "f").id])
        assert path.read_bytes() == b"from a file"

    def test_one_file_under_two_names(self, store: BlobStore, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"from a file")
        infos = [store.append(name_of(number), FileSource(path), "f") for number in (1, 2)]
        assert [content(store, info) for info in infos] == [b"from a file"] * 2

    def test_a_blob_larger_than_the_store_accepts(self, store: BlobStore) -> None:
        source = BytesSource(b"")
        source.size = store.traits.max_blob_bytes + 1
        with pytest.raises(StoreRejected):
            store.append(name_of(1), source, "x")
        assert ids(store) == []


class TestLabel:
    def test_is_kept(self, store: BlobStore) -> None:
        labels = ["", "-", "_", "--", "0", "A-Z_a-z", "tmp", "lock"]
        assert [put(store, number, label=label).label for number, label in enumerate(labels)] == labels
        assert [info.label for info in store.list()] == labels

    def test_longest(self, store: BlobStore) -> None:
        label = "x" * store.traits.max_label_characters
        put(store, 1, label=label)
        assert [info.label for info in store.list()] == [label]

    def test_200_characters_fit_every_store(self, store: BlobStore) -> None:
        assert put(store, 1, label="y" * 200).label == "y" * 200

    def test_too_long(self, store: BlobStore) -> None:
        with pytest.raises(StoreRejected):
            put(store, 1, label="x" * (store.traits.max_label_characters + 1))
        assert ids(store) == []

    def test_other_characters_are_refused(self, store: BlobStore) -> None:
        for label in ("a/b", "..", "a.tmp", "a\0b", "é", "a b", "a\n", "YQ==", "\ud800", "a\\b", "٣"):
            with pytest.raises(StoreRejected):
                put(store, 1, label=label)
        assert ids(store) == []

    def test_two_that_differ_in_case(self, store: BlobStore) -> None:
        put(store, 1, label="abc")
        put(store, 2, label="ABC")
        assert [info.label for info in store.list()] == ["abc", "ABC"]


class TestName:
    def test_others_than_16_bytes_are_refused(self, store: BlobStore) -> None:
        for name in (b"", b"x" * 15, b"x" * 17, "x" * 16, bytearray(16)):
            with pytest.raises(StoreRejected):
                store.append(name, BytesSource(b"data"), "x")  # type: ignore[arg-type]
        assert ids(store) == []

    def test_any_16_bytes(self, store: BlobStore) -> None:
        names = [bytes(16), b"\xff" * 16, b"../../etc/passwd", b"\n\0/.-_%*?\\:|<>\"'"]
        infos = [store.append(BlobName(name), BytesSource(name[:5]), "x") for name in names]
        assert [found.name for found in store.list()] == names
        assert [content(store, info) for info in infos] == [name[:5] for name in names]


class TestIdempotence:
    def test_the_second_append_returns_the_first(self, store: BlobStore) -> None:
        assert put(store, 1) == put(store, 1)

    def test_there_is_one_blob(self, store: BlobStore) -> None:
        info = put(store, 1)
        put(store, 1)
        assert ids(store) == [info.id]

    def test_other_bytes_do_not_replace(self, store: BlobStore) -> None:
        first = put(store, 1, b"first")
        assert put(store, 1, b"the second") == first
        assert content(store, first) == b"first"

    def test_another_label_does_not_replace(self, store: BlobStore) -> None:
        put(store, 1, label="first")
        assert put(store, 1, label="second").label == "first"

    def test_after_others(self, store: BlobStore) -> None:
        first = put(store, 1)
        put(store, 2)
        assert put(store, 1) == first

    def test_by_file_then_by_bytes(self, store: BlobStore, tmp_path: Path) -> None:
        first = store.append(name_of(1), FileSource(private_file(tmp_path, b"data")), "f")
        assert put(store, 1, b"data") == first

    def test_by_bytes_then_by_file(self, store: BlobStore, tmp_path: Path) -> None:
        first = put(store, 1, b"data")
        assert store.append(name_of(1), FileSource(private_file(tmp_path, b"data")), "f") == first

    def test_a_deleted_name_is_free(self, store: BlobStore) -> None:
        first = put(store, 1, b"first")
        store.delete([first.id])
        second = put(store, 1, b"second")
        assert second.id > first.id
        assert content(store, second) == b"second"

    def test_through_another_store_object(self, place: Place) -> None:
        assert put(place.open(), 1) == put(place.open(), 1)

    def test_one_name_from_eight_threads(self, store: BlobStore) -> None:
        with ThreadPoolExecutor(8) as threads:
            infos = [*threads.map(lambda _: put(store, 1), range(8))]
        assert {info.id for info in infos} == set(ids(store))
        assert len(ids(store)) == 1


class TestIds:
    def test_are_positive(self, store: BlobStore) -> None:
        assert put(store, 1).id > 0

    def test_grow(self, store: BlobStore) -> None:
        given = [put(store, number).id for number in range(12)]
        assert given == sorted(set(given))

    def test_grow_past_a_deleted_highest(self, store: BlobStore) -> None:
        highest = put(store, 1).id
        store.delete([highest])
        assert put(store, 2).id > highest

    def test_grow_past_deleted_ones_after_reopening(self, place: Place) -> None:
        store = place.open()
        given = [put(store, number).id for number in range(3)]
        store.delete([BlobId(number) for number in given])
        store.close()
        assert put(place.open(), 9).id > max(given)

    def test_do_not_change(self, place: Place) -> None:
        info = put(place.open(), 1)
        assert [*place.open().list()] == [info]


class TestReopening:
    def test_finds_everything_again(self, place: Place) -> None:
        store = place.open()
        infos = [put(store, number, b"%d" % number) for number in range(4)]
        store.close()
        again = place.open()
        assert [*again.list()] == infos
        assert [content(again, info) for info in infos] == [b"0", b"1", b"2", b"3"]

    def test_reads_without_a_listing_first(self, place: Place) -> None:
        info = put(place.open(), 1, b"abc")
        assert place.open().read(info.id, 1, 2) == b"bc"

    def test_continues_the_ids(self, place: Place) -> None:
        first = put(place.open(), 1)
        assert put(place.open(), 2).id > first.id


class Breaking(BytesSource):
    """A source that does something at an offset."""

    def __init__(self, data: bytes, at: int, act: Callable[[bytes], bytes]) -> None:
        super().__init__(data)
        self._at = at
        self._act = act

    def read(self, offset: int, length: int) -> bytes:
        data = super().read(offset, length)
        return self._act(data) if offset + length > self._at else data


def fail(_data: bytes) -> bytes:
    raise OSError(5, "the source broke")


class TestSource:
    def test_that_fails_midway_stores_nothing(self, store: BlobStore) -> None:
        for at in (0, BLOCK, 2 * BLOCK):
            with pytest.raises(OSError, match="the source broke"):
                store.append(name_of(1), Breaking(bytes(3 * BLOCK), at, fail), "x")
            assert ids(store) == [], at
            assert store.find(name_of(1)) is None, at

    def test_that_ends_early_is_damage(self, store: BlobStore) -> None:
        for at in (0, BLOCK, 2 * BLOCK):
            with pytest.raises(DamageError):
                store.append(name_of(1), Breaking(bytes(3 * BLOCK), at, lambda data: data[:-1]), "x")
            assert ids(store) == [], at

    def test_that_is_empty_too_early_is_damage(self, store: BlobStore) -> None:
        with pytest.raises(DamageError):
            store.append(name_of(1), Breaking(b"abc", 0, lambda _data: b""), "x")
        assert ids(store) == []

    def test_that_is_too_long_is_damage(self, store: BlobStore) -> None:
        source = BytesSource(b"abcdef")
        source.size = 3
        with pytest.raises(DamageError):
            store.append(name_of(1), source, "x")
        assert ids(store) == []

    def test_can_be_repaired_and_sent_again(self, store: BlobStore) -> None:
        with pytest.raises(DamageError):
            store.append(name_of(1), Breaking(b"abc", 0, lambda _data: b""), "x")
        assert content(store, put(store, 1, b"abc")) == b"abc"

    def test_file_of_another_size_is_damage(self, store: BlobStore, tmp_path: Path) -> None:
        for now in (b"", b"ab", b"abcd"):
            path = private_file(tmp_path, b"abc")
            source = FileSource(path)
            path.write_bytes(now)
            with pytest.raises(DamageError):
                store.append(name_of(1), source, "x")
            assert ids(store) == [], now

    def test_missing_file_is_damage(self, store: BlobStore, tmp_path: Path) -> None:
        path = private_file(tmp_path, b"abc")
        source = FileSource(path)
        path.unlink()
        with pytest.raises(DamageError):
            store.append(name_of(1), source, "x")
        assert ids(store) == []

    def test_is_not_read_when_the_call_is_refused(self, store: BlobStore) -> None:
        with pytest.raises(StoreRejected):
            store.append(name_of(1), Breaking(b"abc", 0, fail), "not a label")


class TestProgress:
    def test_ends_at_the_size_and_grows_within_an_attempt(self, store: BlobStore) -> None:
        for size in (0, 1, BLOCK, 3 * BLOCK + 1):
            reported: list[int] = []
            store.append(name_of(size), BytesSource(bytes(size)), "x", progress=reported.append)
            assert reported[-1] == size
            restarts = sum(later < earlier for earlier, later in pairwise(reported))
            assert restarts <= 3
            assert all(0 <= sent <= size for sent in reported)

    def test_of_a_file_ends_at_the_size(self, store: BlobStore, tmp_path: Path) -> None:
        reported: list[int] = []
        store.append(name_of(1), FileSource(private_file(tmp_path, bytes(5000))), "x", progress=reported.append)
        assert reported[-1] == 5000

    def test_of_an_existing_blob_ends_at_the_size(self, store: BlobStore) -> None:
        put(store, 1, bytes(5000))
        reported: list[int] = []
        store.append(name_of(1), BytesSource(bytes(5000)), "x", progress=reported.append)
        assert reported[-1] == 5000

    def test_comes_on_the_callers_thread(self, store: BlobStore) -> None:
        reported: list[int] = []
        source = BytesSource(bytes(BLOCK + 1))
        store.append(name_of(1), source, "x", progress=lambda _sent: reported.append(threading.get_ident()))
        assert set(reported) == {threading.get_ident()}

    def test_that_raises_cancels(self, store: BlobStore, tmp_path: Path) -> None:
        def cancel(_sent: int) -> None:
            raise KeyError("enough")

        for source in (BytesSource(bytes(2 * BLOCK)), FileSource(private_file(tmp_path, b"abc"))):
            with pytest.raises(KeyError, match="enough"):
                store.append(name_of(1), source, "x", progress=cancel)
        assert ids(store) == []


class TestClosed:
    def test_refuses_every_call(self, store: BlobStore) -> None:
        put(store, 1)
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: put(store, 2),
            lambda: store.read(BlobId(1), 0, 1),
            lambda: store.size(BlobId(1)),
            lambda: [*store.list()],
            lambda: store.find(name_of(1)),
            lambda: store.delete([BlobId(1)]),
        ]
        for call in calls:
            with pytest.raises(StoreRejected):
                call()

    def test_closes_again(self, store: BlobStore) -> None:
        store.close()
        store.close()

    def test_still_has_its_traits(self, store: BlobStore) -> None:
        traits = store.traits
        store.close()
        assert store.traits == traits

    def test_does_not_close_another_store_object(self, place: Place) -> None:
        one, other = place.open(), place.open()
        one.close()
        info = put(other, 1)
        assert ids(other) == [info.id]


class TestTraits:
    def test_make_sense(self, store: BlobStore) -> None:
        traits = store.traits
        assert 200 <= traits.max_label_characters <= 1024
        assert traits.max_blob_bytes >= 50 * BLOCK
        assert traits.read_alignment >= 1
        assert traits.backend
