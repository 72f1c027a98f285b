"""Modes, owners, times, extended attributes, properties."""

from collections.abc import Callable
from contextlib import closing

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import Exists, InvalidArgument, NoAttribute, NotFound
from tgdav.fs.api import XattrFlag
from tgdav.metadata.types import AttributeChange

LONG_AGO = 1_000_000_000 * 10**9 + 123_456_789
NAME = b"user.name"
PROPERTY = b"{urn:example}colour"


@behaviour(Ability.MODES)
def a_mode_is_set(access: Access) -> None:
    access.write_file(b"file", b"")
    for mode in (0o600, 0o755, 0o000, 0o4711):
        access.set_attributes(b"file", AttributeChange(mode=mode))
        assert access.status(b"file").mode == mode


@behaviour(Ability.MODES)
def a_folders_mode_is_set(access: Access) -> None:
    access.mkdir(b"folder")
    access.set_attributes(b"folder", AttributeChange(mode=0o1777))
    assert access.status(b"folder").mode == 0o1777


@behaviour(Ability.OWNERS)
def owners_are_set_one_by_one(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_attributes(b"file", AttributeChange(uid=1234))
    access.set_attributes(b"file", AttributeChange(gid=4321))
    assert (access.status(b"file").uid, access.status(b"file").gid) == (1234, 4321)


@behaviour(Ability.TIMES)
def a_modification_time_is_set_to_the_nanosecond(access: Access) -> None:
    access.write_file(b"file", b"content")
    access.set_attributes(b"file", AttributeChange(mtime=LONG_AGO))
    assert access.status(b"file").mtime == LONG_AGO
    assert access.read_file(b"file") == b"content"


@behaviour(Ability.TIMES, Ability.MODES)
def an_access_time_is_set_alone(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_attributes(b"file", AttributeChange(mtime=LONG_AGO))
    access.set_attributes(b"file", AttributeChange(atime=LONG_AGO + 1))
    assert (access.status(b"file").atime, access.status(b"file").mtime) == (LONG_AGO + 1, LONG_AGO)


@behaviour(Ability.TIMES)
def a_folders_modification_time_is_set(access: Access) -> None:
    access.mkdir(b"folder")
    access.set_attributes(b"folder", AttributeChange(mtime=LONG_AGO))
    assert access.status(b"folder").mtime == LONG_AGO


@behaviour(Ability.TIMES)
def a_rename_keeps_the_modification_time(access: Access) -> None:
    access.write_file(b"old", b"")
    access.set_attributes(b"old", AttributeChange(mtime=LONG_AGO))
    access.rename(b"old", b"new")
    assert access.status(b"new").mtime == LONG_AGO


@behaviour(Ability.TIMES)
def reading_keeps_the_modification_time(access: Access) -> None:
    access.write_file(b"file", b"content")
    access.set_attributes(b"file", AttributeChange(mtime=LONG_AGO))
    access.read_file(b"file")
    assert access.status(b"file").mtime == LONG_AGO


@behaviour(Ability.TIMES, Ability.HANDLES)
def a_write_moves_the_modification_time(access: Access) -> None:
    access.write_file(b"file", b"content")
    access.set_attributes(b"file", AttributeChange(mtime=LONG_AGO))
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(0, b"C")
    assert access.status(b"file").mtime > LONG_AGO


@behaviour(Ability.TIMES)
def changes_of_names_move_the_folders_modification_time(access: Access) -> None:
    access.mkdir(b"folder")
    changes: tuple[Callable[[], None], ...] = (
        lambda: access.write_file(b"folder/file", b""),
        lambda: access.rename(b"folder/file", b"folder/renamed"),
        lambda: access.unlink(b"folder/renamed"),
        lambda: access.mkdir(b"folder/below"),
        lambda: access.rmdir(b"folder/below"),
    )
    for change in changes:
        access.set_attributes(b"folder", AttributeChange(mtime=LONG_AGO))
        change()
        assert access.status(b"folder").mtime > LONG_AGO


@behaviour(Ability.TIMES)
def a_move_between_folders_moves_both_modification_times(access: Access) -> None:
    access.mkdir(b"one")
    access.mkdir(b"two")
    access.write_file(b"one/file", b"")
    for folder in (b"one", b"two"):
        access.set_attributes(folder, AttributeChange(mtime=LONG_AGO))
    access.rename(b"one/file", b"two/file")
    assert min(access.status(folder).mtime for folder in (b"one", b"two")) > LONG_AGO


@behaviour(Ability.TIMES)
def a_replaced_content_keeps_the_folders_modification_time(access: Access) -> None:
    access.mkdir(b"folder")
    access.write_file(b"folder/file", b"one")
    access.set_attributes(b"folder", AttributeChange(mtime=LONG_AGO))
    access.write_file(b"folder/file", b"two")
    assert access.status(b"folder").mtime == LONG_AGO


@behaviour(Ability.CHANGE_TIME)
def changes_never_move_the_change_time_back(access: Access) -> None:
    access.write_file(b"file", b"content")
    before = access.status(b"file").ctime
    access.set_attributes(b"file", AttributeChange(mtime=LONG_AGO))
    assert access.status(b"file").ctime >= before > LONG_AGO


@behaviour(Ability.MODES)
def attributes_of_an_unknown_name_are_refused(access: Access) -> None:
    with refused(NotFound):
        access.set_attributes(b"nothing", AttributeChange(mode=0o600))


@behaviour(Ability.XATTRS)
def an_xattr_is_kept(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, b"\0value\xff")
    assert access.get_xattr(b"file", NAME) == b"\0value\xff"
    assert access.list_xattrs(b"file") == [NAME]


@behaviour(Ability.XATTRS)
def an_xattr_may_be_empty(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, b"")
    assert access.get_xattr(b"file", NAME) == b""


@behaviour(Ability.XATTRS)
def a_folder_has_xattrs(access: Access) -> None:
    access.mkdir(b"folder")
    access.set_xattr(b"folder", NAME, b"value")
    assert access.get_xattr(b"folder", NAME) == b"value"


@behaviour(Ability.XATTRS)
def an_xattr_is_replaced(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, b"one")
    access.set_xattr(b"file", NAME, b"two", XattrFlag.REPLACE)
    assert access.get_xattr(b"file", NAME) == b"two"


@behaviour(Ability.XATTRS)
def an_xattr_is_created_once(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, b"one", XattrFlag.CREATE)
    with refused(Exists):
        access.set_xattr(b"file", NAME, b"two", XattrFlag.CREATE)
    assert access.get_xattr(b"file", NAME) == b"one"


@behaviour(Ability.XATTRS)
def an_absent_xattr_is_not_replaced(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NoAttribute):
        access.set_xattr(b"file", NAME, b"value", XattrFlag.REPLACE)
    assert access.list_xattrs(b"file") == []


@behaviour(Ability.XATTRS)
def an_absent_xattr_is_refused(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NoAttribute):
        access.get_xattr(b"file", NAME)
    with refused(NoAttribute):
        access.remove_xattr(b"file", NAME)


@behaviour(Ability.XATTRS)
def an_xattr_is_removed(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, b"one")
    access.set_xattr(b"file", NAME + b"2", b"two")
    access.remove_xattr(b"file", NAME)
    assert access.list_xattrs(b"file") == [NAME + b"2"]


@behaviour(Ability.XATTRS)
def xattrs_survive_writes_and_renames(access: Access) -> None:
    access.write_file(b"old", b"one")
    access.set_xattr(b"old", NAME, b"value")
    access.write_file(b"old", b"two")
    access.rename(b"old", b"new")
    assert access.get_xattr(b"new", NAME) == b"value"


@behaviour(Ability.XATTRS)
def a_new_file_has_no_xattrs_of_the_old(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, b"value")
    access.unlink(b"file")
    access.write_file(b"file", b"")
    assert access.list_xattrs(b"file") == []


@behaviour(Ability.XATTRS, Ability.PROPERTIES)
def an_xattr_over_64_kib_is_refused(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_xattr(b"file", NAME, bytes(65536))
    with refused(InvalidArgument):
        access.set_xattr(b"file", NAME, bytes(65537))
    assert access.get_xattr(b"file", NAME) == bytes(65536)


@behaviour(Ability.PROPERTIES)
def a_property_is_kept(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_properties(b"file", {PROPERTY: b"<a>blue</a>"})
    assert access.properties(b"file") == {PROPERTY: b"<a>blue</a>"}


@behaviour(Ability.PROPERTIES)
def a_folder_has_properties(access: Access) -> None:
    access.mkdir(b"folder")
    access.set_properties(b"folder", {PROPERTY: b"blue"})
    assert access.properties(b"folder") == {PROPERTY: b"blue"}


@behaviour(Ability.PROPERTIES)
def properties_are_set_and_removed_together(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_properties(b"file", {PROPERTY: b"blue", b"{urn:example}size": b"large"})
    access.set_properties(b"file", {PROPERTY: None, b"{urn:example}size": b"small", b"{urn:other}size": b"3"})
    assert access.properties(b"file") == {b"{urn:example}size": b"small", b"{urn:other}size": b"3"}


@behaviour(Ability.PROPERTIES)
def removing_an_absent_property_does_nothing(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_properties(b"file", {PROPERTY: None})
    assert access.properties(b"file") == {}


@behaviour(Ability.PROPERTIES)
def properties_survive_writes_and_renames(access: Access) -> None:
    access.write_file(b"old", b"one")
    access.set_properties(b"old", {PROPERTY: b"blue"})
    access.write_file(b"old", b"two")
    access.rename(b"old", b"new")
    assert access.properties(b"new") == {PROPERTY: b"blue"}


@behaviour(Ability.PROPERTIES)
def a_new_file_has_no_properties_of_the_old(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_properties(b"file", {PROPERTY: b"blue"})
    access.unlink(b"file")
    access.write_file(b"file", b"")
    assert access.properties(b"file") == {}


@behaviour(Ability.PROPERTIES, Ability.XATTRS)
def properties_and_xattrs_are_apart(access: Access) -> None:
    access.write_file(b"file", b"")
    access.set_properties(b"file", {b"name": b"property"})
    access.set_xattr(b"file", NAME, b"xattr")
    assert access.properties(b"file") == {b"name": b"property"}
    assert access.list_xattrs(b"file") == [NAME]
