"""Locks by key."""

import threading

from tgdav.keyed_locks import KeyedLocks


def test_a_keyed_lock_keeps_one_key_apart_and_goes_away() -> None:
    locks, inside, most, guard = KeyedLocks(), [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(200):
            with locks.holding("key"):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                with guard:
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    with locks.holding("other"):
        for thread in threads:
            thread.join()
    assert most == [1]
    assert not locks._held
