"""Hard links, symlinks and special files."""

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import Exists, InvalidArgument, NotFound, NotPermitted
from tgdav.metadata.types import Kind


@behaviour(Ability.HARD_LINKS)
def a_link_is_another_name_of_the_same_file(access: Access) -> None:
    access.write_file(b"one", b"content")
    access.link(b"one", b"two")
    assert access.status(b"one") == access.status(b"two")
    assert access.read_file(b"two") == b"content"


@behaviour(Ability.HARD_LINKS)
def links_are_counted(access: Access) -> None:
    access.write_file(b"one", b"")
    assert access.status(b"one").nlink == 1
    access.link(b"one", b"two")
    access.link(b"two", b"three")
    assert access.status(b"one").nlink == 3
    access.unlink(b"one")
    assert access.status(b"three").nlink == 2


@behaviour(Ability.HARD_LINKS)
def a_file_lives_until_its_last_name_goes(access: Access) -> None:
    access.write_file(b"one", b"content")
    access.link(b"one", b"two")
    access.unlink(b"one")
    assert access.read_file(b"two") == b"content"


@behaviour(Ability.HARD_LINKS)
def a_link_does_not_replace(access: Access) -> None:
    access.write_file(b"one", b"content")
    access.write_file(b"two", b"kept")
    with refused(Exists):
        access.link(b"one", b"two")
    assert access.read_file(b"two") == b"kept"


@behaviour(Ability.HARD_LINKS)
def a_folder_is_not_linked(access: Access) -> None:
    access.mkdir(b"folder")
    with refused(NotPermitted):
        access.link(b"folder", b"other")


@behaviour(Ability.HARD_LINKS)
def an_unknown_file_is_not_linked(access: Access) -> None:
    with refused(NotFound):
        access.link(b"nothing", b"new")


@behaviour(Ability.HARD_LINKS)
def a_link_into_an_unknown_folder_is_refused(access: Access) -> None:
    access.write_file(b"one", b"")
    with refused(NotFound):
        access.link(b"one", b"nothing/two")
    assert access.status(b"one").nlink == 1


@behaviour(Ability.HARD_LINKS)
def replacing_one_name_leaves_the_others(access: Access) -> None:
    access.write_file(b"one", b"content")
    access.link(b"one", b"two")
    access.write_file(b"other", b"other content")
    access.rename(b"other", b"one")
    assert (access.read_file(b"one"), access.read_file(b"two")) == (b"other content", b"content")
    assert access.status(b"two").nlink == 1


@behaviour(Ability.HARD_LINKS)
def links_go_across_folders(access: Access) -> None:
    access.mkdir(b"folder")
    access.write_file(b"one", b"content")
    access.link(b"one", b"folder/two")
    access.rename(b"one", b"folder/one")
    assert access.listdir(b"folder") == [b"one", b"two"]
    assert access.status(b"folder/two").nlink == 2


@behaviour(Ability.SYMLINKS)
def a_symlink_keeps_its_target(access: Access) -> None:
    for number, target in enumerate([b"file", b"../up", b"/absolute", b"dangling/\xff", b"t" * 1000]):
        path = b"link%d" % number
        access.symlink(target, path)
        assert access.readlink(path) == target
        assert access.status(path).kind == Kind.SYMLINK
        assert access.status(path).size == len(target)


@behaviour(Ability.SYMLINKS)
def a_symlink_is_renamed_and_removed_itself(access: Access) -> None:
    access.write_file(b"file", b"kept")
    access.symlink(b"file", b"link")
    access.rename(b"link", b"renamed")
    assert access.readlink(b"renamed") == b"file"
    access.unlink(b"renamed")
    assert access.listdir(b"") == [b"file"]
    assert access.read_file(b"file") == b"kept"


@behaviour(Ability.SYMLINKS)
def a_symlink_does_not_replace(access: Access) -> None:
    access.write_file(b"file", b"kept")
    with refused(Exists):
        access.symlink(b"target", b"file")
    assert access.read_file(b"file") == b"kept"


@behaviour(Ability.SYMLINKS)
def only_symlinks_have_targets(access: Access) -> None:
    access.write_file(b"file", b"")
    access.mkdir(b"folder")
    for path in (b"file", b"folder"):
        with refused(InvalidArgument):
            access.readlink(path)


@behaviour(Ability.SYMLINKS, Ability.HARD_LINKS)
def a_symlink_has_hard_links(access: Access) -> None:
    access.symlink(b"target", b"one")
    access.link(b"one", b"two")
    assert access.readlink(b"two") == b"target"
    assert access.status(b"one").nlink == 2


@behaviour(Ability.SYMLINKS, Ability.COPY)
def a_symlink_is_copied_itself(access: Access) -> None:
    access.mkdir(b"old")
    access.symlink(b"target", b"old/link")
    access.copy(b"old", b"new")
    assert access.readlink(b"new/link") == b"target"


@behaviour(Ability.SPECIAL_FILES)
def pipes_and_sockets_are_kept(access: Access) -> None:
    for kind in (Kind.FIFO, Kind.SOCKET):
        access.make_special(kind.name.encode(), kind)
        assert access.status(kind.name.encode()).kind == kind


@behaviour(Ability.SPECIAL_FILES)
def devices_keep_their_number(access: Access) -> None:
    for kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
        access.make_special(kind.name.encode(), kind, rdev=0x0803)
        assert access.status(kind.name.encode()).kind == kind
        assert access.status(kind.name.encode()).rdev == 0x0803


@behaviour(Ability.SPECIAL_FILES)
def special_files_are_renamed_and_removed(access: Access) -> None:
    access.make_special(b"old", Kind.FIFO)
    access.rename(b"old", b"new")
    assert access.status(b"new").kind == Kind.FIFO
    access.unlink(b"new")
    assert access.listdir(b"") == []


@behaviour(Ability.MODES)
def folders_count_their_folders(access: Access) -> None:
    access.mkdir(b"folder")
    assert access.status(b"folder").nlink == 2
    access.mkdir(b"folder/one")
    access.mkdir(b"folder/two")
    access.write_file(b"folder/file", b"")
    assert access.status(b"folder").nlink == 4
    access.rmdir(b"folder/one")
    assert access.status(b"folder").nlink == 3
