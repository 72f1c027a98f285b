"""Whole trees: removed, copied, replaced."""

from tests.fs.access import Ability, Access, refused
from tests.fs.behaviours_content import noise
from tests.fs.registry import behaviour
from tgdav.errors import Exists, InvalidArgument, NotFound
from tgdav.metadata.types import AttributeChange, Kind

LONG_AGO = 1_000_000_000 * 10**9
PROPERTY = b"{urn:example}colour"


def make_tree(access: Access, root: bytes) -> None:
    """Make a directory with a file, and a directory in it with another."""
    for folder in (root, root + b"/below"):
        access.mkdir(folder)
        access.write_file(folder + b"/file", folder)


@behaviour()
def a_removed_tree_is_gone(access: Access) -> None:
    make_tree(access, b"tree")
    access.write_file(b"beside", b"kept")
    access.remove_tree(b"tree")
    assert access.listdir(b"") == [b"beside"]
    with refused(NotFound):
        access.status(b"tree/below/file")


@behaviour()
def a_tree_made_again_is_empty(access: Access) -> None:
    make_tree(access, b"tree")
    access.remove_tree(b"tree")
    access.mkdir(b"tree")
    assert access.listdir(b"tree") == []


@behaviour()
def removing_a_tree_removes_a_file_too(access: Access) -> None:
    access.write_file(b"file", b"")
    access.remove_tree(b"file")
    assert access.listdir(b"") == []


@behaviour()
def removing_an_unknown_tree_is_refused(access: Access) -> None:
    with refused(NotFound):
        access.remove_tree(b"nothing")


@behaviour(Ability.HARD_LINKS)
def a_removed_tree_leaves_links_outside(access: Access) -> None:
    make_tree(access, b"tree")
    access.link(b"tree/below/file", b"outside")
    access.remove_tree(b"tree")
    assert access.read_file(b"outside") == b"tree/below"
    assert access.status(b"outside").nlink == 1


@behaviour(Ability.COPY)
def a_copied_file_has_the_content(access: Access) -> None:
    access.write_file(b"old", noise(300_000))
    assert access.copy(b"old", b"new") is False
    assert access.read_file(b"new") == access.read_file(b"old") == noise(300_000)


@behaviour(Ability.COPY)
def a_copy_changes_on_its_own(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.copy(b"old", b"new")
    access.write_file(b"old", b"changed")
    assert access.read_file(b"new") == b"content"


@behaviour(Ability.COPY)
def a_copied_tree_is_whole(access: Access) -> None:
    make_tree(access, b"old")
    access.copy(b"old", b"new")
    assert access.listdir(b"new") == [b"below", b"file"]
    assert access.read_file(b"new/below/file") == b"old/below"
    access.remove_tree(b"old")
    assert access.read_file(b"new/file") == b"old"


@behaviour(Ability.COPY)
def a_folder_is_copied_without_what_is_below(access: Access) -> None:
    make_tree(access, b"old")
    access.copy(b"old", b"new", recursive=False)
    assert access.listdir(b"new") == []
    assert access.status(b"new").kind == Kind.DIRECTORY


@behaviour(Ability.COPY, Ability.PROPERTIES)
def a_copy_keeps_properties(access: Access) -> None:
    make_tree(access, b"old")
    access.set_properties(b"old/below", {PROPERTY: b"blue"})
    access.copy(b"old", b"new")
    assert access.properties(b"new/below") == {PROPERTY: b"blue"}
    access.set_properties(b"old/below", {PROPERTY: None})
    assert access.properties(b"new/below") == {PROPERTY: b"blue"}


@behaviour(Ability.COPY, Ability.TIMES)
def a_copy_keeps_modification_times(access: Access) -> None:
    make_tree(access, b"old")
    for path in (b"old/below/file", b"old/below", b"old"):
        access.set_attributes(path, AttributeChange(mtime=LONG_AGO))
    access.copy(b"old", b"new")
    assert [access.status(path).mtime for path in (b"new/below/file", b"new/below", b"new")] == [LONG_AGO] * 3


@behaviour(Ability.COPY, Ability.TAGS)
def a_copy_has_the_same_tag(access: Access) -> None:
    access.write_file(b"old", noise(300_000))
    access.copy(b"old", b"new")
    assert access.tag(b"new") == access.tag(b"old")


@behaviour(Ability.COPY)
def a_copy_does_not_replace_unasked(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.write_file(b"new", b"kept")
    with refused(Exists):
        access.copy(b"old", b"new")
    assert access.read_file(b"new") == b"kept"


@behaviour(Ability.COPY)
def a_copy_replaces_a_file(access: Access) -> None:
    access.write_file(b"old", b"content")
    access.write_file(b"new", b"replaced")
    assert access.copy(b"old", b"new", replace=True) is True
    assert access.read_file(b"new") == b"content"


@behaviour(Ability.COPY)
def a_copy_replaces_a_tree_whole(access: Access) -> None:
    make_tree(access, b"old")
    access.mkdir(b"new")
    access.write_file(b"new/other", b"")
    assert access.copy(b"old", b"new", replace=True) is True
    assert access.listdir(b"new") == [b"below", b"file"]


@behaviour(Ability.COPY)
def a_tree_is_not_copied_into_itself(access: Access) -> None:
    make_tree(access, b"tree")
    for path in (b"tree/copy", b"tree/below/copy"):
        with refused(InvalidArgument):
            access.copy(b"tree", path)
    assert access.listdir(b"tree/below") == [b"file"]


@behaviour(Ability.COPY)
def an_unknown_name_is_not_copied(access: Access) -> None:
    with refused(NotFound):
        access.copy(b"nothing", b"new")
    assert access.listdir(b"") == []


@behaviour(Ability.COPY)
def a_copy_into_an_unknown_folder_is_refused(access: Access) -> None:
    access.write_file(b"old", b"")
    with refused(NotFound):
        access.copy(b"old", b"nothing/new")


@behaviour(Ability.REPLACE_TREE)
def a_move_replaces_a_full_folder(access: Access) -> None:
    make_tree(access, b"old")
    access.mkdir(b"new")
    access.write_file(b"new/other", b"")
    assert access.replace_tree(b"old", b"new") is True
    assert access.listdir(b"") == [b"new"]
    assert access.listdir(b"new") == [b"below", b"file"]


@behaviour(Ability.REPLACE_TREE)
def a_moved_file_replaces_a_full_folder(access: Access) -> None:
    make_tree(access, b"new")
    access.write_file(b"old", b"content")
    assert access.replace_tree(b"old", b"new") is True
    assert access.read_file(b"new") == b"content"
    assert access.listdir(b"") == [b"new"]


@behaviour(Ability.REPLACE_TREE)
def a_moved_folder_replaces_a_file(access: Access) -> None:
    make_tree(access, b"old")
    access.write_file(b"new", b"")
    assert access.replace_tree(b"old", b"new") is True
    assert access.read_file(b"new/below/file") == b"old/below"


@behaviour(Ability.REPLACE_TREE)
def a_move_to_a_free_name_replaces_nothing(access: Access) -> None:
    make_tree(access, b"old")
    assert access.replace_tree(b"old", b"new") is False
    assert access.listdir(b"") == [b"new"]


@behaviour(Ability.REPLACE_TREE)
def a_replacing_move_does_not_go_into_itself(access: Access) -> None:
    make_tree(access, b"tree")
    with refused(InvalidArgument):
        access.replace_tree(b"tree", b"tree/below")
    assert access.read_file(b"tree/below/file") == b"tree/below"
