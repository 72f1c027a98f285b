"""Removing files and directories."""

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import IsADirectory, NotADirectory, NotEmpty, NotFound


@behaviour()
def a_removed_file_is_gone(access: Access) -> None:
    access.write_file(b"name", b"")
    access.unlink(b"name")
    assert access.listdir(b"") == []
    with refused(NotFound):
        access.status(b"name")


@behaviour()
def a_removed_folder_is_gone(access: Access) -> None:
    access.mkdir(b"name")
    access.rmdir(b"name")
    assert access.listdir(b"") == []


@behaviour()
def removing_an_unknown_file_is_refused(access: Access) -> None:
    with refused(NotFound):
        access.unlink(b"nothing")


@behaviour()
def removing_an_unknown_folder_is_refused(access: Access) -> None:
    with refused(NotFound):
        access.rmdir(b"nothing")


@behaviour(Ability.POSIX_REMOVE)
def removing_a_full_folder_is_refused(access: Access) -> None:
    access.mkdir(b"folder")
    access.write_file(b"folder/file", b"kept")
    with refused(NotEmpty):
        access.rmdir(b"folder")
    assert access.read_file(b"folder/file") == b"kept"


@behaviour(Ability.POSIX_REMOVE)
def a_file_is_not_removed_as_a_folder(access: Access) -> None:
    access.write_file(b"file", b"")
    with refused(NotADirectory):
        access.rmdir(b"file")


@behaviour(Ability.POSIX_REMOVE)
def a_folder_is_not_unlinked(access: Access) -> None:
    access.mkdir(b"folder")
    with refused(IsADirectory):
        access.unlink(b"folder")


@behaviour()
def a_name_can_be_used_again(access: Access) -> None:
    access.write_file(b"name", b"a file")
    access.unlink(b"name")
    access.mkdir(b"name")
    access.rmdir(b"name")
    access.write_file(b"name", b"another")
    assert access.read_file(b"name") == b"another"
