"""Random work, a crash at a random step, a restart: exactly the acknowledged content is there."""

import random
import shutil
from pathlib import Path

import pytest

from tests.content.world import SimulatedCrash, World, noise
from tgdav.failpoints import installed

CONTENTS = [noise(length, seed=length) for length in (10, 3000, 30_000, 50_000, 250_000, 1_300_000)]
SEEDS = 60


class CrashAfter:
    """Crashes at the n-th failpoint of any name."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, _name: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise SimulatedCrash


def act(world: World, choice: random.Random) -> None:
    data = choice.choice(CONTENTS) + bytes([choice.randrange(20)])
    match choice.randrange(8):
        case 0:
            world.content.uploader.step(flush=choice.random() < 0.5)
        case 1:
            world.content.uploader.send_waiting()
        case 2:
            stream = world.content.open_stream()
            stream.write(data)
            stream.abort()
        case 3:
            world.stage(data).release()
        case 4:
            world.clock.move(choice.randrange(10))
            world.save(data, local=choice.random() < 0.3)
        case 5:
            one, two = world.stage(data), world.stage(data[:-1])
            world.saved[data[:-1]] = world.commit(two)
            world.saved[data] = world.commit(one)
        case _:
            world.save(data)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_acknowledged_is_lost(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    world = World(tmp_path)
    for _ in range(4):
        try:
            with installed(CrashAfter(choice.randrange(1, 120))):
                for _ in range(choice.randrange(1, 8)):
                    act(world, choice)
        except SimulatedCrash:
            world.reopen()
        world.check_all()
    world.upload()
    world.check_all()
    assert world.files() == []
    assert world.content._context.quota.used == world.content._context.backlog.bytes == 0
    assert world.number("SELECT count(*) FROM damage") == 0
    world.close()
    shutil.rmtree(tmp_path)
