"""The recovery key on paper: 256 bits as 14 groups of five characters in Crockford's base32.

Groups 1 to 13 consist of four characters of the key and a check character each; group 14 of 20 bits of a hash of the whole
key and a check character. The check character is a polynomial over GF(32) that includes the group's position: it detects,
in the group itself, any single wrong character, any transposition of neighbours and any misplaced group. Source of the alphabet: https://www.crockford.com/base32.html
"""

from dataclasses import dataclass, field

from blake3 import blake3

from tgdav.crypto.derivation import KEY_BYTES
from tgdav.entropy import Entropy
from tgdav.errors import AccessError

GROUPS = 14
GROUP_CHARACTERS = 5

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_VALUES |= {character.lower(): value for character, value in _VALUES.items()}
_VALUES |= {"O": 0, "o": 0, "I": 1, "i": 1, "L": 1, "l": 1}
_KEY_VALUES = 52
_SPARE_BITS = _KEY_VALUES * 5 - KEY_BYTES * 8
_CHECK_CONTEXT = "tgdav v1 recovery key check"


@dataclass(frozen=True)
class RecoveryKey:
    """A recovery key of 256 random bits. ``repr`` hides it."""

    key: bytes = field(repr=False)


def new_recovery_key(entropy: Entropy) -> RecoveryKey:
    """Return a new recovery key."""
    return RecoveryKey(entropy.bytes(KEY_BYTES))


def format_recovery_key(recovery: RecoveryKey) -> str:
    """Return the 83 characters to print: 14 groups of five, joined by hyphens."""
    values = _split(int.from_bytes(recovery.key, "big") << _SPARE_BITS, _KEY_VALUES) + _key_check(recovery.key)
    groups = [values[start : start + 4] for start in range(0, len(values), 4)]
    return "-".join(_format_group(position, group) for position, group in enumerate(groups, start=1))


def parse_recovery_key(text: str) -> RecoveryKey:
    """Return the key in ``text``. Case, spaces and hyphens are ignored; O is read as 0, I and L as 1.

    Raises ``AccessError`` that names the wrong group; its message contains nothing of the key.
    """
    values = [value for position, group in enumerate(_groups(text), start=1) for value in _read_group(position, group)]
    number = 0
    for value in values[:_KEY_VALUES]:
        number = number << 5 | value
    if number % (1 << _SPARE_BITS):
        raise _wrong_group(GROUPS - 1)
    key = (number >> _SPARE_BITS).to_bytes(KEY_BYTES, "big")
    if values[_KEY_VALUES:] != _key_check(key):
        raise AccessError("the recovery key has more than one error")
    return RecoveryKey(key)


def _groups(text: str) -> list[str]:
    parts = text.replace("-", " ").split()
    characters = "".join(parts)
    if len(characters) == GROUPS * GROUP_CHARACTERS:
        return [characters[start : start + GROUP_CHARACTERS] for start in range(0, len(characters), GROUP_CHARACTERS)]
    if len(parts) == GROUPS:
        raise _wrong_group(next(at for at, part in enumerate(parts, start=1) if len(part) != GROUP_CHARACTERS))
    raise AccessError(f"a recovery key has {GROUPS} groups of {GROUP_CHARACTERS} characters")


def _read_group(position: int, group: str) -> list[int]:
    values = [_VALUES.get(character, -1) for character in group]
    if -1 in values or _check_value(position, values[:-1]) != values[-1]:
        raise _wrong_group(position)
    return values[:-1]


def _format_group(position: int, values: list[int]) -> str:
    return "".join(_ALPHABET[value] for value in [*values, _check_value(position, values)])


def _check_value(position: int, values: list[int]) -> int:
    """Evaluate position, values… as a polynomial at x in GF(32) = GF(2)[x] / (x^5 + x^2 + 1)."""
    check = position
    for value in values:
        check = _times_x(check) ^ value
    return _times_x(check)


def _times_x(value: int) -> int:
    return value << 1 ^ (0b100101 if value & 0b10000 else 0)


def _key_check(key: bytes) -> list[int]:
    digest = blake3(key, derive_key_context=_CHECK_CONTEXT).digest(3)
    return _split(int.from_bytes(digest, "big") >> 4, 4)


def _split(number: int, count: int) -> list[int]:
    return [number >> 5 * (count - 1 - place) & 31 for place in range(count)]


def _wrong_group(position: int) -> AccessError:
    return AccessError(f"group {position} of the recovery key is wrong")
