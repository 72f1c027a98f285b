"""Damaged, cut, grown, swapped, replayed, missing: each is found and named, and never shown as somebody's data."""

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.crash.crashing import CRASHED
from tests.crash.damaging import KINDS, any_seed, bench, files, flip_bits, forget, harm_blobs, name_of, replaced
from tests.crash.machines import CHEAP, MINUTES, Machine, clean, content, path_of, put, read, read_inode
from tests.support.damage import flip_bit, preserved, random_damage
from tests.support.raw_client import ConnectionCut, RawClient
from tests.support.server import Home
from tgdav.errors import DamageError, LocalFailure, StoreError, TgdavError


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_flipped_bits_in_every_kind_of_blob(quick_path: Path, kind: str) -> None:
    seed = any_seed()
    with bench(quick_path) as each:
        flip_bits(each, kind, seed=seed, count=500)
        print(f"\ndamage: {kind}: seed {seed}, {dict(each.counts)}")
        assert kind != "pack" or each.counts["reads refused"] > 100


def test_hundreds_of_other_damages(quick_path: Path) -> None:
    seed = any_seed()
    with bench(quick_path) as each:
        harm_blobs(each, seed=seed, count=400)
        print(f"\ndamage: seed {seed}, {dict(each.counts)}")
        assert each.counts["reads refused"] > 50


@pytest.mark.torture
def test_damages_for_a_long_time(quick_path: Path) -> None:
    end = time.monotonic() + MINUTES * 60 / 6
    with bench(quick_path) as each:
        while time.monotonic() < end:
            seed = any_seed()
            for kind in KINDS:
                flip_bits(each, kind, seed=seed, count=500)
            harm_blobs(each, seed=seed, count=1000)
            print(f"\ndamage: seed {seed}, {dict(each.counts)}")


def test_a_store_rolled_back_is_damage_until_it_is_whole(quick_path: Path) -> None:
    with bench(quick_path) as each:
        shutil.copytree(each.machine.store, quick_path / "older")
        put(each.volume, "later", content(9, 200_000))
        each.volume.sync(wait=True)
        new = [path for path in each.machine.blobs() if not (quick_path / "older" / path.name).exists()]
        with replaced(each.machine.store, quick_path / "older"):
            found = each.volume.check()
            assert {name_of(path) for path in new} == {one["blob"] for one in found["damage"]}
            forget(each.volume)
            with pytest.raises((DamageError, StoreError)):
                read(each.volume, "later")
            assert read(each.volume, "second") == each.right[b"second"]
        clean(each.volume)
        assert read(each.volume, "later") == content(9, 200_000)


def test_a_blob_under_anothers_name_or_number_is_not_it(quick_path: Path) -> None:
    with bench(quick_path) as each:
        first, second = each.kinds["pack"][:2]
        segment = each.kinds["segment"][0]
        for one, other in ((first, second), (first, segment), (segment, each.kinds["header"][0])):
            with preserved(one, other):
                one.write_bytes(other.read_bytes())
                each.examine(f"{other.name} in the place of {one.name}", {one})
            moved = one.with_name(f"{9_000_000:016d}" + one.name[16:])
            one.rename(moved)
            found = each.volume.check(read_data=100.0)
            assert name_of(one) in {each["blob"] for each in found["damage"]}
            moved.rename(one)
        clean(each.volume)


def test_commands_and_clients_are_told(tmp_path: Path) -> None:
    home = Home(tmp_path, config="version: 2\n" + CHEAP)
    home.run("init", "--backend", "directory", "--path", str(tmp_path / "store"))
    with home.server() as server, server.client() as client:
        for name in ("one", "two"):
            assert client.request("PUT", f"/{name}", body=content(ord(name[0]), 2_000_000)).status == 201
            home.run("sync", "--wait")
        home.run("cache", "--clear")
        pack = max((tmp_path / "store").iterdir(), key=lambda path: (path.stat().st_size, path.name))
        bad = "two"
        with preserved(pack):
            for offset in range(0, pack.stat().st_size, 50_000):
                flip_bit(pack, offset * 8 + 3)
            told = home.run("--json", "check", "--read-data", check=False)
            assert told.code == 4
            (damage,) = told.json()["damage"]
            assert (damage["blob"], damage["kind"], damage["paths"]) == (name_of(pack), "pack", [f"/{bad}"])
            server.kill()
            server.start()
            client.close()
            client = server.client()
            assert _refused(client, f"/{bad}", content(ord(bad[0]), 2_000_000))
            assert client.request("GET", "/one").body == content(ord("o"), 2_000_000)
        assert client.request("GET", f"/{bad}").body == content(ord(bad[0]), 2_000_000)
        assert home.run("--json", "check", "--read-data").json()["ok"]
        client.close()


