"""The steps of the state machine: names, attributes, contents, and the crash."""

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.fs.machine import (
    CONDITION,
    DATA,
    FLAG,
    NAME,
    NUMBERS,
    OFFSET,
    OFFSETS,
    Machine,
    OpenPair,
    at,
    condition,
    place,
)
from tests.fs.snapshots import content_of, walk
from tgdav.fs.api import Owner, RenameFlag, Upload, XattrFlag
from tgdav.metadata.types import AttributeChange, Kind

OWNER = Owner(1000, 100)
KINDS = st.sampled_from([*Kind, Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY])
XATTRS = st.sampled_from([b"user.a", b"user.b"])
VALUES = st.sampled_from([b"", b"one", b"two" * 100])


class NameSteps(Machine):
    """Changes of names."""

    @initialize(data=DATA)
    def fill(self, data: bytes) -> None:
        for fs in (self.subject.fs, self.oracle):
            folder = fs.create(fs.root, b"a", Kind.DIRECTORY, 0o755, OWNER).inode
            for parent, name in ((fs.root, b"b"), (fs.root, b"c"), (folder, b"b")):
                with fs.upload(parent, name, owner=OWNER) as upload:
                    upload.write(data)
                    upload.commit()

    @rule(number=NUMBERS, name=NAME, kind=KINDS)
    def create(self, number: int, name: bytes, kind: Kind) -> None:
        parent = self.parent(number)
        target = b"target" if kind == Kind.SYMLINK else b""
        self.both(lambda fs: fs.create(at(fs, parent), name, kind, 0o751, OWNER, target=target))

    @rule(number=NUMBERS, parent_number=NUMBERS, name=NAME)
    def link(self, number: int, parent_number: int, name: bytes) -> None:
        path, parent = self.path(number), self.parent(parent_number)
        self.both(lambda fs: fs.link(at(fs, path), at(fs, parent), name))

    @rule(number=NUMBERS)
    def unlink(self, number: int) -> None:
        path = self.path(number)
        self.both(lambda fs: fs.unlink(*place(fs, path)))

    @rule(number=NUMBERS)
    def remove_directory(self, number: int) -> None:
        path = self.path(number)
        self.both(lambda fs: fs.remove_directory(*place(fs, path)))

    @rule(number=NUMBERS, kind=CONDITION)
    def remove_tree(self, number: int, kind: str) -> None:
        path = self.path(number)
        self.both(lambda fs: fs.remove_tree(*place(fs, path), precondition=condition(kind)))

    @rule(number=NUMBERS, parent_number=NUMBERS, name=NAME, flags=FLAG)
    def rename(self, number: int, parent_number: int, name: bytes, flags: RenameFlag) -> None:
        path, parent = self.path(number), self.parent(parent_number)
        self.both(lambda fs: fs.rename(*place(fs, path), at(fs, parent), name, flags=flags))

    @rule(number=NUMBERS, parent_number=NUMBERS, name=NAME, kind=CONDITION)
    def replace_tree(self, number: int, parent_number: int, name: bytes, kind: str) -> None:
        path, parent = self.path(number), self.parent(parent_number)
        check = condition(kind)
        self.both(lambda fs: fs.rename(*place(fs, path), at(fs, parent), name, replace_tree=True, precondition=check))

    @rule(number=NUMBERS, parent_number=NUMBERS, name=NAME, recursive=st.booleans(), replace=st.booleans())
    def copy(self, number: int, parent_number: int, name: bytes, recursive: bool, replace: bool) -> None:
        path, parent = self.path(number), self.parent(parent_number)
        self.both(lambda fs: fs.copy(at(fs, path), at(fs, parent), name, recursive=recursive, replace=replace))

    @rule(number=NUMBERS, name=NAME)
    def look_up(self, number: int, name: bytes) -> None:
        parent = self.parent(number)
        self.both(lambda fs: fs.lookup(at(fs, parent), name))
        self.both(lambda fs: fs.lookup(at(fs, parent), name, normalized=True))


