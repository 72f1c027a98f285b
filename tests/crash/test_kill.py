"""While fifty clients write, the server is killed; every answer it gave was true, and nothing half-done shows."""

import random
from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.machines import CHEAP
from tests.support.server import Home, wait_for

CLIENTS = 50


def kill_rounds(folder: Path, *, seed: int, rounds: int, clients: int = CLIENTS, home: Home | None = None) -> Fleet:
    """Kill the server ``rounds`` times under ``clients`` clients; assert after each that all is as promised."""
    home = home or Home(folder, config="version: 2\n" + CHEAP)
    home.run("init", "--backend", "directory", "--path", str(folder / "store"))
    choose, fleet = random.Random(seed), Fleet(seed, clients)
    server = home.server()
    with server:
        fleet.make_folders(server)
        for number in range(rounds):
            fleet.start(server)
            _write_for_a_while(fleet, clients, choose)
            server.kill()
            fleet.join()
            if number % 3 == 2:
                home.run("check", "--read-data")  # the one that opens the vault after the crash
            server.start()
            fleet.verify(server)
            home.run("check", "--read-data")
        server.terminate()
    fleet.counts["kills"] = rounds
    return fleet


def _write_for_a_while(fleet: Fleet, clients: int, choose: random.Random) -> None:
    """Return after a random number of responses; the other clients' requests are then in flight."""
    wanted = choose.randint(1, 8 * clients)
    wait_for(lambda: fleet.answered() >= wanted, 60, interval=0.001, what=f"{wanted} answers")


def _report(fleet: Fleet) -> None:
    print(f"\nkill: seed {fleet.seed}, {dict(sorted(fleet.counts.items()))}")


def test_kill_nine_under_fifty_clients(tmp_path: Path) -> None:
    fleet = kill_rounds(tmp_path, seed=random.randrange(1 << 32), rounds=8)
    _report(fleet)
    assert fleet.counts["PUT"] > 500
    assert fleet.counts["in flight"] > 100


@pytest.mark.torture
def test_a_hundred_kills(tmp_path: Path) -> None:
    fleet = kill_rounds(tmp_path, seed=random.randrange(1 << 32), rounds=100)
    _report(fleet)
    assert fleet.counts["in flight"] > 1000
