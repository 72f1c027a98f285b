"""Opening headers: the right secret, in few Argon2 runs, and nothing else."""

import msgspec
import pytest
from argon2.exceptions import HashingError

from tgdav.crypto import header as header_module
from tgdav.crypto import passphrase as passphrase_module
from tgdav.crypto import slots as slots_module
from tgdav.crypto.header import (
    Header,
    decode,
    encode,
    families,
    make_header,
    superseded,
    try_headers,
    unlock,
    with_passphrase,
    with_recovery_key,
)
from tgdav.crypto.passphrase import Argon2Limits, Argon2Parameters, Passphrase, stretch
from tgdav.crypto.recovery_key import RecoveryKey, new_recovery_key
from tgdav.crypto.slots import SlotKind
from tgdav.errors import AccessError, DamageError, UsageError
from tgdav.ids import VaultId

from .conftest import CHEAP, PASSPHRASE, Vault
from .seeded import SeededEntropy

NEW = Passphrase("a new passphrase")
WRONG = Passphrase("wrong")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Argon2Parameters]:
    """The Argon2 runs made, in order."""
    made: list[Argon2Parameters] = []

    def counted(passphrase: Passphrase, salt: bytes, parameters: Argon2Parameters, limits: Argon2Limits) -> bytes:
        key = stretch(passphrase, salt, parameters, limits)
        made.append(parameters)
        return key

    monkeypatch.setattr(slots_module, "stretch", counted)
    return made


def replace_slot(header: Header, at: int, **changes: object) -> Header:
    slots = list(header.slots)
    slots[at] = msgspec.structs.replace(slots[at], **changes)
    return msgspec.structs.replace(header, slots=tuple(slots))


def headers_of_generations(vault: Vault, count: int) -> list[Header]:
    headers = [vault.header]
    for number in range(2, count + 1):
        phrase = Passphrase(f"passphrase {number}")
        headers.append(with_passphrase(headers[-1], vault.master, phrase, SeededEntropy(number), CHEAP))
    return headers


def test_both_secrets_open(vault: Vault):
    header = decode(encode(vault.header))
    assert unlock(header, PASSPHRASE) == vault.master
    assert unlock(header, vault.recovery) == vault.master


def test_wrong_secrets_do_not_open(vault: Vault, runs: list[Argon2Parameters]):
    with pytest.raises(AccessError, match=r"^wrong passphrase$"):
        unlock(vault.header, WRONG)
    assert len(runs) == 1
    with pytest.raises(AccessError, match=r"^wrong recovery key$"):
        unlock(vault.header, new_recovery_key(SeededEntropy(8)))
    assert len(runs) == 1


def test_passphrases_are_one_in_every_normal_form(vault: Vault):
    header = with_passphrase(vault.header, vault.master, Passphrase("caf\u00e9"), SeededEntropy(4), CHEAP)
    assert unlock(header, Passphrase("cafe\u0301")) == vault.master


def test_any_text_can_be_a_passphrase(vault: Vault):
    odd = Passphrase("\udcff\ud800 \0 \U0001f600")
    header = with_passphrase(vault.header, vault.master, odd, SeededEntropy(4), CHEAP)
    assert unlock(header, odd) == vault.master


@pytest.mark.parametrize(
    "parameters",
    [
        Argon2Parameters(1024 * 1024 + 1, 1, 1),
        Argon2Parameters(2**32 - 1, 1, 1),
        Argon2Parameters(1024, 17, 1),
        Argon2Parameters(1024, 2**32 - 1, 1),
        Argon2Parameters(1024, 1, 17),
        Argon2Parameters(1023, 1, 1),
        Argon2Parameters(1024, 0, 1),
        Argon2Parameters(1024, 1, 0),
        Argon2Parameters(0, 0, 0),
    ],
)
def test_forged_parameters_are_refused_before_any_work(
    vault: Vault, runs: list[Argon2Parameters], parameters: Argon2Parameters
):
    forged = decode(encode(replace_slot(vault.header, 0, parameters=parameters)))
    with pytest.raises(DamageError, match="outside the allowed range"):
        unlock(forged, PASSPHRASE)
    with pytest.raises(DamageError, match="outside the allowed range"):
        try_headers([forged], PASSPHRASE)
    assert not runs
    assert unlock(vault.header, PASSPHRASE) == try_headers([forged, vault.header], PASSPHRASE)[0]
    with pytest.raises(UsageError):
        with_passphrase(vault.header, vault.master, NEW, SeededEntropy(1), parameters)


def test_changed_parameters_within_the_bounds_do_not_open(vault: Vault):
    with pytest.raises(AccessError):
        unlock(replace_slot(vault.header, 0, parameters=Argon2Parameters(2048, 1, 1)), PASSPHRASE)