class AttributeSteps(Machine):
    """Changes of attributes, extended attributes and properties."""

    @rule(number=NUMBERS, mode=st.sampled_from([0o600, 0o4755, 0]), uid=st.integers(0, 3))
    def set_attributes(self, number: int, mode: int, uid: int) -> None:
        path = self.path(number)
        change = AttributeChange(mode=mode, uid=uid, mtime=mode + uid)
        self.both(lambda fs: fs.set_attributes(at(fs, path), change))
        assert self.subject.fs.resolve(path).mtime == mode + uid

    @rule(number=NUMBERS, size=OFFSET)
    def resize(self, number: int, size: int) -> None:
        path = self.path(number)
        inode = at(self.oracle, path)
        done = self.both(lambda fs: fs.set_attributes(at(fs, path), AttributeChange(size=size)))
        if done and inode in self.survivors:
            self.survivors[inode].resized(size)

    @rule(number=NUMBERS, name=XATTRS, value=VALUES, flags=st.sampled_from([XattrFlag.NONE, *XattrFlag]))
    def set_xattr(self, number: int, name: bytes, value: bytes, flags: XattrFlag) -> None:
        path = self.path(number)
        self.both(lambda fs: fs.set_xattr(at(fs, path), name, value, flags=flags))

    @rule(number=NUMBERS, name=XATTRS)
    def remove_xattr(self, number: int, name: bytes) -> None:
        path = self.path(number)
        self.both(lambda fs: fs.remove_xattr(at(fs, path), name))

    @rule(number=NUMBERS, name=XATTRS, value=st.none() | VALUES, mode=st.none() | st.just(0o640))
    def set_properties(self, number: int, name: bytes, value: bytes | None, mode: int | None) -> None:
        path = self.path(number)
        change = AttributeChange(mode=mode)
        self.both(lambda fs: fs.set_properties(at(fs, path), {name: value}, attributes=change))


class UploadSteps(Machine):
    """Whole contents, at once and with other steps between."""

    @rule(number=NUMBERS, name=NAME, normalized=st.booleans())
    def begin_upload(self, number: int, name: bytes, normalized: bool) -> None:
        parent = self.parent(number)
        begun: list[Upload] = []
        self.both(
            lambda fs: begun.append(fs.upload(at(fs, parent), name, owner=OWNER, mode=0o640, normalized=normalized))
        )
        if begun:
            self.uploads.append((begun[0], begun[1]))

    @precondition(lambda self: self.uploads)
    @rule(number=NUMBERS, data=DATA)
    def write_upload(self, number: int, data: bytes) -> None:
        for upload in self.uploads[number % len(self.uploads)]:
            upload.write(data)

    @precondition(lambda self: self.uploads)
    @rule(number=NUMBERS, kind=CONDITION, value=st.none() | VALUES)
    def commit_upload(self, number: int, kind: str, value: bytes | None) -> None:
        one, two = self.uploads.pop(number % len(self.uploads))
        check, properties = condition(kind), {b"user.a": value}
        result = self.same(
            lambda: one.commit(precondition=check, properties=lambda _: properties, mtime=10**9),
            lambda: two.commit(precondition=check, properties=lambda _: properties, mtime=10**9),
        )
        one.abort()
        two.abort()
        if result:
            self.survivors.pop(result[0].inode, None)

    @precondition(lambda self: self.uploads)
    @rule(number=NUMBERS)
    def abort_upload(self, number: int) -> None:
        for upload in self.uploads.pop(number % len(self.uploads)):
            upload.abort()


