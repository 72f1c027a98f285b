"""Two copies of the header, and secrets that change whole or not at all."""

import pytest

from tests.support.platform import CrashAt, SimulatedCrash
from tests.support.vaults import Vault, name_of, put, rows
from tests.support.volumes import PASSPHRASE, configuration, places
from tgdav.blobs.interface import START
from tgdav.crypto.header import recognise
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.recovery_key import parse_recovery_key
from tgdav.crypto.slots import Secret
from tgdav.errors import AccessError, StoreUnavailable
from tgdav.failpoints import installed
from tgdav.volume.initialize import join_vault
from tgdav.volume.volume import Volume

NEW = "a new passphrase"


def headers(vault: Vault, volume: Volume) -> list[str]:
    return [info.name.hex() for info in volume.stores.store.list() if recognise(info.label)]


def opens(vault: Vault, secret: Secret, home: str = "home") -> bool:
    try:
        volume = Volume.open(places(vault.folder, home), configuration(vault.folder), secret, platform=vault.platform)
    except AccessError:
        return False
    volume.close()
    return True


def test_who_misses_a_copy_appends_it(vault: Vault, volume: Volume) -> None:
    first, second = headers(vault, volume)
    vault.blob(first).unlink()
    volume.headers.ensure()
    assert len(headers(vault, volume)) == 2
    assert second in headers(vault, volume)
    volume.headers.ensure()
    assert len(headers(vault, volume)) == 2


def test_the_store_is_not_listed_again_where_nothing_changed(
    vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(volume, "file", b"content")
    volume.sync(wait=True)
    store, listed = volume.stores.store, []
    ask = store.list
    monkeypatch.setattr(store, "list", lambda after=START: [listed.append(after), *ask(after)][1:])
    volume.headers.ensure()
    assert len(listed) == 1
    assert listed[0] > 0
    vault.blob(headers(vault, volume)[1]).unlink()
    volume.headers.ensure()
    assert START in listed
    assert len(headers(vault, volume)) == 2


def test_a_header_that_should_be_gone_is_deleted(vault: Vault, volume: Volume) -> None:
    """Killed after what was deleted was noted, before it was deleted."""
    old = [(vault.blob(name), vault.blob(name).read_bytes()) for name in headers(vault, volume)]
    volume.change_passphrase(NEW)
    volume.sync(wait=True)
    for path, data in old:
        path.write_bytes(data)
    volume.headers.ensure()
    assert not [path for path, _ in old if path.exists()]


def test_a_damaged_copy_counts_as_missing(vault: Vault, volume: Volume) -> None:
    bad = vault.blob(headers(vault, volume)[0])
    bad.unlink()
    bad.write_bytes(b"\0" * 65536)
    volume.headers.ensure()
    assert len(headers(vault, volume)) == 3
    assert [each["blob"] for each in volume.check(read_data=100.0)["damage"]] == [name_of(bad)]
    assert volume.check(read_data=100.0, repair=True)["ok"]
    assert len(headers(vault, volume)) == 2


def test_a_new_passphrase(vault: Vault, volume: Volume) -> None:
    before = headers(vault, volume)
    volume.change_passphrase(NEW)
    assert len(headers(vault, volume)) == 2
    assert not set(before) & set(headers(vault, volume))
    volume.close()
    assert (opens(vault, Passphrase(NEW)), opens(vault, Passphrase(PASSPHRASE))) == (True, False)


def test_an_old_header_put_back_is_deleted_and_the_new_passphrase_opens(vault: Vault, volume: Volume) -> None:
    old = vault.blob(headers(vault, volume)[0])
    kept = old.read_bytes()
    volume.change_passphrase(NEW)
    newest = int(vault.blobs()[-1].name[:16])
    replayed = old.with_name(f"{newest + 1:016d}{old.name[16:]}")
    replayed.write_bytes(kept)
    config = configuration(vault.folder)
    assert not join_vault(places(vault.folder, "second"), config, Passphrase(NEW), platform=vault.platform).damage
    volume.headers.ensure()
    assert not replayed.exists()
    assert len(headers(vault, volume)) == 2


def test_a_new_recovery_key_opens_a_join(vault: Vault, volume: Volume) -> None:
    key = parse_recovery_key(volume.new_recovery_key())
    second = places(vault.folder, "second")
    assert not join_vault(second, configuration(vault.folder), key, platform=vault.platform).damage
    assert opens(vault, key, "second")
    assert opens(vault, Passphrase(PASSPHRASE), "second")


@pytest.mark.parametrize("number", range(1, 5))
def test_cut_off_between_the_copies(vault: Vault, number: int) -> None:
    volume = vault.open()
    with installed(CrashAt(number, "headers.")), pytest.raises(SimulatedCrash):
        volume.change_passphrase(NEW)
    volume.close()
    stored = number > 1
    secret = Passphrase(NEW if stored else PASSPHRASE)
    again = Volume.open(places(vault.folder), configuration(vault.folder), secret, platform=vault.platform)
    again.background.tick()
    assert len(headers(vault, again)) == 2
    assert again.check(read_data=100.0)["ok"]
    again.close()
    assert (opens(vault, Passphrase(NEW)), opens(vault, Passphrase(PASSPHRASE))) == (stored, not stored)


def test_a_store_that_is_away_changes_nothing(vault: Vault, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> object:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(volume.stores.store, "append", away)
        with pytest.raises(StoreUnavailable):
            volume.change_passphrase(NEW)
    volume.headers.ensure()
    volume.close()
    assert (opens(vault, Passphrase(NEW)), opens(vault, Passphrase(PASSPHRASE))) == (False, True)


def test_the_other_machine_takes_the_new_one_over(vault: Vault, volume: Volume) -> None:
    vault.join("second")
    with vault.opened("second") as second:
        second.change_passphrase(NEW)
    volume.close()
    assert opens(vault, Passphrase(NEW)), "the store's header opens what the local one does not"
    with vault.opened() as volume:
        volume.background.tick()
        gone = rows(volume, "SELECT count(*) FROM blobs WHERE kind = 0 AND gone = 0")
        assert gone == [(2,)]
    assert not opens(vault, Passphrase(PASSPHRASE))
