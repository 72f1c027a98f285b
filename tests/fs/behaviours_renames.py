"""Renames, with all their flags."""

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import Exists, InvalidArgument, IsADirectory, NotADirectory, NotEmpty, NotFound
from tgdav.fs.api import RenameFlag


@behaviour()
def a_renamed_file_keeps_its_content(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.rename(b"old", b"new")
    assert access.listdir(b"") == [b"new"]
    assert access.read_file(b"new") == b"content"


@behaviour()
def a_file_moves_between_folders(access: Access) -> None:
    access.mkdir(b"one")
    access.mkdir(b"two")
    access.write_file(b"one/file", b"content")
    access.rename(b"one/file", b"two/renamed")
    assert (access.listdir(b"one"), access.listdir(b"two")) == ([], [b"renamed"])
    assert access.read_file(b"two/renamed") == b"content"


@behaviour()
def a_renamed_folder_keeps_what_is_below(access: Access) -> None:
    access.mkdir(b"old")
    access.mkdir(b"old/below")
    access.write_file(b"old/below/file", b"content")
    access.rename(b"old", b"new")
    assert access.read_file(b"new/below/file") == b"content"
    with refused(NotFound):
        access.status(b"old/below")


@behaviour()
def a_folder_moves_between_folders(access: Access) -> None:
    access.mkdir(b"one")
    access.mkdir(b"two")
    access.mkdir(b"one/inner")
    access.write_file(b"one/inner/file", b"content")
    access.rename(b"one/inner", b"two/inner")
    assert access.listdir(b"one") == []
    assert access.read_file(b"two/inner/file") == b"content"


@behaviour(Ability.HANDLES)
def a_renamed_file_stays_the_same_node(access: Access) -> None:
    access.write_file(b"old", b"content")
    before = access.status(b"old")
    access.rename(b"old", b"new")
    after = access.status(b"new")
    assert (after.identity, after.mtime) == (before.identity, before.mtime)


@behaviour()
def a_rename_changes_case(access: Access) -> None:
    access.write_file(b"name", b"content")
    access.rename(b"name", b"NAME")
    assert access.listdir(b"") == [b"NAME"]


@behaviour()
def a_rename_replaces_a_file(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.write_file(b"new", b"replaced")
    access.rename(b"old", b"new")
    assert access.listdir(b"") == [b"new"]
    assert access.read_file(b"new") == b"content"


@behaviour()
def an_unknown_name_is_not_renamed(access: Access) -> None:
    access.write_file(b"new", b"kept")
    with refused(NotFound):
        access.rename(b"nothing", b"new")
    assert access.read_file(b"new") == b"kept"


@behaviour()
def a_rename_into_an_unknown_folder_is_refused(access: Access) -> None:
    access.write_file(b"old", b"kept")
    with refused(NotFound):
        access.rename(b"old", b"nothing/new")
    assert access.read_file(b"old") == b"kept"


@behaviour()
def a_rename_into_a_file_is_refused(access: Access) -> None:
    access.write_file(b"old", b"kept")
    access.write_file(b"file", b"")
    with refused(NotADirectory):
        access.rename(b"old", b"file/new")
    assert access.read_file(b"old") == b"kept"


@behaviour()
def a_folder_does_not_move_into_itself(access: Access) -> None:
    access.mkdir(b"folder")
    with refused(InvalidArgument):
        access.rename(b"folder", b"folder/inside")
    assert access.listdir(b"folder") == []


@behaviour()
def a_folder_does_not_move_below_itself(access: Access) -> None:
    access.mkdir(b"folder")
    access.mkdir(b"folder/below")
    with refused(InvalidArgument):
        access.rename(b"folder", b"folder/below/inside")
    assert access.listdir(b"folder/below") == []


@behaviour(Ability.POSIX_RENAME)
def a_rename_to_itself_does_nothing(access: Access) -> None:
    access.write_file(b"name", b"content")
    access.rename(b"name", b"name")
    assert access.read_file(b"name") == b"content"


@behaviour(Ability.POSIX_RENAME)
def a_rename_of_a_full_folder_to_itself_does_nothing(access: Access) -> None:
    access.mkdir(b"folder")
    access.write_file(b"folder/file", b"content")
    access.rename(b"folder", b"folder")
    assert access.read_file(b"folder/file") == b"content"


@behaviour(Ability.POSIX_RENAME)
def a_folder_replaces_an_empty_folder(access: Access) -> None:
    access.mkdir(b"old")
    access.write_file(b"old/file", b"content")
    access.mkdir(b"new")
    access.rename(b"old", b"new")
    assert access.listdir(b"") == [b"new"]
    assert access.listdir(b"new") == [b"file"]


@behaviour(Ability.POSIX_RENAME)
def a_folder_does_not_replace_a_full_folder(access: Access) -> None:
    access.mkdir(b"old")
    access.mkdir(b"new")
    access.write_file(b"new/file", b"kept")
    with refused(NotEmpty, Exists):
        access.rename(b"old", b"new")
    assert access.read_file(b"new/file") == b"kept"


@behaviour(Ability.POSIX_RENAME)
def a_folder_does_not_replace_the_folder_it_lies_in(access: Access) -> None:
    access.mkdir(b"above")
    access.mkdir(b"above/below")
    with refused(NotEmpty, Exists):
        access.rename(b"above/below", b"above")
    assert access.listdir(b"above") == [b"below"]


@behaviour(Ability.POSIX_RENAME)
def a_folder_does_not_replace_a_file(access: Access) -> None:
    access.mkdir(b"old")
    access.write_file(b"new", b"kept")
    with refused(NotADirectory):
        access.rename(b"old", b"new")
    assert access.read_file(b"new") == b"kept"


@behaviour(Ability.POSIX_RENAME)
def a_file_does_not_replace_a_folder(access: Access) -> None:
    access.write_file(b"old", b"kept")
    access.mkdir(b"new")
    with refused(IsADirectory):
        access.rename(b"old", b"new")
    assert access.read_file(b"old") == b"kept"


@behaviour(Ability.POSIX_RENAME, Ability.HARD_LINKS)
def a_rename_between_two_names_of_one_file_does_nothing(access: Access) -> None:
    access.write_file(b"one", b"content")
    access.link(b"one", b"two")
    access.rename(b"one", b"two")
    assert access.listdir(b"") == [b"one", b"two"]


@behaviour(Ability.NO_REPLACE)
def no_replace_moves_to_a_free_name(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.rename(b"old", b"new", RenameFlag.NO_REPLACE)
    assert access.listdir(b"") == [b"new"]


@behaviour(Ability.NO_REPLACE)
def no_replace_refuses_a_taken_name(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.write_file(b"new", b"kept")
    with refused(Exists):
        access.rename(b"old", b"new", RenameFlag.NO_REPLACE)
    assert (access.read_file(b"old"), access.read_file(b"new")) == (b"content", b"kept")


@behaviour(Ability.NO_REPLACE)
def no_replace_refuses_an_empty_folder(access: Access) -> None:
    access.mkdir(b"old")
    access.mkdir(b"new")
    with refused(Exists):
        access.rename(b"old", b"new", RenameFlag.NO_REPLACE)
    assert access.listdir(b"") == [b"new", b"old"]


@behaviour(Ability.EXCHANGE)
def exchange_swaps_two_files(access: Access) -> None:
    access.write_file(b"one", b"1")
    access.write_file(b"two", b"2")
    access.rename(b"one", b"two", RenameFlag.EXCHANGE)
    assert (access.read_file(b"one"), access.read_file(b"two")) == (b"2", b"1")


@behaviour(Ability.EXCHANGE)
def exchange_swaps_a_file_and_a_full_folder(access: Access) -> None:
    access.mkdir(b"above")
    access.write_file(b"above/file", b"content")
    access.mkdir(b"folder")
    access.write_file(b"folder/inside", b"below")
    access.rename(b"above/file", b"folder", RenameFlag.EXCHANGE)
    assert access.read_file(b"folder") == b"content"
    assert access.read_file(b"above/file/inside") == b"below"


@behaviour(Ability.EXCHANGE)
def exchange_needs_both_names(access: Access) -> None:
    access.write_file(b"one", b"1")
    with refused(NotFound):
        access.rename(b"one", b"nothing", RenameFlag.EXCHANGE)
    assert access.listdir(b"") == [b"one"]


@behaviour(Ability.EXCHANGE)
def exchange_refuses_a_folder_and_what_lies_in_it(access: Access) -> None:
    access.mkdir(b"above")
    access.mkdir(b"above/below")
    for old, new in ((b"above", b"above/below"), (b"above/below", b"above")):
        with refused(InvalidArgument, NotEmpty):
            access.rename(old, new, RenameFlag.EXCHANGE)
    assert access.listdir(b"above") == [b"below"]


@behaviour(Ability.EXCHANGE)
def exchange_with_itself_does_nothing(access: Access) -> None:
    access.write_file(b"one", b"1")
    access.rename(b"one", b"one", RenameFlag.EXCHANGE)
    assert access.read_file(b"one") == b"1"


@behaviour(Ability.EXCHANGE, Ability.NO_REPLACE)
def exchange_and_no_replace_exclude_each_other(access: Access) -> None:
    access.write_file(b"one", b"1")
    access.write_file(b"two", b"2")
    with refused(InvalidArgument):
        access.rename(b"one", b"two", RenameFlag.EXCHANGE | RenameFlag.NO_REPLACE)
    assert access.read_file(b"one") == b"1"


@behaviour(Ability.POSIX_RENAME, Ability.MODES)
def folders_count_their_folders_after_moves(access: Access) -> None:
    for path in (b"one", b"two", b"one/inner", b"two/other"):
        access.mkdir(path)
    access.rename(b"one/inner", b"two/inner")
    assert access.status(b"one").nlink == 2
    assert access.status(b"two").nlink == 4