class HandleSteps(Machine):
    """Open files."""

    @rule(number=NUMBERS, truncate=st.booleans())
    def open(self, number: int, truncate: bool) -> None:
        path = self.file(number)
        self.opened += 1
        if path is None or len(self.handles) > 4:
            return
        survivors = self.follow(at(self.oracle, path))
        handles = [fs.open(at(fs, path), writable=True, truncate=truncate) for fs in (self.subject.fs, self.oracle)]
        self.handles.append(OpenPair(self.opened, *handles))
        if truncate:
            survivors.written(self.opened, self.content(handles[1].inode))

    @precondition(lambda self: self.handles)
    @rule(number=NUMBERS, offset=OFFSET, data=DATA, append=st.booleans())
    def write(self, number: int, offset: int, data: bytes, append: bool) -> None:
        pair = self.handles[number % len(self.handles)]
        survivors = self.follow(pair.oracle.inode)
        self.same(
            lambda: pair.subject.write(offset, data, append=append),
            lambda: pair.oracle.write(offset, data, append=append),
        )
        survivors.written(pair.number, self.content(pair.oracle.inode))

    @precondition(lambda self: self.handles)
    @rule(number=NUMBERS, size=OFFSET)
    def truncate(self, number: int, size: int) -> None:
        pair = self.handles[number % len(self.handles)]
        survivors = self.follow(pair.oracle.inode)
        self.same(lambda: pair.subject.truncate(size), lambda: pair.oracle.truncate(size))
        survivors.written(pair.number, self.content(pair.oracle.inode))

    @precondition(lambda self: self.handles)
    @rule(number=NUMBERS, offset=OFFSET)
    def read(self, number: int, offset: int) -> None:
        pair = self.handles[number % len(self.handles)]
        self.same(lambda: pair.subject.read(offset, 100_000), lambda: pair.oracle.read(offset, 100_000))

    @precondition(lambda self: self.handles)
    @rule(number=NUMBERS)
    def fsync(self, number: int) -> None:
        pair = self.handles[number % len(self.handles)]
        self.same(pair.subject.fsync, pair.oracle.fsync)
        self.follow(pair.oracle.inode).synced()

    @precondition(lambda self: self.handles)
    @rule(number=NUMBERS)
    def flush(self, number: int) -> None:
        pair = self.handles[number % len(self.handles)]
        self.same(pair.subject.flush, pair.oracle.flush)
        self.follow(pair.oracle.inode).committed(pair.number)

    @precondition(lambda self: self.handles)
    @rule(number=NUMBERS)
    def close(self, number: int) -> None:
        pair = self.handles.pop(number % len(self.handles))
        self.follow(pair.oracle.inode).committed(pair.number)
        self.same(pair.subject.close, pair.oracle.close)


class StopSteps(Machine):
    """The end of the process, orderly or not."""

    @precondition(lambda self: self.handles or self.uploads or self.survivors)
    @rule()
    def crash(self) -> None:
        self.handles.clear()
        self.uploads.clear()
        self.subject.crash()
        self._adopt_survivors()
        self.oracle.crash()
        self.survivors.clear()

    @precondition(lambda self: self.opened % 3 == 2)
    @rule()
    def restart(self) -> None:
        for pair in self.handles:
            pair.subject.close()
            pair.oracle.close()
        for upload in (upload for pair in self.uploads for upload in pair):
            upload.abort()
        self.handles.clear()
        self.uploads.clear()
        self.survivors.clear()
        self.subject.restart()

    @rule()
    def sync(self) -> None:
        self.both(lambda fs: fs.sync())

    def _adopt_survivors(self) -> None:
        """Check what the crash left of each file in work, and let the model go on from that."""
        fs = self.subject.fs
        found, expected = sorted(path for path, _ in walk(fs)), sorted(path for path, _ in walk(self.oracle))
        assert found == expected, f"the names differ: {found}, not {expected}"
        for path, attributes in walk(self.oracle):
            if attributes.inode in self.survivors:
                left = content_of(fs, fs.resolve(path), OFFSETS)
                content = self.survivors[attributes.inode].choose(left, OFFSETS)
                assert content is not None, f"a content that never was: {left[0]} bytes at {path!r}"
                self.oracle._tree.node(attributes.inode).kept = content


class FileSystemMachine(NameSteps, AttributeSteps, UploadSteps, HandleSteps, StopSteps):
    """All steps."""
