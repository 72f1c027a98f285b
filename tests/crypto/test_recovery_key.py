"""The recovery key survives paper and typing: any single mistake is found, and its group named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.crypto.recovery_key import (
    RecoveryKey,
    format_recovery_key,
    new_recovery_key,
    parse_recovery_key,
)
from tgdav.errors import AccessError

from .seeded import SeededEntropy

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
KEYS = st.binary(min_size=32, max_size=32).map(RecoveryKey)
KEY = new_recovery_key(SeededEntropy(5))
TEXT = format_recovery_key(KEY)


@given(KEYS)
def test_roundtrip(key: RecoveryKey):
    text = format_recovery_key(key)
    assert [len(group) for group in text.split("-")] == [5] * 14
    assert parse_recovery_key(text) == key


@given(KEYS)
def test_case_spaces_and_similar_characters_do_not_matter(key: RecoveryKey):
    text = format_recovery_key(key)
    assert parse_recovery_key(f"  {text.lower().replace('-', ' ')}\n") == key
    assert parse_recovery_key(text.replace("-", "")) == key
    assert parse_recovery_key(text.replace("0", "O").replace("1", "I")) == key
    assert parse_recovery_key(text.replace("0", "o").replace("1", "l")) == key


def test_every_single_wrong_character_is_found_in_its_group():
    for place, right in enumerate(TEXT):
        for wrong in ALPHABET if right != "-" else "":
            if wrong == right:
                continue
            with pytest.raises(AccessError, match=rf"^group {place // 6 + 1} of"):
                parse_recovery_key(TEXT[:place] + wrong + TEXT[place + 1 :])


def test_every_exchange_of_neighbours_is_found_in_its_group():
    for place in range(len(TEXT) - 1):
        one, two = TEXT[place], TEXT[place + 1]
        if one == two or "-" in (one, two):
            continue
        with pytest.raises(AccessError, match=rf"^group {place // 6 + 1} of"):
            parse_recovery_key(TEXT[:place] + two + one + TEXT[place + 2 :])


def test_exchanged_groups_are_found():
    groups = TEXT.split("-")
    for one in range(14):
        for other in range(one):
            swapped = list(groups)
            swapped[one], swapped[other] = groups[other], groups[one]
            with pytest.raises(AccessError, match=f"group {other + 1} "):
                parse_recovery_key("-".join(swapped))


def test_a_short_group_is_named():
    groups = TEXT.split("-")
    groups[6] = groups[6][:-1]
    with pytest.raises(AccessError, match="group 7 "):
        parse_recovery_key("-".join(groups))


def test_groups_of_two_keys_do_not_mix():
    other = format_recovery_key(new_recovery_key(SeededEntropy(6)))
    with pytest.raises(AccessError, match="more than one error"):
        parse_recovery_key(TEXT[:6] + other[6:])


def test_spare_bits_must_be_zero():
    from tgdav.crypto import recovery_key

    values = [recovery_key._VALUES[character] for character in TEXT.split("-")[12][:4]]
    values[-1] |= 1
    groups = TEXT.split("-")
    groups[12] = recovery_key._format_group(13, values)
    with pytest.raises(AccessError, match="group 13 "):
        parse_recovery_key("-".join(groups))


@given(st.one_of(st.text(max_size=120), st.text(ALPHABET + "-", min_size=70, max_size=70)))
def test_garbage_raises_access_and_nothing_else(text: str):
    with pytest.raises(AccessError):
        parse_recovery_key(text)


def test_nothing_shows_the_key():
    with pytest.raises(AccessError) as raised:
        parse_recovery_key(TEXT[:-1] + ("0" if TEXT[-1] != "0" else "2"))
    shown = str(raised.value) + repr(KEY) + str(KEY)
    assert not any(group in shown for group in TEXT.split("-"))
    assert KEY.key.hex() not in shown
