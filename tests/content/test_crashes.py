"""The process crashes at each durable step; after the restart, acknowledged content is there and is uploaded."""

import pytest

from tests.content.world import CrashAt, SimulatedCrash, World, noise
from tgdav.failpoints import installed

WRITING = [
    "content.before-append",
    "content.after-append",
    "content.before-pack-sync",
    "content.after-pack-sync",
    "content.recorded",
    "writer.before-sync",
    "writer.after-sync",
    "writer.before-commit",
    "writer.after-commit",
    "writer.before-wal-sync",
    "writer.after-wal-sync",
    "disk.write",
    "disk.sync",
    "disk.sync-directory",
]
ROLLING = ["content.before-roll", "content.after-roll"]
UPLOADING = [
    "content.before-move",
    "content.after-move",
    "content.before-close",
    "content.after-index",
    "content.before-read-back",
    "content.before-closed",
    "content.after-closed",
    "content.before-sent",
    "content.before-send",
    "content.after-send",
    "content.after-stored",
    "content.after-leave",
    "writer.before-commit",
    "writer.after-commit",
    "writer.before-wal-sync",
    "disk.write",
    "disk.sync",
    "disk.unlink",
]


def settle(world: World) -> None:
    """Check that everything saved is there, before and after the upload, with nothing left in staging and no damage."""
    world.check_all()
    world.upload()
    world.check_all()
    assert world.files() == []
    assert world.content._context.quota.used == 0
    assert world.number("SELECT count(*) FROM damage") == 0
    names = [info.name for info in world.blobs.list()]
    assert len(names) == len(set(names)) == world.number("SELECT count(*) FROM blobs")


@pytest.mark.parametrize("point", WRITING)
@pytest.mark.parametrize("length", [1000, 300_000])
def test_a_crash_while_writing(world: World, point: str, length: int) -> None:
    world.save(noise(100_000, seed=1))
    world.save(noise(500, seed=2))
    handler = CrashAt(point)
    try:
        with installed(handler):
            world.commit(world.stage(noise(length, seed=3)))
    except SimulatedCrash:
        world.reopen()
    assert point in handler.seen or length == 1000 or point == "disk.sync-directory"
    settle(world)


@pytest.mark.parametrize("point", WRITING + ROLLING)
@pytest.mark.parametrize("nth", [1, 2, 5])
def test_a_crash_in_the_middle_of_a_long_stream(world: World, point: str, nth: int) -> None:
    world.save(noise(100_000, seed=1))
    data = noise(4_000_000, seed=3)
    try:
        with installed(CrashAt(point, nth)):
            world.commit(world.stage(data))
    except SimulatedCrash:
        world.reopen()
    settle(world)
    world.save(data)
    settle(world)


@pytest.mark.parametrize(
    ("point", "nth"),
    [(point, nth) for point in UPLOADING for nth in (1, 2) if nth == 1 or not point.endswith("-move")],
)
def test_a_crash_while_uploading(world: World, point: str, nth: int) -> None:
    for seed in range(3):
        world.save(noise(700_000, seed=seed))
        world.save(noise(20_000, seed=10 + seed))
    with world.crash(point, nth):
        world.content.flush(60.0)
    settle(world)


def test_a_crash_while_dropping_an_empty_pack(world: World) -> None:
    world.save(noise(100_000))
    world.database.writer.run(lambda transaction: transaction.execute("DELETE FROM chunks"))
    world.saved.clear()
    with world.crash("content.after-drop"):
        world.content.flush(60.0)
    settle(world)


def test_a_crash_while_removing_files_at_start(world: World) -> None:
    world.save(noise(100_000))
    for number in range(3):
        (world.staging / f"{number:032x}.pack").write_bytes(b"left behind")
    world.close()
    with installed(CrashAt("content.after-sweep")), pytest.raises(SimulatedCrash):
        world._open()
    world.database.close()
    world._open()
    settle(world)


def test_unreferenced_bytes_are_cut_at_start(world: World) -> None:
    world.save(noise(300_000, seed=1))
    (path,) = world.staging.iterdir()
    end = path.stat().st_size
    world.close()
    with open(path, "ab") as file:
        file.write(b"torn" * 1000)
    world._open()
    assert path.stat().st_size == end
    settle(world)


def test_foreign_files_in_the_directory_stay(world: World) -> None:
    other = world.staging / "segment-1.part"
    other.write_bytes(b"not ours")
    (world.staging / ("ab" * 16 + ".pack")).write_bytes(b"ours, unknown")
    world.reopen()
    assert world.files() == ["segment-1.part"]
