"""Whole contents: written, replaced, read in parts."""

import hashlib

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import FileSystemError, InvalidArgument, IsADirectory, NotFound
from tgdav.metadata.types import AttributeChange, Kind

MIB = 1024 * 1024
HUGE = 10**15


def noise(size: int, seed: bytes = b"") -> bytes:
    """Return bytes that do not compress, the same ones for the same seed."""
    return hashlib.shake_128(seed).digest(size)


@behaviour()
def a_file_reads_as_written(access: Access) -> None:
    access.write_file(b"file", b"content")
    assert access.read_file(b"file") == b"content"
    assert access.status(b"file").kind == Kind.FILE
    assert access.status(b"file").size == 7


@behaviour()
def an_empty_file_works(access: Access) -> None:
    access.write_file(b"file", b"")
    assert access.status(b"file").size == 0
    assert access.read_file(b"file") == b""


@behaviour()
def every_byte_value_is_kept(access: Access) -> None:
    data = bytes(range(256))
    access.write_file(b"file", data)
    assert access.read_file(b"file") == data


@behaviour()
def sizes_around_blocks_work(access: Access) -> None:
    for size in (1, 4095, 4096, 4097, 32 * 1024 - 1, 32 * 1024, 32 * 1024 + 1, 65536, 65537, MIB - 1, MIB, MIB + 1):
        access.write_file(b"file", noise(size))
        assert access.read_file(b"file") == noise(size)


@behaviour()
def noise_of_several_mebibytes_works(access: Access) -> None:
    data = noise(5 * MIB + 3)
    access.write_file(b"file", data)
    assert access.read_file(b"file") == data


