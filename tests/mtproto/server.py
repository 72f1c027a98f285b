"""The listening side: two DCs, each with a main and a media-only port, over one folder of state."""

import asyncio
import contextlib
import functools
import json
from pathlib import Path

from tests.mtproto import methods  # noqa: F401  (importing registers the methods)
from tests.mtproto.connection import Connection
from tests.mtproto.faults import Faults
from tests.mtproto.rules import Rules
from tests.mtproto.statistics import Statistics
from tests.mtproto.wire.frames import FrameProtocol
from tests.mtproto.world import HOME_DC, OTHER_DC, World

HOST = "127.0.0.1"
_TRIES, _BETWEEN_TRIES = 100, 0.1
_ROUNDS = 5
"""Rounds of the loop in which a connection that was accepted may still begin after listening ended."""


class LoopServer:
    """The server inside a running event loop.

    Faults, rules and statistics stay over its restarts, all else comes back from the folder.
    """

    def __init__(self, folder: Path, faults: Faults, rules: Rules, port: int = 0) -> None:
        self.folder = folder
        self.faults = faults
        self.rules = rules
        self.statistics = Statistics()
        self.world = self._made_world()
        self._wanted = port
        self._listeners: list[asyncio.Server] = []
        self._frames: set[FrameProtocol] = set()
        self._came_back = False
        self.silent = False
        self._restarting: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    def _made_world(self) -> World:
        world = World(self.folder, self.faults, self.rules, self.statistics)
        world.restart = self.restart
        return world

    async def start(self) -> None:
        """Listens, unless it does; the ports of the first time are taken again later."""
        async with self._changing:
            if not self._listeners:
                await self._start()

    async def _start(self) -> None:
        self._came_back = bool(self.world.ports)
        ports = self.world.ports or self._ports_of_last_time()
        self.world.ports = {
            dc: (await self._listen(dc, False, main), await self._listen(dc, True, media))
            for dc, (main, media) in ports.items()
        }

        (self.folder / "ports.json").write_text(json.dumps(self.world.ports))

    def _ports_of_last_time(self) -> dict[int, tuple[int, int]]:
        """Clients remember the ports of all DCs, so a server on an old folder takes them again where it can."""
        file = self.folder / "ports.json"
        known = {int(dc): tuple(pair) for dc, pair in json.loads(file.read_text()).items()} if file.exists() else {}
        main, media = known.get(HOME_DC, (0, 0))
        return {HOME_DC: (self._wanted or main, media), OTHER_DC: known.get(OTHER_DC, (0, 0))}

    async def _listen(self, dc: int, media: bool, port: int) -> int:
        loop = asyncio.get_running_loop()
        make = functools.partial(FrameProtocol, functools.partial(self._accept, dc, media))
        tries = _TRIES if port and self._came_back else 1
        while tries:
            tries -= 1
            try:
                listener = await loop.create_server(make, HOST, port)
                break
            except OSError:
                if tries:  # some other program's connection has the port for a moment; the clients know no other
                    await asyncio.sleep(_BETWEEN_TRIES)
                elif self._wanted and (dc, media) == (HOME_DC, False):
                    raise
        else:
            listener = await loop.create_server(make, HOST, 0)
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    def _accept(self, dc: int, media: bool, frames: FrameProtocol) -> None:
        connection = Connection(self.world, frames, dc, media)
        connection.silent = self.silent
        closed = frames.closed
        self._frames.add(frames)

        def gone() -> None:
            self._frames.discard(frames)
            closed()

        frames.closed = gone
        assert connection.open

    def drop_connections(self) -> int:
        """Cuts every connection; how many there were."""
        frames = list(self._frames)
        for each in frames:
            each.abort()
        return len(frames)

    async def pause(self) -> None:
        """Stops listening and cuts every connection: the network is gone."""
        async with self._changing:
            await self._pause()

    async def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            for listening in listener.sockets:
                loop.remove_reader(listening.fileno())
        for _ in range(_ROUNDS):
            # What asyncio has accepted and not handed over yet would be left open by a listener that closes.
            await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        rounds = 0
        while self._frames or rounds < _ROUNDS:
            rounds += 1
            self.drop_connections()
            await asyncio.sleep(0)

    def restart(self, pause: float) -> None:
        """Goes away soon, for `pause` seconds, and comes back with what its folder holds."""
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.get_running_loop().create_task(self._restart(pause))

    async def ready(self) -> None:
        """Returns once no restart is under way."""
        while self._restarting is not None and not self._restarting.done():
            await asyncio.wait([self._restarting])

    async def _restart(self, pause: float) -> None:
        await self.pause()
        ports = self.world.ports
        shift, skew, flooded = self.world.shift, self.world.skew, self.world.flooded
        self.world.close()
        await asyncio.sleep(pause)
        self.world = self._made_world()
        self.world.ports, self.world.shift, self.world.skew, self.world.flooded = ports, shift, skew, flooded
        await self.start()

    async def stop(self) -> None:
        """Ends everything."""
        if self._restarting is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._restarting
        await self.pause()
        self.world.close()
