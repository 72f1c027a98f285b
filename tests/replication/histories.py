"""Random histories of a small tree, from what Hypothesis draws."""

from collections.abc import Callable

from hypothesis import strategies as st

from tests.support.vaults import content, folder_of, make_folder, put
from tgdav.errors import FileSystemError
from tgdav.fs.api import Owner
from tgdav.metadata.types import AttributeChange, Kind
from tgdav.volume.volume import Volume

FOLDERS = ("a", "b", "a/c", "b/d")
NAMES = ("one", "two", "three", "caf\u00e9", "x.txt")
"""No junk: it moves the times of its folder, which is in no log."""
SIZES = (0, 10, 5000, 40_000)

paths = st.builds(lambda folder, name: f"{folder}/{name}", st.sampled_from(FOLDERS), st.sampled_from(NAMES))
steps = st.one_of(
    st.tuples(st.just("put"), paths, st.integers(0, 5), st.sampled_from(SIZES)),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("rename"), st.sampled_from(FOLDERS), st.sampled_from(FOLDERS)),
    st.tuples(st.just("remove"), st.one_of(paths, st.sampled_from(FOLDERS))),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("folder"), st.sampled_from(FOLDERS)),
    st.tuples(st.just("symlink"), paths, st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target)),
    st.tuples(st.just("attributes"), paths, st.integers(0, 0o7777), st.integers(0, 1 << 60)),
    st.tuples(st.just("property"), paths, st.sampled_from((b"p", b"q")), st.one_of(st.none(), st.binary(max_size=9))),
    st.tuples(st.just("burst"), st.integers(1, 30)),
    st.tuples(st.just("time"), st.integers(1, 20)),
    st.tuples(st.just("sync")),
    st.tuples(st.just("checkpoint")),
)


def furnish(volume: Volume, files: int = 60) -> None:
    """Make the folders and enough files that a change is small beside them."""
    for folder in FOLDERS:
        make_folder(volume, folder)
    for number in range(files):
        put(volume, f"b/d/file-{number:03}", content(number, number % 5 * 50))


def _put(volume: Volume, path: str, seed: int, size: int) -> None:
    put(volume, path, content(seed, size))


def _rename(volume: Volume, source: str, target: str) -> None:
    volume.fs.rename(*folder_of(volume, source), *folder_of(volume, target), replace_tree=True)


def _remove(volume: Volume, path: str) -> None:
    volume.fs.remove_tree(*folder_of(volume, path))


def _link(volume: Volume, source: str, target: str) -> None:
    volume.fs.link(volume.fs.resolve(source.encode().split(b"/")).inode, *folder_of(volume, target))


def _symlink(volume: Volume, path: str, target: bytes) -> None:
    volume.fs.create(*folder_of(volume, path), Kind.SYMLINK, 0o777, Owner(), target=target)


def _attributes(volume: Volume, path: str, mode: int, mtime: int) -> None:
    inode = volume.fs.resolve(path.encode().split(b"/")).inode
    volume.fs.set_attributes(inode, AttributeChange(mode=mode, mtime=mtime))


def _property(volume: Volume, path: str, name: bytes, value: bytes | None) -> None:
    volume.fs.set_properties(volume.fs.resolve(path.encode().split(b"/")).inode, {name: value})


def _burst(volume: Volume, count: int) -> None:
    for number in range(count):
        put(volume, f"a/burst-{number}", content(number, 30))


def _time(volume: Volume, seconds: int) -> None:
    volume.platform.clock.advance(seconds)  # type: ignore[attr-defined]


DO: dict[str, Callable[..., object]] = {
    "put": _put,
    "rename": _rename,
    "remove": _remove,
    "link": _link,
    "folder": make_folder,
    "symlink": _symlink,
    "attributes": _attributes,
    "property": _property,
    "burst": _burst,
    "time": _time,
    "sync": lambda volume: volume.sync(wait=True),
    "checkpoint": lambda volume: volume.sync(wait=True) and volume.replicator.checkpoint(),
}


def do(volume: Volume, step: tuple[object, ...]) -> bool:
    """Do a step; return False where the file system refused it."""
    name, *arguments = step
    try:
        DO[str(name)](volume, *arguments)
    except FileSystemError:
        return False
    return True