@behaviour()
def repeated_bytes_of_several_mebibytes_work(access: Access) -> None:
    data = b"the same again; " * (5 * MIB // 16)
    access.write_file(b"file", data)
    assert access.read_file(b"file") == data


@behaviour()
def zeros_of_several_mebibytes_work(access: Access) -> None:
    access.write_file(b"file", bytes(3 * MIB))
    assert access.read_file(b"file") == bytes(3 * MIB)


@behaviour()
def equal_contents_of_two_files_are_apart(access: Access) -> None:
    for name in (b"one", b"two"):
        access.write_file(name, noise(MIB))
    access.write_file(b"one", b"changed")
    assert access.read_file(b"two") == noise(MIB)


@behaviour()
def a_range_is_read(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    assert access.read_range(b"file", 3, 4) == b"3456"


@behaviour()
def a_range_over_the_end_is_short(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    assert access.read_range(b"file", 8, 100) == b"89"


@behaviour()
def ranges_of_a_large_file_are_right(access: Access) -> None:
    data = noise(4 * MIB)
    access.write_file(b"file", data)
    for offset, length in ((0, 1), (MIB - 1, 2), (1234567, 765432), (4 * MIB - 5, 5), (2 * MIB, 2 * MIB)):
        assert access.read_range(b"file", offset, length) == data[offset : offset + length]


@behaviour()
def a_new_content_replaces_the_old(access: Access) -> None:
    access.write_file(b"file", b"the first content")
    access.write_file(b"file", b"second")
    assert access.read_file(b"file") == b"second"
    assert access.status(b"file").size == 6
    assert access.listdir(b"") == [b"file"]


@behaviour()
def a_content_becomes_empty(access: Access) -> None:
    access.write_file(b"file", b"content")
    access.write_file(b"file", b"")
    assert access.read_file(b"file") == b""


@behaviour(Ability.TIMES)
def a_new_content_moves_the_modification_time(access: Access) -> None:
    access.write_file(b"file", b"one")
    access.set_attributes(b"file", AttributeChange(mtime=10**9))
    access.write_file(b"file", b"two")
    assert access.status(b"file").mtime > 10**9


@behaviour(Ability.MODES)
def a_new_content_keeps_the_mode(access: Access) -> None:
    access.write_file(b"file", b"one")
    access.set_attributes(b"file", AttributeChange(mode=0o600))
    access.write_file(b"file", b"two")
    assert access.status(b"file").mode == 0o600


@behaviour(Ability.HARD_LINKS)
def a_new_content_shows_under_all_names(access: Access) -> None:
    access.write_file(b"one", b"before")
    access.link(b"one", b"two")
    access.write_file(b"one", b"after")
    assert access.read_file(b"two") == b"after"


@behaviour()
def a_folder_takes_no_content(access: Access) -> None:
    access.mkdir(b"folder")
    with refused(IsADirectory):
        access.write_file(b"folder", b"content")
    assert access.status(b"folder").kind == Kind.DIRECTORY


@behaviour()
def an_unknown_file_is_not_read(access: Access) -> None:
    with refused(NotFound):
        access.read_file(b"nothing")


@behaviour(Ability.TRUNCATE)
def truncating_cuts(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    access.set_attributes(b"file", AttributeChange(size=4))
    assert access.read_file(b"file") == b"0123"


@behaviour(Ability.TRUNCATE)
def truncating_extends_with_zeros(access: Access) -> None:
    access.write_file(b"file", b"0123")
    access.set_attributes(b"file", AttributeChange(size=8))
    assert access.read_file(b"file") == b"0123\0\0\0\0"


@behaviour(Ability.TRUNCATE)
def what_was_cut_does_not_come_back(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    for size in (4, 8):
        access.set_attributes(b"file", AttributeChange(size=size))
    assert access.read_file(b"file") == b"0123\0\0\0\0"


@behaviour(Ability.TRUNCATE)
def truncating_inside_a_large_file_works(access: Access) -> None:
    data = noise(3 * MIB)
    access.write_file(b"file", data)
    access.set_attributes(b"file", AttributeChange(size=MIB + 12345))
    assert access.read_file(b"file") == data[: MIB + 12345]


@behaviour(Ability.TRUNCATE)
def truncating_a_folder_is_refused(access: Access) -> None:
    access.mkdir(b"folder")
    with refused(IsADirectory):
        access.set_attributes(b"folder", AttributeChange(size=0))


@behaviour(Ability.TRUNCATE)
def a_negative_size_is_refused(access: Access) -> None:
    access.write_file(b"file", b"kept")
    with refused(InvalidArgument):
        access.set_attributes(b"file", AttributeChange(size=-1))
    assert access.read_file(b"file") == b"kept"


@behaviour(Ability.TRUNCATE, Ability.TIMES)
def truncating_moves_the_modification_time(access: Access) -> None:
    access.write_file(b"file", b"content")
    access.set_attributes(b"file", AttributeChange(mtime=10**9))
    access.set_attributes(b"file", AttributeChange(size=3))
    assert access.status(b"file").mtime > 10**9


@behaviour(Ability.TRUNCATE, Ability.HUGE_FILES)
def a_huge_hole_costs_nothing(access: Access) -> None:
    access.write_file(b"file", b"start")
    access.set_attributes(b"file", AttributeChange(size=HUGE))
    assert access.status(b"file").size == HUGE
    assert access.read_range(b"file", 0, 7) == b"start\0\0"
    assert access.read_range(b"file", HUGE - 3, 10) == b"\0\0\0"
    assert access.read_range(b"file", HUGE // 2, 10) == bytes(10)


@behaviour(Ability.TRUNCATE, Ability.HUGE_FILES)
def a_huge_hole_is_cut_again(access: Access) -> None:
    access.write_file(b"file", b"start")
    for size in (HUGE, 5):
        access.set_attributes(b"file", AttributeChange(size=size))
    assert access.read_file(b"file") == b"start"


@behaviour(Ability.TAGS)
def equal_contents_have_equal_tags(access: Access) -> None:
    for name in (b"one", b"two"):
        access.write_file(name, noise(MIB))
    assert access.tag(b"one") == access.tag(b"two") != b""


@behaviour(Ability.TAGS)
def different_contents_have_different_tags(access: Access) -> None:
    contents = [b"", b"a", b"b", b"aa", bytes(1), bytes(2), noise(MIB), noise(MIB)[:-1] + b"x"]
    tags = set()
    for data in contents:
        access.write_file(b"file", data)
        tags.add(access.tag(b"file"))
    assert len(tags) == len(contents)


@behaviour(Ability.TAGS)
def a_tag_comes_back_with_its_content(access: Access) -> None:
    access.write_file(b"file", b"one")
    tag = access.tag(b"file")
    access.write_file(b"file", b"two")
    access.write_file(b"file", b"one")
    assert access.tag(b"file") == tag


@behaviour(Ability.TAGS)
def a_rename_keeps_the_tag(access: Access) -> None:
    access.write_file(b"old", b"content")
    tag = access.tag(b"old")
    access.rename(b"old", b"new")
    assert access.tag(b"new") == tag


@behaviour(Ability.TAGS)
def a_replacement_on_the_right_tag_works(access: Access) -> None:
    access.write_file(b"file", b"before")
    access.replace_if(b"file", access.tag(b"file"), b"after")
    assert access.read_file(b"file") == b"after"


@behaviour(Ability.TAGS)
def a_replacement_on_an_old_tag_is_refused(access: Access) -> None:
    access.write_file(b"file", b"before")
    tag = access.tag(b"file")
    access.write_file(b"file", b"meanwhile")
    with refused(FileSystemError):
        access.replace_if(b"file", tag, b"after")
    assert access.read_file(b"file") == b"meanwhile"