def test_a_header_is_bound_to_its_vault(vault: Vault):
    moved = msgspec.structs.replace(vault.header, vault=VaultId(b"another vault id"))
    with pytest.raises(AccessError):
        unlock(moved, vault.recovery)


def test_spliced_slots_of_two_headers_are_detected(vault: Vault):
    newer = with_recovery_key(vault.header, vault.master, new_recovery_key(SeededEntropy(8)), SeededEntropy(9))
    spliced = decode(encode(msgspec.structs.replace(newer, slots=(newer.slots[0], vault.header.slots[1]))))
    with pytest.raises(DamageError, match="not made by"):
        unlock(spliced, PASSPHRASE)
    with pytest.raises(DamageError, match="not made by"):
        try_headers([spliced], PASSPHRASE)
    assert try_headers([spliced, newer, vault.header], PASSPHRASE) == (vault.master, newer)


def test_a_new_passphrase_takes_the_next_generation(vault: Vault):
    newer = with_passphrase(vault.header, vault.master, NEW, SeededEntropy(9), CHEAP)
    assert [slot.generation for slot in newer.slots] == [2, 1]
    assert newer.slot(SlotKind.RECOVERY_KEY) == vault.header.slot(SlotKind.RECOVERY_KEY)
    assert unlock(newer, NEW) == unlock(newer, vault.recovery) == vault.master
    with pytest.raises(AccessError):
        unlock(newer, PASSPHRASE)


def test_a_new_recovery_key_takes_the_next_generation(vault: Vault):
    fresh = new_recovery_key(SeededEntropy(8))
    newer = with_recovery_key(vault.header, vault.master, fresh, SeededEntropy(9))
    assert [slot.generation for slot in newer.slots] == [1, 2]
    assert unlock(newer, fresh) == unlock(newer, PASSPHRASE) == vault.master
    with pytest.raises(AccessError):
        unlock(newer, vault.recovery)


def test_newest_generation_is_tried_first(vault: Vault, runs: list[Argon2Parameters]):
    headers = headers_of_generations(vault, 4)
    runs.clear()
    assert try_headers(headers, Passphrase("passphrase 4")) == (vault.master, headers[3])
    assert len(runs) == 1
    assert try_headers(headers, PASSPHRASE) == (vault.master, headers[0])
    assert len(runs) == 5


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a dozen of these cheap runs cost what a dozen real ones do."""
    monkeypatch.setattr(header_module, "MAX_ARGON2_WORK", 12 * CHEAP.work)


def planted(vault: Vault, seed: int, generation: int, parameters: Argon2Parameters) -> Header:
    """A header that somebody without the master key wrote: well-formed, and it opens with nothing."""
    entropy = SeededEntropy(seed)
    slot = vault.header.slots[0]
    forged = msgspec.structs.replace(
        slot,
        generation=generation,
        salt=entropy.bytes(32),
        parameters=parameters,
        sealed_master=b"\1" + entropy.bytes(60),
    )
    return Header(VaultId(entropy.bytes(16)), (forged,), entropy.bytes(32), entropy.bytes(32))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("copies", [1, 3])
def test_planted_headers_do_not_keep_the_right_passphrase_out(vault: Vault, runs: list[Argon2Parameters], copies: int):
    forged = [planted(vault, seed, 2**62, CHEAP) for seed in range(8)]
    headers = forged * copies + [vault.header, vault.header]
    assert try_headers(headers, PASSPHRASE) == (vault.master, vault.header)
    assert len(runs) <= 9


@pytest.mark.usefixtures("bounded")
def test_planted_headers_that_are_cheap_do_not_either(vault: Vault, runs: list[Argon2Parameters]):
    """A vault's own header has a copy."""
    headers = [planted(vault, seed, 2**62, CHEAP) for seed in range(30)]
    assert try_headers([*headers, vault.header, vault.header], PASSPHRASE) == (vault.master, vault.header)
    assert len(runs) == 1


@pytest.mark.usefixtures("bounded")
def test_the_work_is_bounded_whatever_a_store_shows(vault: Vault, runs: list[Argon2Parameters]):
    headers = [planted(vault, seed, 2**62, CHEAP) for seed in range(20)]
    with pytest.raises(AccessError, match=r"opens none .* tried; 8 more in the store were not"):
        try_headers(headers, PASSPHRASE)
    assert sum(each.work for each in runs) == 12 * CHEAP.work


def test_the_bound_is_a_dozen_runs_as_a_vault_is_made_with():
    assert header_module.MAX_ARGON2_WORK == 12 * Argon2Parameters().work == 12 * 65536 * 3


def test_one_run_may_cost_more_than_all_the_work(vault: Vault, monkeypatch: pytest.MonkeyPatch):
    """The owner may have chosen it."""
    monkeypatch.setattr(header_module, "MAX_ARGON2_WORK", 100)
    assert try_headers([vault.header], PASSPHRASE) == (vault.master, vault.header)


