"""Many writers concurrently with the uploader: nothing is lost, and nothing is left over."""

import threading

from tests.content.world import World, noise
from tests.support.waiting import wait_for
from tgdav.content.format.manifest import Manifest


def test_writers_of_equal_and_different_content_beside_uploads(world: World) -> None:
    world.content.start()
    contents = [noise(length, seed=length) for length in (0, 500, 20_000, 40_000, 300_000, 1_500_000)]
    done: list[tuple[bytes, Manifest]] = []
    errors: list[BaseException] = []

    def write(turn: int) -> None:
        try:
            for round_ in range(4):
                for data in contents[turn % 3 :: 2]:
                    own = data + bytes([turn]) * (round_ % 2)
                    done.append((own, world.commit(world.stage(own, step=70_000))))
                    if round_ == turn % 4:
                        stream = world.content.open_stream()
                        stream.write(noise(400_000, seed=turn))
                        stream.abort()
                world.clock.move(2)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(done) == 64
    assert world.content.flush(3600.0)
    for data, manifest in done:
        assert world.load(manifest) == data
    wait_for(lambda: world.files() == [] and world.content._context.quota.used == 0, what="the last files to go")
    assert world.content._context.backlog.bytes == 0
    assert world.content._context.pins._pinned == {}
    assert world.number("SELECT count(*) FROM damage") == 0
