"""Names: making them, finding them, removing them."""

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import (
    Exists,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
)
from tgdav.metadata.types import Kind


@behaviour()
def a_fresh_root_is_empty(access: Access) -> None:
    assert access.listdir(b"") == []


@behaviour()
def the_root_is_a_folder(access: Access) -> None:
    assert access.status(b"").kind == Kind.DIRECTORY


@behaviour()
def a_made_folder_is_listed(access: Access) -> None:
    access.mkdir(b"folder")
    assert access.listdir(b"") == [b"folder"]
    assert access.status(b"folder").kind == Kind.DIRECTORY


@behaviour()
def a_made_folder_is_empty(access: Access) -> None:
    access.mkdir(b"folder")
    assert access.listdir(b"folder") == []


@behaviour()
def folders_nest(access: Access) -> None:
    access.mkdir(b"a")
    access.mkdir(b"a/b")
    access.mkdir(b"a/b/c")
    access.write_file(b"a/b/c/file", b"deep")
    assert access.read_file(b"a/b/c/file") == b"deep"


@behaviour()
def thirty_levels_of_folders_work(access: Access) -> None:
    path = b"/".join([b"down"] * 30)
    for depth in range(1, 31):
        access.mkdir(b"/".join([b"down"] * depth))
    access.write_file(path + b"/file", b"bottom")
    assert access.read_file(path + b"/file") == b"bottom"


@behaviour()
def a_listing_is_sorted_by_bytes(access: Access) -> None:
    names = [b"b", b"a", b"B", b"10", b"9", "ü".encode(), b"a b", b"a.b"]
    for name in names:
        access.write_file(name, b"")
    assert access.listdir(b"") == sorted(names)


@behaviour()
def names_differ_by_case(access: Access) -> None:
    access.write_file(b"name", b"small")
    access.write_file(b"NAME", b"large")
    assert access.read_file(b"name") == b"small"
    assert access.read_file(b"NAME") == b"large"


@behaviour()
def the_same_name_lives_in_two_folders(access: Access) -> None:
    for folder in (b"one", b"two"):
        access.mkdir(folder)
        access.write_file(folder + b"/name", folder)
    assert access.read_file(b"one/name") == b"one"
    assert access.read_file(b"two/name") == b"two"


@behaviour()
def names_keep_special_characters(access: Access) -> None:
    names = sorted(
        [b" lead", b"trail ", b"a%20b", b"a+b", b"a?b", b"a#b", b"a&b", b"a;b", b"'\"<>", b"\\", b"...", b"*", b":"]
    )
    for name in names:
        access.write_file(name, name)
    assert access.listdir(b"") == names
    assert [access.read_file(name) for name in names] == names


@behaviour()
def names_keep_unicode(access: Access) -> None:
    names = sorted(name.encode() for name in ("日本語", "ß", "🚀", "Ωμέγα", "שלום"))
    for name in names:
        access.write_file(name, name)
    assert access.listdir(b"") == names


@behaviour()
def a_name_of_255_bytes_works(access: Access) -> None:
    access.write_file(b"n" * 255, b"long")
    assert access.read_file(b"n" * 255) == b"long"


@behaviour()
def a_file_name_of_256_bytes_is_refused(access: Access) -> None:
    with refused(NameTooLong):
        access.write_file(b"n" * 256, b"")
    assert access.listdir(b"") == []


@behaviour()
def a_folder_name_of_256_bytes_is_refused(access: Access) -> None:
    with refused(NameTooLong):
        access.mkdir(b"n" * 256)


@behaviour()
def a_length_is_counted_in_bytes(access: Access) -> None:
    with refused(NameTooLong):
        access.write_file("é".encode() * 128, b"")


@behaviour()
def a_rename_to_256_bytes_is_refused(access: Access) -> None:
    access.write_file(b"name", b"kept")
    with refused(NameTooLong):
        access.rename(b"name", b"n" * 256)
    assert access.listdir(b"") == [b"name"]


@behaviour()
def looking_up_256_bytes_is_refused(access: Access) -> None:
    with refused(NameTooLong, NotFound):
        access.status(b"n" * 256)


@behaviour()
def an_unknown_name_is_not_found(access: Access) -> None:
    with refused(NotFound):
        access.status(b"nothing")


@behaviour()
def a_name_in_an_unknown_folder_is_not_found(access: Access) -> None:
    with refused(NotFound):
        access.status(b"nothing/name")


@behaviour()
def a_path_through_a_file_is_refused(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NotADirectory, NotFound):
        access.status(b"file/name")


@behaviour()
def a_folder_in_an_unknown_folder_is_refused(access: Access) -> None:
    with refused(NotFound):
        access.mkdir(b"nothing/folder")


@behaviour()
def a_file_in_an_unknown_folder_is_refused(access: Access) -> None:
    with refused(NotFound):
        access.write_file(b"nothing/file", b"")


@behaviour()
def a_folder_in_a_file_is_refused(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NotADirectory):
        access.mkdir(b"file/folder")


@behaviour()
def a_file_in_a_file_is_refused(access: Access) -> None:
    access.write_file(b"file", b"kept")
    with refused(NotADirectory):
        access.write_file(b"file/file", b"")
    assert access.read_file(b"file") == b"kept"


@behaviour()
def a_folder_is_not_made_twice(access: Access) -> None:
    access.mkdir(b"folder")
    access.write_file(b"folder/file", b"kept")
    with refused(Exists):
        access.mkdir(b"folder")
    assert access.listdir(b"folder") == [b"file"]


@behaviour()
def a_folder_is_not_made_over_a_file(access: Access) -> None:
    access.write_file(b"name", b"kept")
    with refused(Exists):
        access.mkdir(b"name")
    assert access.read_file(b"name") == b"kept"


@behaviour()
def a_new_file_is_not_made_over_a_file(access: Access) -> None:
    access.create_file(b"name", b"first")
    with refused(Exists):
        access.create_file(b"name", b"second")
    assert access.read_file(b"name") == b"first"


@behaviour()
def a_new_file_is_not_made_over_a_folder(access: Access) -> None:
    access.mkdir(b"name")
    with refused(Exists, IsADirectory):
        access.create_file(b"name", b"")
    assert access.status(b"name").kind == Kind.DIRECTORY


@behaviour()
def listing_a_file_is_refused(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NotADirectory):
        access.listdir(b"file")


@behaviour()
def listing_an_unknown_folder_is_refused(access: Access) -> None:
    with refused(NotFound):
        access.listdir(b"nothing")


@behaviour(Ability.RESERVED_NAMES)
def reserved_names_of_the_root_are_refused(access: Access) -> None:
    # A kernel that finds the directories of history does not ask whether they may be made.
    for name in (b".snapshots", b".versions", b".trash", b".namespaces", b".conflicts", b"-"):
        with refused(NotPermitted, Exists):
            access.mkdir(name)
        with refused(NotPermitted, IsADirectory):
            access.write_file(name, b"")
    assert access.listdir(b"") == []


@behaviour(Ability.RESERVED_NAMES)
def renaming_to_a_reserved_name_is_refused(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NotPermitted, IsADirectory):
        access.rename(b"file", b".trash")


@behaviour()
def reserved_names_are_free_below_the_root(access: Access) -> None:
    access.mkdir(b"folder")
    for name in (b".snapshots", b".versions", b".trash", b".namespaces", b".conflicts", b"-"):
        access.write_file(b"folder/" + name, name)
    assert access.read_file(b"folder/.trash") == b".trash"