def test_unrelated_headers_are_reported(vault: Vault):
    headers = [*headers_of_generations(vault, 3), planted(vault, 1, 1, CHEAP), planted(vault, 2, 1, CHEAP)]
    assert families(headers) == 3
    with pytest.raises(AccessError, match="3 unrelated vault headers are in the store"):
        try_headers(headers, WRONG)
    with pytest.raises(AccessError, match=r"^wrong passphrase$"):
        try_headers(headers[:3], WRONG)


def test_headers_belong_together_over_one_that_shares_a_slot_with_both(vault: Vault):
    other = with_passphrase(vault.header, vault.master, NEW, SeededEntropy(9), CHEAP)
    third = with_recovery_key(other, vault.master, new_recovery_key(SeededEntropy(8)), SeededEntropy(7))
    assert families([vault.header, third]) == 2
    assert families([vault.header, third, other]) == families([third, vault.header, other]) == 1


def test_a_forged_copy_of_a_slot_does_not_hide_the_others(vault: Vault):
    spliced = msgspec.structs.replace(vault.header, slots=vault.header.slots[:1])
    older = with_passphrase(vault.header, vault.master, NEW, SeededEntropy(9), CHEAP)
    again = with_passphrase(older, vault.master, PASSPHRASE, SeededEntropy(10), CHEAP)
    assert try_headers([spliced, spliced, again], PASSPHRASE) == (vault.master, again)


def test_equal_slots_are_tried_once(vault: Vault, runs: list[Argon2Parameters]):
    newer = with_recovery_key(vault.header, vault.master, new_recovery_key(SeededEntropy(8)), SeededEntropy(9))
    runs.clear()
    with pytest.raises(AccessError):
        try_headers([vault.header, newer, vault.header, newer], WRONG)
    assert len(runs) == 1
    assert try_headers([vault.header, newer], PASSPHRASE)[1] == newer
    assert try_headers([newer, vault.header], PASSPHRASE)[1] == newer


def test_recovery_key_over_many_headers_needs_no_run(vault: Vault, runs: list[Argon2Parameters]):
    headers = headers_of_generations(vault, 6)
    runs.clear()
    assert try_headers(headers, vault.recovery) == (vault.master, headers[5])
    assert not runs


def test_no_header_opens_nothing():
    with pytest.raises(AccessError):
        try_headers([], PASSPHRASE)


def test_superseded(vault: Vault):
    old = vault.header
    phrase = with_passphrase(old, vault.master, NEW, SeededEntropy(10), CHEAP)
    key = with_recovery_key(old, vault.master, new_recovery_key(SeededEntropy(8)), SeededEntropy(11))
    both = with_recovery_key(phrase, vault.master, new_recovery_key(SeededEntropy(12)), SeededEntropy(13))
    assert superseded(old, phrase)
    assert superseded(old, key)
    assert superseded(old, both)
    assert superseded(phrase, both)
    assert not superseded(phrase, old)
    assert not superseded(old, old)
    assert not superseded(phrase, key)
    assert not superseded(key, phrase)


def test_equal_generations_made_apart_do_not_supersede(vault: Vault):
    one = with_passphrase(vault.header, vault.master, NEW, SeededEntropy(10), CHEAP)
    other = with_passphrase(vault.header, vault.master, NEW, SeededEntropy(11), CHEAP)
    assert not superseded(one, other)
    assert not superseded(other, one)


def test_headers_of_another_vault_do_not_supersede(vault: Vault):
    other = msgspec.structs.replace(
        with_passphrase(vault.header, vault.master, NEW, SeededEntropy(10), CHEAP), vault=VaultId(bytes(16))
    )
    assert not superseded(vault.header, other)


def test_nothing_shows_a_secret(vault: Vault):
    shown = repr([vault.header, PASSPHRASE, vault.recovery, vault.keys])
    assert "correct horse" not in shown
    assert repr(vault.master) not in shown
    assert repr(vault.recovery.key) not in shown


def test_header_from_nothing_but_its_arguments(vault: Vault):
    """The same entropy gives the same header, other entropy another one."""
    made = [
        make_header(vault.vault, vault.master, PASSPHRASE, RecoveryKey(bytes(32)), SeededEntropy(seed), CHEAP)
        for seed in (1, 1, 2)
    ]
    assert made[0] == made[1] != made[2]


def test_a_machine_without_the_memory_says_so(vault: Vault, monkeypatch: pytest.MonkeyPatch):
    """What libargon2 answers when it gets no memory, without asking this machine for it."""

    def no_memory(*_args: object, **_options: object) -> bytes:
        raise HashingError("Memory allocation error")

    monkeypatch.setattr(passphrase_module, "hash_secret_raw", no_memory)
    with pytest.raises(DamageError, match="1024 KiB of memory"):
        unlock(vault.header, PASSPHRASE)