def _refused(client: RawClient, path: str, right: bytes) -> bool:
    """Whether a GET is answered 5xx, or cut off after bytes that are right."""
    try:
        return 500 <= client.request("GET", path).status < 600
    except ConnectionCut as error:
        return right.startswith(error.partial)


# ---- the local state -------------------------------------------------------------------------------------------------


def _state_of(tmp_path: Path) -> Machine:
    """A machine with staged packs, rows and a file in the overlay, that was killed."""
    machine = Machine(tmp_path / "base", seed=3, life="base")
    machine.create()
    with machine.opened() as volume:
        put(volume, "stored", content(1, 150_000))
        volume.sync(wait=True)
        put(volume, "staged", content(2, 250_000))
        put(volume, "row", content(3, 5000))
        put(volume, "open", content(4, 100_000))

    killed = multiprocessing.get_context("spawn").Process(target=_write_and_die, args=(machine.folder,))
    killed.start()
    killed.join()
    assert killed.exitcode == CRASHED
    return machine


def _write_and_die(folder: Path) -> None:
    """Runs in a new interpreter: the test process may have threads, so it must not fork."""
    fs = Machine(folder, seed=3, life="write").open().fs
    handle = fs.open(fs.resolve(path_of("open")).inode, writable=True)
    handle.write(500, content(5, 60_000))
    handle.fsync()
    os._exit(CRASHED)


RIGHT = {b"stored": content(1, 150_000), b"staged": content(2, 250_000), b"row": content(3, 5000)}
CLOSED = content(4, 100_000)
SYNCED = CLOSED[:500] + content(5, 60_000) + CLOSED[60_500:]


@pytest.mark.parametrize("what", ["staging", "overlay", "database", "vault", "header"])
def test_local_damage_never_shows_as_data(quick_path: Path, what: str) -> None:
    machine, seed = _state_of(quick_path), any_seed()
    state = machine.places.state
    places = {
        "staging": state / "staging", "overlay": state / "overlay", "vault": state,
        "header": state, "database": state,
    }  # fmt: skip
    chosen = [path for path in places[what].rglob("*") if path.is_file() and _is(what, path)]
    assert chosen, f"there is no {what} to damage"
    counts = {"refused": 0, "right": 0, "older": 0, "not opened": 0}
    for harm in random_damage(chosen, seed, 40, ("flip", "zero", "truncate")):
        folder = quick_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        with preserved(*harm.paths):
            harm.do()
            shutil.copytree(machine.folder, folder)
        _look(Machine(folder, seed=3, life="look"), f"seed {seed}: {what}: {harm}", counts)
    print(f"\nlocal damage: {what}, seed {seed}, {counts}")
    if what in ("vault", "header"):
        assert counts["not opened"] == 40


def _is(what: str, path: Path) -> bool:
    return {"vault": path.name == "vault", "header": path.name == "header", "database": path.suffix == ".db"}.get(
        what, os.path.getsize(path) > 0
    )


def _look(machine: Machine, harm: str, counts: dict[str, int]) -> None:
    try:
        volume = machine.open()
    except (DamageError, TgdavError):
        counts["not opened"] += 1
        return
    try:
        for path, inode, size in files(volume):
            try:
                data = read_inode(volume, inode, size)
            except (DamageError, LocalFailure):
                counts["refused"] += 1
            else:
                # A record that fails is where the overlay of a crashed process ends: the file is as it was closed last.
                right = (SYNCED, CLOSED) if path == b"open" else (RIGHT[path],)
                assert data in right, f"{harm}: wrong bytes of {path!r}"
                counts["right" if data == right[0] else "older"] += 1
    except DamageError:
        counts["refused"] += 1
    finally:
        _close(volume)


def _close(volume: object) -> None:
    """Close as well as a damaged state can be closed."""
    try:
        volume.close()  # type: ignore[attr-defined]
    except TgdavError:
        volume.database.close()  # type: ignore[attr-defined]


def test_a_staged_pack_that_is_damaged_before_it_is_sent_is_no_silent_loss(quick_path: Path) -> None:
    choose = random.Random(any_seed())
    base = _state_of(quick_path)
    for number in range(10):
        folder = quick_path / f"run-{number}"
        shutil.copytree(base.folder, folder)
        machine = Machine(folder, seed=3, life="look")
        pack = next((machine.places.state / "staging").glob("*.pack"))
        flip_bit(pack, choose.randrange(pack.stat().st_size * 8))
        with machine.opened() as volume:
            volume._synchronizer.run(wait=False)  # without flushing the open file, which needs the damaged chunk
            forget(volume)
            try:
                intact = read(volume, "staged") == content(2, 250_000)
            except DamageError:
                assert not volume.check()["ok"], "a file is lost, and check says nothing"
            else:
                assert intact
