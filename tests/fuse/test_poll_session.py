"""How the mount waits for requests: by poll while it can, without starving other tasks."""

import os
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from tgdav_fuse.poll_session import BargingLock, _LowLevel

pytestmark = pytest.mark.mount_free


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A descriptor to wait for, and one that makes it readable."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_a_request_that_is_there_takes_no_turn_of_the_loop(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    with pytest.raises(StopIteration):  # it returns without yielding to the loop
        _LowLevel(lambda: True).wait_readable(pipe[0]).send(None)


@pytest.mark.parametrize("is_idle", [True, False])
def test_other_tasks_run_while_no_request_comes(pipe: tuple[int, int], is_idle: bool) -> None:
    """Here a task of the same loop makes the descriptor readable."""
    low = _LowLevel(lambda: is_idle)
    order: list[str] = []

    async def wait() -> None:
        await low.wait_readable(pipe[0])
        order.append("readable")

    async def work() -> None:
        for number in range(3):
            order.append(f"work {number}")
            await trio.lowlevel.checkpoint()
        os.write(pipe[1], b"x")

    async def both() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                nursery.start_soon(work)

    trio.run(both)
    assert order == ["work 0", "work 1", "work 2", "readable"]


def test_while_a_request_is_in_progress_the_loop_gets_a_turn(pipe: tuple[int, int]) -> None:
    """Even if the descriptor is readable: results of workers must be handled too."""
    os.write(pipe[1], b"x")
    seen: list[str] = []

    async def wait() -> None:
        await _LowLevel(lambda: False).wait_readable(pipe[0])
        seen.append("readable")

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(seen_other)

    async def seen_other() -> None:
        seen.append("other")

    trio.run(both)
    assert sorted(seen) == ["other", "readable"]
    assert seen[-1] == "readable"


def test_the_lock_is_exclusive_and_every_waiter_gets_it() -> None:
    turn, inside, most = BargingLock(), 0, 0
    taken = [0] * 5

    async def work(number: int) -> None:
        nonlocal inside, most
        for _ in range(20):
            async with turn:
                inside += 1
                most = max(most, inside)
                taken[number] += 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            await trio.lowlevel.checkpoint()

    async def all_of_them() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(work, number)

    trio.run(all_of_them)
    assert most == 1
    assert taken == [20] * 5


def test_the_lock_is_taken_again_without_a_switch_of_tasks() -> None:
    """Even though another task waits for it."""
    turn = BargingLock()
    order: list[str] = []

    async def other() -> None:
        async with turn:
            order.append("other")

    async def owner() -> None:
        async with trio.open_nursery() as nursery:
            async with turn:
                nursery.start_soon(other)
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            for _ in range(3):
                async with turn:
                    order.append("owner")

    trio.run(owner)
    assert order == ["owner"] * 3 + ["other"]


def test_a_cancelled_waiter_blocks_nobody() -> None:
    turn = BargingLock()
    reached: list[str] = []

    async def wait(name: str) -> None:
        async with turn:
            reached.append(name)

    async def run() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery, turn:
                impatient = trio.CancelScope()

                async def give_up() -> None:
                    with impatient:
                        await wait("impatient")

                nursery.start_soon(give_up)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(wait, "patient")
                await trio.testing.wait_all_tasks_blocked()
                impatient.cancel()
                await trio.testing.wait_all_tasks_blocked()

    trio.run(run)
    assert reached == ["patient"]
