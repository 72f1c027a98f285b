"""Names that are not UTF-8, and names that Unicode can spell in two ways."""

import unicodedata

from tests.fs.access import Ability, Access, refused
from tests.fs.registry import behaviour
from tgdav.errors import NotFound

NFC = unicodedata.normalize("NFC", "é").encode()
NFD = unicodedata.normalize("NFD", "é").encode()


@behaviour(Ability.RAW_NAMES)
def names_need_not_be_unicode(access: Access) -> None:
    access.write_file(b"\xff\xfe", b"raw")
    assert access.listdir(b"") == [b"\xff\xfe"]
    assert access.read_file(b"\xff\xfe") == b"raw"


@behaviour(Ability.EXACT_NAMES)
def composed_and_decomposed_names_are_two(access: Access) -> None:
    access.write_file(NFC, b"composed")
    access.write_file(NFD, b"decomposed")
    assert access.listdir(b"") == sorted([NFC, NFD])
    assert (access.read_file(NFC), access.read_file(NFD)) == (b"composed", b"decomposed")


@behaviour(Ability.EXACT_NAMES)
def a_decomposed_name_does_not_find_a_composed_one(access: Access) -> None:
    access.write_file(NFC, b"")
    with refused(NotFound):
        access.status(NFD)


@behaviour(Ability.NORMALIZED_NAMES)
def a_decomposed_name_finds_a_composed_one(access: Access) -> None:
    access.write_file(NFC, b"composed")
    assert access.read_file(NFD) == b"composed"


@behaviour(Ability.NORMALIZED_NAMES)
def a_composed_name_finds_a_decomposed_one(access: Access) -> None:
    access.write_file(NFD, b"decomposed")
    assert access.read_file(NFC) == b"decomposed"


@behaviour(Ability.NORMALIZED_NAMES)
def writing_to_a_decomposed_name_keeps_the_composed_one(access: Access) -> None:
    access.write_file(NFC, b"before")
    access.write_file(NFD, b"after")
    assert access.listdir(b"") == [NFC]
    assert access.read_file(NFC) == b"after"


@behaviour(Ability.NORMALIZED_NAMES)
def folders_are_found_by_decomposed_names(access: Access) -> None:
    access.mkdir(NFC)
    access.write_file(NFD + b"/file", b"inside")
    assert access.read_file(NFC + b"/file") == b"inside"
