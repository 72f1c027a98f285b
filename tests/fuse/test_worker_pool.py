"""Writes of one file: in order, by one worker while they keep coming, and never starving exclusive access."""

import threading
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tgdav_fuse.worker_pool import WorkerPool, WriteQueue

pytestmark = pytest.mark.mount_free


def run(scene: Callable[[WriteQueue], Awaitable[None]]) -> None:
    pool = WorkerPool()

    async def main() -> None:
        with trio.fail_after(60):
            await scene(WriteQueue(pool))

    trio.run(main)
    pool.stop()


class Held:
    """Work that waits in its thread until ``go`` is set."""

    def __init__(self) -> None:
        self.begun, self.go, self.thread = threading.Event(), threading.Event(), 0

    def __call__(self) -> int:
        self.thread = threading.get_ident()
        self.begun.set()
        assert self.go.wait(60)
        return 1

    async def has_begun(self) -> None:
        while not self.begun.is_set():
            await trio.lowlevel.checkpoint()


def test_they_run_in_order_and_return_one_by_one() -> None:
    done: list[int] = []
    threads: set[int] = set()
    first, last = Held(), Held()

    async def scene(queue: WriteQueue) -> None:
        async def write(number: int) -> None:
            def work() -> int:
                threads.add(threading.get_ident())
                done.append(number)
                return number

            assert await queue.write(work) == number

        async with trio.open_nursery() as whole:
            whole.start_soon(queue.write, first)
            await first.has_begun()
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(write, number)
                    await trio.testing.wait_all_tasks_blocked()
                whole.start_soon(queue.write, last)
                await trio.testing.wait_all_tasks_blocked()
                assert queue.is_busy
                first.go.set()
            # All 50 have returned while the worker still runs the next one.
            assert queue.is_busy
            last.go.set()

    run(scene)
    assert done == list(range(50))
    assert threads == {first.thread} == {last.thread}


def test_writes_of_one_turn_of_the_loop_run_together() -> None:
    held = Held()

    async def scene(queue: WriteQueue) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.write, held)
            for number in range(5):
                nursery.start_soon(queue.write, lambda number=number: number)
            await held.has_begun()
            await trio.testing.wait_all_tasks_blocked()
            assert queue.exclusive.statistics().tasks_waiting == 0
            held.go.set()

    run(scene)


def test_an_error_is_raised_by_its_own_write_only() -> None:
    held = Held()

    def fail() -> int:
        raise ValueError("this one")

    async def scene(queue: WriteQueue) -> None:
        async def expect() -> None:
            with pytest.raises(ValueError, match="this one"):
                await queue.write(fail)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.write, held)
            await held.has_begun()
            nursery.start_soon(expect)
            await trio.testing.wait_all_tasks_blocked()
            held.go.set()
        assert await queue.write(lambda: 7) == 7

    run(scene)


def test_exclusive_access_is_not_starved() -> None:
    order: list[str] = []
    held = Held()

    async def scene(queue: WriteQueue) -> None:
        async def alone() -> None:
            async with queue.exclusive:
                order.append("alone")
                await trio.testing.wait_all_tasks_blocked()
                order.append("still alone")

        def late() -> int:
            order.append("written")
            return 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.write, held)
            await held.has_begun()
            nursery.start_soon(alone)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(queue.write, late)
            await trio.testing.wait_all_tasks_blocked()
            held.go.set()
        while queue.is_busy:
            await trio.lowlevel.checkpoint()

    run(scene)
    assert order == ["alone", "still alone", "written"]
