"""A real vault that the actions of a walk are done to: it is restarted, killed, joined elsewhere, and the power is cut."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path as Directory
from typing import Any

from tests.crash.crashing import _is_alone
from tests.history.model import Path
from tests.support.forgetful_disk import ForgetfulDisk
from tests.support.platform import ManualClock
from tests.support.volumes import PASSPHRASE, configuration, new_vault, open_volume, places
from tests.support.waiting import wait_for
from tgdav.check.structure import structural_problems
from tgdav.crypto.passphrase import Passphrase
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.errors import TgdavError
from tgdav.failpoints import installed
from tgdav.fs.api import Owner, RenameFlag
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.platform import Platform
from tgdav.volume.initialize import join_vault
from tgdav.volume.volume import Volume

START_NS = 1_800_000_000_000_000_000
SMALL = {"average_size": 65536, "chunk_size": 1048576}
OWNER = Owner(1000, 100)
Action = tuple[Any, ...]


class Subject:
    """A vault below ``directory``; with ``disk``, on a disk that forgets what was not synced when the power is cut.

    The clock stands still unless it is advanced.
    """

    def __init__(self, directory: Directory, max_versions: int, disk: ForgetfulDisk | None = None) -> None:
        self.directory, self.disk = directory, disk
        self.clock = ManualClock(START_NS)
        self.max_versions = max_versions
        self.home = 1
        self.collected = 0
        new_vault(disk.backing if disk else directory)
        if disk is not None:
            disk.start()
        self.open()

    # ---- life ----------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return "home" if self.home == 1 else f"home-{self.home}"

    @property
    def _sections(self) -> dict[str, dict[str, Any]]:
        return {"chunk": SMALL, "versioning": {"max_versions": self.max_versions}, "machine": {"name": f"m{self.home}"}}

    @property
    def _platform(self) -> Platform:
        return Platform(self.clock, SystemEntropy(), SystemDisk())

    def open(self) -> None:
        self.volume: Volume = open_volume(self.directory, platform=self._platform, home=self._name, **self._sections)

    def close(self) -> None:
        self.volume.close()

    def do(self, action: str, *arguments: Any) -> None:
        """Do an action; return when it survives what the walk does."""
        getattr(self, f"_{action}")(*arguments)

    def crash(self, actions: Sequence[Action], number: int) -> tuple[int, str]:
        """Do actions in a fork that is killed at its ``number``-th failpoint, or after the last action; go on with what is left.

        With a disk that forgets, the power is cut at that moment. Return how many actions were answered, and where it ended.
        """
        self.close()
        wait_for(_is_alone, what="the threads of the closed volume to be gone")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._be_the_child(actions, number, writer)
        os.close(writer)
        with open(reader, encoding="utf-8") as pipe:
            lines = self._follow(child, pipe)
        answered = [line for line in lines if line.startswith("answered")]
        failures = [line for line in lines if line.startswith("failed")]
        assert not failures, f"an action failed: {failures[0]}"
        self.open()
        return len(answered), lines[-1]

    def _follow(self, child: int, pipe: Any) -> list[str]:
        """Read what the fork says until it stops; end it."""
        lines = []
        for line in pipe:
            lines.append(line.rstrip("\n"))
            if lines[-1].startswith(("at ", "failed", "end")):
                break
        os.waitpid(child, os.WUNTRACED)
        if self.disk is not None:
            self.disk.power_cut()
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
        if self.disk is not None:
            self.disk.start()
        return lines

    def _be_the_child(self, actions: Sequence[Action], number: int, pipe: int) -> None:
        reached = 0

        def stop(name: str) -> None:
            nonlocal reached
            reached += 1
            if reached == number:
                os.write(pipe, f"at {name}\n".encode())
                os.kill(os.getpid(), signal.SIGSTOP)

        try:
            with installed(stop):
                self.open()
                for action in actions:
                    self.do(*action)
                    os.write(pipe, b"answered\n")
            os.write(pipe, b"end\n")
            os.kill(os.getpid(), signal.SIGSTOP)
        except BaseException as error:
            os.write(pipe, f"failed {' '.join(repr(error).split())}\n".encode())
        os._exit(1)

    # ---- files ---------------------------------------------------------------------------------------------------

    @property
    def _durable(self) -> bool:
        return self.disk is not None

    def _at(self, path: Path) -> Any:
        return self.volume.fs.resolve(path).inode

    def _place(self, path: Path) -> tuple[Any, bytes]:
        return self._at(path[:-1]), path[-1]

    def _create(self, path: Path) -> None:
        self.volume.fs.create(*self._place(path), Kind.FILE, 0o644, OWNER, durable=self._durable)

    def _mkdir(self, path: Path) -> None:
        self.volume.fs.create(*self._place(path), Kind.DIRECTORY, 0o755, OWNER, durable=self._durable)

    def _symlink(self, path: Path, target: bytes) -> None:
        fs = self.volume.fs
        fs.create(*self._place(path), Kind.SYMLINK, 0o777, OWNER, target=target, durable=self._durable)

    def _put(self, path: Path, data: bytes) -> None:
        with self.volume.fs.upload(*self._place(path), owner=OWNER) as upload:
            upload.write(data)
            upload.commit()

    def _write(self, path: Path, offset: int, data: bytes) -> None:
        self._through_handle(path, offset, data, truncate=False)

    def _rewrite(self, path: Path, data: bytes) -> None:
        self._through_handle(path, 0, data, truncate=True)

    def _through_handle(self, path: Path, offset: int, data: bytes, *, truncate: bool) -> None:
        handle = self.volume.fs.open(self._at(path), writable=True, truncate=truncate)
        handle.write(offset, data)
        if self._durable:
            handle.fsync()
        handle.close()

    def _link(self, source: Path, target: Path) -> None:
        self.volume.fs.link(self._at(source), *self._place(target), durable=self._durable)

    def _rename(self, source: Path, target: Path) -> None:
        self.volume.fs.rename(*self._place(source), *self._place(target), durable=self._durable)

    def _exchange(self, first: Path, second: Path) -> None:
        flags = RenameFlag.EXCHANGE
        self.volume.fs.rename(*self._place(first), *self._place(second), flags=flags, durable=self._durable)

    def _remove(self, path: Path) -> None:
        self.volume.fs.remove_tree(*self._place(path), durable=self._durable)

    def _chmod(self, path: Path, mode: int) -> None:
        self.volume.fs.set_attributes(self._at(path), AttributeChange(mode=mode), durable=self._durable)

    def _utime(self, path: Path, mtime: int) -> None:
        self.volume.fs.set_attributes(self._at(path), AttributeChange(mtime=mtime), durable=self._durable)

    def _xattr(self, path: Path, name: bytes, value: bytes | None) -> None:
        fs, inode = self.volume.fs, self._at(path)
        if value is not None:
            fs.set_xattr(inode, name, value, durable=self._durable)
        elif name in fs.list_xattrs(inode):
            fs.remove_xattr(inode, name, durable=self._durable)

    def _property(self, path: Path, name: bytes, value: bytes | None) -> None:
        self.volume.fs.set_properties(self._at(path), {name: value})

    # ---- history and upkeep --------------------------------------------------------------------------------------

    def _snapshot(self, name: str) -> None:
        self.volume.make_snapshot(name)

    def _unsnapshot(self, name: str) -> None:
        self.volume.snapshots.delete(name)

    def _restore(self, number: int) -> None:
        trash = self.volume.fs.trash
        wanted = trash.items()[number]
        path = trash.restore(wanted.entry.hex().encode())
        assert path == wanted.path, f"trash: restored to {path!r}, and the list said {wanted.path!r}"

    def _empty(self, before: int | None) -> None:
        self.volume.fs.trash.empty(before)

    def _upkeep(self) -> None:
        while self.volume.snapshots.upkeep():
            pass

    def _sync(self) -> None:
        self.volume.sync(wait=True)

    def _checkpoint(self) -> None:
        self.volume.sync(wait=True)
        self.volume.replicator.checkpoint()

    def _gc(self) -> None:
        found = self.volume.gc()
        self.collected += found["packs_deleted"]

    def _check(self, read_data: float | None = None, drill: bool = False) -> None:
        found = self.volume.check(read_data=read_data, drill=drill)
        drills = found.get("drills", ())
        for each in drills:
            assert each["ok"], f"recovery: a rebuild differs: {each}"
        assert found["ok"], f"check: {found['damage']}"

    def check_structure(self) -> None:
        """Check every invariant of the local database."""
        tagger = self.volume.log.keys.content_tag
        with self.volume.database.reading() as connection:
            problems = structural_problems(connection, tagger)
        assert not problems, f"invariants: {problems}"

    def _clock(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def _restart(self) -> None:
        self.close()
        self.open()

    def _policy(self, max_versions: int) -> None:
        self.close()
        self.max_versions = max_versions
        self.open()

    def _join(self) -> None:
        """Go on in a new home that has nothing but the store."""
        self.volume.sync(wait=True)
        self.close()
        self.home += 1
        config = configuration(self.directory, **self._sections)
        where = places(self.directory, self._name)
        found = join_vault(where, config, Passphrase(PASSPHRASE), platform=self._platform)
        assert not found.damage, f"join: {found.damage}"
        self.open()
        with suppress(TgdavError):
            self.volume.replicator.push()
