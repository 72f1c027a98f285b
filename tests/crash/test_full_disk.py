"""A full or failing local disk: writes are refused with a clear message, nothing acknowledged is lost, and writing resumes."""

import errno
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.altered import program
from tests.crash.fleet import Held, listing, observe
from tests.crash.machines import CHEAP, CONFIG, Machine, clean, content, put, read
from tests.support.forgetful_disk import ForgetfulDisk, usable
from tests.support.platform import ManualClock
from tests.support.server import Home, Server, wait_for
from tgdav.disk import SystemDisk
from tgdav.errors import NoSpace, NotFound
from tgdav.platform import Platform

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ForgetfulDisk]:
    Home(tmp_path / "backing", config="version: 2\n" + CHEAP)  # the user's own file: durable from the start
    with ForgetfulDisk(tmp_path / "backing", tmp_path / "disk", 1) as mounted:
        yield mounted


@pytest.fixture
def home(disk: ForgetfulDisk, tmp_path: Path) -> Home:
    """A home on the disk whose store is elsewhere."""
    made = Home(disk.path)
    made.run("init", "--backend", "directory", "--path", str(tmp_path / "store"))
    return made


class Writer:
    """Puts files into the root and remembers what was acknowledged."""

    def __init__(self, server: Server, seed: int) -> None:
        self.client, self.acknowledged = server.client(), Held()
        self._choose, self._number = random.Random(seed), 0

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def put(self, size: int, name: str = "") -> int:
        """Put a file of ``size`` bytes, a new one if no name is given; return the status."""
        self._number += 1
        name, body = name or f"file-{self._number}", self._choose.randbytes(size)
        status = self.client.request("PUT", "/" + name, body=body).status
        if status in (201, 204):
            self.acknowledged[name] = (size, hashlib.sha256(body).hexdigest())
        return status

    def verify(self, server: Server | None = None, *, doubtful: str = "", folders: int = 0) -> None:
        """Assert that ``server``, a new one, shows exactly the acknowledged files; those in ``doubtful`` are optional."""
        if server is not None:
            self.client.close()
            self.client = server.client()
        seen = observe(self.client, "")
        seen.pop(doubtful, None)
        assert seen == self.acknowledged
        assert list(listing(self.client, "/").values()).count(None) == folders


def test_files_and_folders_on_a_full_disk(disk: ForgetfulDisk, home: Home) -> None:
    home.program = tuple(program("impatient"))
    with home.server() as server, Writer(server, 1) as writer:
        for size in (0, 20_000, 200_000):
            assert writer.put(size, f"old-{size}") == 201
        disk.limit(60 * MIB)
        wait_for(lambda: writer.put(20_000, "old-20000") == 507, what="the free space to be looked at again")
        for size in (20_000, 200_000, 3 * MIB):
            assert writer.put(size, "old-20000") == 507
            assert writer.put(size) == 507
        writer.verify()
        disk.limit(2 * MIB)
        reserve = home.path / "state" / "reserve"
        wait_for(lambda: not reserve.exists(), what="the reserve to be given up")
        disk.limit(400_000)
        statuses = [writer.client.request("MKCOL", f"/folder-{number}").status for number in range(200)]
        assert set(statuses) == {201, 507}
        writer.verify(folders=statuses.count(201))
        disk.limit(200 * MIB)
        assert writer.put(200_000, "old-20000") == 204
        assert writer.put(3 * MIB) == 201
        writer.verify(folders=statuses.count(201))
        server.kill()
        server.start()
        writer.verify(server, folders=statuses.count(201))
        home.run("check", "--read-data")
    print(f"\nfull disk: {statuses.count(201)} folders before the first 507, {len(writer.acknowledged)} files there")


def test_deleting_works_on_a_full_disk(disk: ForgetfulDisk, home: Home) -> None:
    with home.server() as server, Writer(server, 2) as writer:
        for _ in range(5):
            writer.put(30_000)
        disk.limit(2 * MIB)
        for name in list(writer.acknowledged)[:4]:
            assert writer.client.request("DELETE", "/" + name).status == 204
            del writer.acknowledged[name]
        writer.verify()


