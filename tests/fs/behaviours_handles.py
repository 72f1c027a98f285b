"""Open files: reads and writes anywhere, holes, files without a name."""

from contextlib import closing

from tests.fs.access import Ability, Access, refused
from tests.fs.behaviours_content import HUGE, MIB, noise
from tests.fs.registry import behaviour
from tgdav.errors import BadHandle, InvalidArgument, IsADirectory, NotFound
from tgdav.fs.api import RenameFlag


@behaviour(Ability.HANDLES)
def a_handle_reads(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    with closing(access.open(b"file")) as handle:
        assert handle.read(0, 4) == b"0123"
        assert handle.read(8, 4) == b"89"
        assert handle.read(10, 4) == b""
        assert handle.read(100, 4) == b""


@behaviour(Ability.HANDLES)
def a_write_changes_only_its_range(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    with closing(access.open(b"file", writable=True)) as handle:
        assert handle.write(3, b"abc") == 3
    assert access.read_file(b"file") == b"012abc6789"


@behaviour(Ability.HANDLES)
def a_write_shows_at_once_in_its_handle(access: Access) -> None:
    access.write_file(b"file", b"before")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(0, b"AFTER!")
        assert handle.read(0, 100) == b"AFTER!"


@behaviour(Ability.HANDLES)
def a_write_shows_at_once_in_another_handle(access: Access) -> None:
    access.write_file(b"file", b"before")
    with closing(access.open(b"file", writable=True)) as writer, closing(access.open(b"file")) as reader:
        writer.write(6, b" and after")
        assert reader.read(0, 100) == b"before and after"
        assert reader.status().size == 16


@behaviour(Ability.HANDLES)
def two_writers_see_each_other(access: Access) -> None:
    access.write_file(b"file", b"")
    with closing(access.open(b"file", writable=True)) as one, closing(access.open(b"file", writable=True)) as two:
        one.write(0, b"11111111")
        two.write(2, b"2222")
        one.write(3, b"33")
    assert access.read_file(b"file") == b"11233211"


@behaviour(Ability.HANDLES)
def a_write_past_the_end_leaves_a_hole(access: Access) -> None:
    access.write_file(b"file", b"start")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(10, b"end")
    assert access.read_file(b"file") == b"start\0\0\0\0\0end"


@behaviour(Ability.HANDLES, Ability.HUGE_FILES)
def a_write_far_away_leaves_a_huge_hole(access: Access) -> None:
    access.write_file(b"file", b"start")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(HUGE, b"end")
    assert access.status(b"file").size == HUGE + 3
    assert access.read_range(b"file", HUGE - 2, 10) == b"\0\0end"
    assert access.read_range(b"file", HUGE // 2, 4) == bytes(4)


@behaviour(Ability.HANDLES)
def an_append_goes_to_the_end(access: Access) -> None:
    access.write_file(b"file", b"one")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.append(b" two")
        handle.append(b" three")
    assert access.read_file(b"file") == b"one two three"


@behaviour(Ability.HANDLES)
def appends_of_two_handles_follow_each_other(access: Access) -> None:
    access.write_file(b"file", b"")
    with closing(access.open(b"file", writable=True)) as one, closing(access.open(b"file", writable=True)) as two:
        one.append(b"one ")
        two.append(b"two ")
        one.append(b"three")
    assert access.read_file(b"file") == b"one two three"


@behaviour(Ability.HANDLES)
def many_small_writes_add_up(access: Access) -> None:
    data = noise(64 * 1024)
    access.write_file(b"file", b"")
    with closing(access.open(b"file", writable=True)) as handle:
        for offset in range(0, len(data), 1000):
            handle.write(offset, data[offset : offset + 1000])
    assert access.read_file(b"file") == data


@behaviour(Ability.HANDLES)
def writes_in_any_order_add_up(access: Access) -> None:
    data = noise(2 * MIB)
    offsets = [number * 7919 % 128 * 16384 for number in range(128)]
    access.write_file(b"file", b"")
    with closing(access.open(b"file", writable=True)) as handle:
        for offset in offsets:
            handle.write(offset, data[offset : offset + 16384])
    assert access.read_file(b"file") == data


@behaviour(Ability.HANDLES)
def the_last_of_overlapping_writes_counts(access: Access) -> None:
    access.write_file(b"file", bytes(100))
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(10, b"a" * 50)
        handle.write(30, b"b" * 50)
        handle.write(20, b"c" * 5)
    assert access.read_file(b"file") == bytes(10) + b"a" * 10 + b"c" * 5 + b"a" * 5 + b"b" * 50 + bytes(20)


@behaviour(Ability.HANDLES)
def a_change_inside_a_large_file_keeps_the_rest(access: Access) -> None:
    data = noise(6 * MIB)
    access.write_file(b"file", data)
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(3 * MIB + 17, b"changed")
    assert access.read_file(b"file") == data[: 3 * MIB + 17] + b"changed" + data[3 * MIB + 24 :]


@behaviour(Ability.HANDLES)
def an_empty_write_changes_nothing(access: Access) -> None:
    access.write_file(b"file", b"content")
    with closing(access.open(b"file", writable=True)) as handle:
        assert handle.write(100, b"") == 0
    assert access.read_file(b"file") == b"content"


@behaviour(Ability.HANDLES)
def a_handle_truncates(access: Access) -> None:
    access.write_file(b"file", b"0123456789")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.truncate(3)
        handle.truncate(6)
        handle.write(8, b"x")
        assert handle.read(0, 100) == b"012\0\0\0\0\0x"
    assert access.read_file(b"file") == b"012\0\0\0\0\0x"


@behaviour(Ability.HANDLES)
def opening_can_truncate(access: Access) -> None:
    access.write_file(b"file", b"before")
    with closing(access.open(b"file", writable=True, truncate=True)) as handle:
        assert handle.read(0, 10) == b""
        handle.write(0, b"new")
    assert access.read_file(b"file") == b"new"


@behaviour(Ability.HANDLES)
def synced_writes_go_on(access: Access) -> None:
    access.write_file(b"file", b"")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(0, b"one")
        handle.fsync()
        handle.write(3, b"two")
        handle.fsync()
        assert handle.read(0, 10) == b"onetwo"
    assert access.read_file(b"file") == b"onetwo"


@behaviour(Ability.HANDLES)
def writes_show_by_path_before_the_close(access: Access) -> None:
    access.write_file(b"file", b"before")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(0, b"after, longer")
        assert access.status(b"file").size == 13
        assert access.read_file(b"file") == b"after, longer"


@behaviour(Ability.HANDLES)
def a_handle_for_reading_refuses_writes(access: Access) -> None:
    access.write_file(b"file", b"kept")
    with closing(access.open(b"file")) as handle:
        with refused(BadHandle):
            handle.write(0, b"x")
        with refused(BadHandle, InvalidArgument):
            handle.truncate(0)
    assert access.read_file(b"file") == b"kept"


@behaviour(Ability.HANDLES)
def a_closed_handle_is_refused(access: Access) -> None:
    access.write_file(b"file", b"content")
    handle = access.open(b"file", writable=True)
    handle.close()
    with refused(BadHandle):
        handle.read(0, 1)
    with refused(BadHandle):
        handle.write(0, b"x")


@behaviour(Ability.HANDLES)
def closing_twice_does_nothing(access: Access) -> None:
    access.write_file(b"file", b"content")
    handle = access.open(b"file", writable=True)
    handle.close()
    handle.close()
    assert access.read_file(b"file") == b"content"


@behaviour(Ability.HANDLES)
def a_negative_offset_is_refused(access: Access) -> None:
    access.write_file(b"file", b"kept")
    with closing(access.open(b"file", writable=True)) as handle, refused(InvalidArgument):
        handle.write(-1, b"x")


@behaviour(Ability.HANDLES)
def a_folder_is_not_opened_for_writing(access: Access) -> None:
    access.mkdir(b"folder")
    with refused(IsADirectory):
        access.open(b"folder", writable=True)


@behaviour(Ability.HANDLES)
def an_unknown_file_is_not_opened(access: Access) -> None:
    with refused(NotFound):
        access.open(b"nothing")


@behaviour(Ability.HANDLES)
def an_unlinked_file_stays_open(access: Access) -> None:
    access.write_file(b"file", b"content")
    with closing(access.open(b"file", writable=True)) as handle:
        access.unlink(b"file")
        handle.write(7, b", still here")
        assert handle.read(0, 100) == b"content, still here"
        assert handle.status().nlink == 0
        assert access.listdir(b"") == []


@behaviour(Ability.HANDLES)
def a_replaced_file_stays_open(access: Access) -> None:
    access.write_file(b"old", b"new content")
    access.write_file(b"file", b"old content")
    with closing(access.open(b"file")) as handle:
        access.rename(b"old", b"file")
        assert handle.read(0, 100) == b"old content"
    assert access.read_file(b"file") == b"new content"


@behaviour(Ability.HANDLES)
def an_unlinked_file_does_not_come_back(access: Access) -> None:
    access.write_file(b"file", b"content")
    handle = access.open(b"file", writable=True)
    access.unlink(b"file")
    access.write_file(b"file", b"another")
    handle.write(0, b"CONTENT")
    handle.close()
    assert access.read_file(b"file") == b"another"


@behaviour(Ability.HANDLES)
def a_handle_follows_a_rename(access: Access) -> None:
    access.write_file(b"old", b"content")
    with closing(access.open(b"old", writable=True)) as handle:
        access.rename(b"old", b"new")
        handle.write(0, b"CON")
    assert access.read_file(b"new") == b"CONtent"


@behaviour(Ability.HANDLES, Ability.EXCHANGE)
def a_handle_follows_an_exchange(access: Access) -> None:
    access.write_file(b"one", b"1")
    access.write_file(b"two", b"2")
    with closing(access.open(b"one", writable=True)) as handle:
        access.rename(b"one", b"two", RenameFlag.EXCHANGE)
        handle.append(b"!")
    assert (access.read_file(b"one"), access.read_file(b"two")) == (b"2", b"1!")


@behaviour(Ability.HANDLES, Ability.HARD_LINKS)
def writes_show_under_all_names(access: Access) -> None:
    access.write_file(b"one", b"content")
    access.link(b"one", b"two")
    with closing(access.open(b"one", writable=True)) as handle:
        handle.write(0, b"CON")
    assert access.read_file(b"two") == b"CONtent"


@behaviour(Ability.HANDLES, Ability.TAGS)
def a_closed_change_has_a_new_tag(access: Access) -> None:
    access.write_file(b"file", b"before")
    before = access.tag(b"file")
    with closing(access.open(b"file", writable=True)) as handle:
        handle.write(0, b"B")
    assert access.tag(b"file") != before