class HurriedClock(ManualClock):
    """A clock on which a second passes whenever it is read: nobody waits for long."""

    def monotonic(self) -> float:
        self.advance(1.0)
        return super().monotonic()


def test_a_large_file_waits_for_space_and_is_refused_then(disk: ForgetfulDisk, tmp_path: Path) -> None:
    machine = Machine(disk.path, "machine", config=CONFIG.replace("../store", str(tmp_path / "store")))
    machine.platform = lambda: Platform(HurriedClock(), Machine.platform(machine).entropy, SystemDisk())  # type: ignore[method-assign]
    machine.create()
    with machine.opened() as volume:
        put(volume, "old", content(1, 300_000))
        put(volume, "other", b"")
        disk.limit(60 * MIB)
        for name in ("old", "new"):
            with pytest.raises(NoSpace):
                put(volume, name, content(2, 300_000))
        assert read(volume, "old") == content(1, 300_000)
        with pytest.raises(NotFound):
            read(volume, "new")
        volume.fs.remove_tree(volume.fs.root, b"other", durable=True)  # changes of names have the reserve
        disk.limit(200 * MIB)
        put(volume, "old", content(2, 300_000))
        volume.sync(wait=True)
        assert read(volume, "old") == content(2, 300_000)
        clean(volume)


def test_a_failed_sync_of_staging_is_never_acknowledged(disk: ForgetfulDisk, home: Home) -> None:
    with home.server() as server, Writer(server, 3) as writer:
        assert writer.put(200_000, "old") == 201
        disk.fail(errno.EIO, ops="fsync", suffix=".pack", times=None)
        assert writer.put(200_000, "old") == 500
        assert writer.put(300_000, "new") == 500
        assert writer.put(1000, "small") == 201
        writer.verify()
        disk.heal()
        assert writer.put(250_000, "old") == 204
        writer.verify()
        report = disk.power_cut()
        server.kill()
        disk.start()
        server.start()
        writer.verify(server)
        home.run("check", "--read-data")
    print(f"\nfailed sync of staging: {report}")


def test_after_a_failed_sync_of_the_log_nothing_is_acknowledged(disk: ForgetfulDisk, home: Home) -> None:
    with home.server() as server, Writer(server, 4) as writer:
        assert writer.put(200_000, "old") == 201
        disk.fail(errno.EIO, ops="fsync", suffix="-wal")
        assert writer.put(1000, "doubtful") == 500
        assert [writer.put(1000) for _ in range(3)] == [500] * 3
        assert writer.client.request("GET", "/old").status == 200
        server.kill()
        server.start()
        writer.verify(server, doubtful="doubtful")
        assert writer.put(1000, "after") == 201
        home.run("check", "--read-data")


SOME = [*range(1, 5), *(pytest.param(number, marks=pytest.mark.torture) for number in range(5, 60))]


@pytest.mark.parametrize("number", SOME)
def test_one_failing_call_anywhere(disk: ForgetfulDisk, home: Home, number: int) -> None:
    """Any write, sync or change of names in the state fails once: what was acknowledged is there all the same."""
    choose = random.Random(number)
    with home.server() as server, Writer(server, number) as writer:
        for _ in range(3):
            assert writer.put(choose.choice((500, 150_000))) == 201
        code = choose.choice((errno.EIO, errno.ENOSPC))
        disk.fail(code, after=choose.randint(1, 6), ops=choose.choice(("write", "fsync", "create", "fsync-folder")))
        names = [f"later-{attempt}" for attempt in range(8)]
        statuses = [writer.put(choose.choice((500, 150_000)), name) for name in names]
        disk.heal()
        server.kill()
        server.start()
        with server.client() as client:
            seen = observe(client, "")
        unsure = [name for name, status in zip(names, statuses, strict=True) if status == 500]
        assert {name: each for name, each in seen.items() if name not in unsure} == writer.acknowledged
        home.run("check", "--read-data")
