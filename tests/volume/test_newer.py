"""What a newer tgdav made is said to be that, at each place, and nothing is written: never damage, a wrong secret or no vault."""

import base64
import random
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.crypto import golden as crypto_golden
from tests.crypto.golden import FOLDER, MASTER, VAULT
from tests.crypto.seeded import SeededEntropy
from tests.crypto.test_header import body_of, sealed_again
from tests.replication import golden
from tests.support.vaults import Vault, name_of, put
from tests.support.volumes import PASSPHRASE, configuration, places
from tgdav.cli.errors import ExitCode, exit_code
from tgdav.content.format import pack
from tgdav.crypto import label as label_module
from tgdav.crypto import slots as slots_module
from tgdav.crypto.header import decode, later_header_label, recognise, try_headers
from tgdav.crypto.keys import VaultKeys
from tgdav.crypto.label import encode_label, later_label
from tgdav.crypto.machine import seal_machine
from tgdav.crypto.sealing import Kind
from tgdav.disk import SystemDisk
from tgdav.errors import NewerFormat
from tgdav.ids import BlobName
from tgdav.replication.format import checkpoint as checkpoint_format
from tgdav.replication.format import envelope
from tgdav.vault import state_dir
from tgdav.vault.state_dir import LocalVault, load_vault, save_vault
from tgdav.volume.initialize import create_vault

KEYS = VaultKeys(MASTER, VAULT)


def blob(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def raised(text: str, version: int = 2) -> str:
    """A label whose first byte is that of a later version."""
    content = base64.urlsafe_b64decode(text)
    return base64.urlsafe_b64encode(bytes([version]) + content[1:]).decode()


def refused(call: Callable[[], object], version: int) -> str:
    with pytest.raises(NewerFormat, match=rf"was made by a newer tgdav \(format {version}\)") as error:
        call()
    assert exit_code(error.value) is ExitCode.USAGE
    return str(error.value)


# ---- each format -----------------------------------------------------------------------------------------------------


def test_a_header() -> None:
    body = body_of(blob("header-v1.bin"))
    body[8:10] = struct.pack(">H", 7)
    refused(lambda: decode(sealed_again(bytes(body))), 7)


@pytest.mark.parametrize("secret", [crypto_golden.PASSPHRASE, crypto_golden.RECOVERY])
def test_a_slot(secret: slots_module.Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    header = decode(blob("header-v1.bin"))
    slots = tuple(
        msgspec.structs.replace(slot, sealed_master=b"\x02" + slot.sealed_master[1:]) for slot in header.slots
    )
    refused(lambda: try_headers([msgspec.structs.replace(header, slots=slots)], secret), 2)
    binding = slots_module._binding
    with monkeypatch.context() as later:
        later.setattr(slots_module, "_binding", lambda vault, slot, version=3: binding(vault, slot, version))
        made = slots_module.make_slot(
            VAULT, MASTER, secret, 1, crypto_golden.PARAMETERS, slots_module.Argon2Limits(), SeededEntropy(1)
        )
    refused(lambda: try_headers([msgspec.structs.replace(header, slots=(made,))], secret), 3)


def test_a_headers_label() -> None:
    text = (FOLDER / "header-label-v1.txt").read_text().strip()
    assert later_header_label(text) is None
    assert later_header_label(raised(text, 6)) == 6
    assert not recognise(raised(text, 6))
    assert later_header_label(raised(text, 5)) is None  # one flipped bit


def test_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    text, name = (FOLDER / "label-v1.txt").read_text().strip(), crypto_golden.BLOB
    assert later_label(raised(text), KEYS, name) == 2
    binding = label_module._binding
    with monkeypatch.context() as later:
        later.setattr(label_module, "_binding", lambda keys, name, version=4: binding(keys, name, version))
        text = encode_label(crypto_golden.LABEL, KEYS, name, SeededEntropy(1))
    assert later_label(text, KEYS, name) == 4
    assert later_label(text, KEYS, BlobName(b"another blob's..")) is None
    assert later_label("no label", KEYS, name) is None


@pytest.mark.parametrize(
    ("file", "kind", "name"),
    [
        ("segment-v1.bin", Kind.SEGMENT, golden.SEGMENT_NAME),
        ("checkpoint-part-v1.bin", Kind.CHECKPOINT_PART, golden.PART_NAME),
    ],
)
def test_a_blob_of_the_log(file: str, kind: Kind, name: BlobName) -> None:
    data = blob(file)
    box = struct.unpack_from(">BII", data)[2]

    def changed(place: int) -> bytes:
        return data[:place] + bytes([data[place] + 1]) + data[place + 1 :]

    for place in (0, 9 + box):
        refused(lambda place=place: envelope.unwrap(KEYS, golden.KEYS, kind, name, changed(place)), 2)
    for place in (0, 9):
        refused(lambda place=place: envelope.secret_of(KEYS, golden.NAMESPACE, changed(place), name), 2)


def test_a_checkpoint_part() -> None:
    refused(lambda: checkpoint_format.decode(msgspec.msgpack.encode((3, [], None)), golden.PART_NAME), 3)


def test_a_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    seal = pack.PackSeal(golden.KEYS, VAULT, BlobName(b"n" * 16), 2)
    sizes = pack.plan(0, 0)
    head, trailer = pack._INDEX_HEAD.pack(2, 0), pack._TRAILER.pack(2, 0, sizes.index_length, sizes.size, bytes(32))
    tail = seal.seal(Kind.PACK_TRAILER, trailer, SeededEntropy(1))
    refused(lambda: pack.read_trailer(seal, tail, sizes.size), 2)
    refused(lambda: pack.parse_index(seal, head, 0), 2)


@pytest.mark.parametrize("is_bound", [False, True])
def test_the_local_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_bound: bool) -> None:
    local = LocalVault(seal_machine(crypto_golden.IDENTITY, KEYS, SeededEntropy(1)), "name", ())
    binding = state_dir._binding
    with monkeypatch.context() as later:
        if is_bound:
            later.setattr(state_dir, "_binding", lambda keys, version=2: binding(keys, version))
        save_vault(tmp_path, local, KEYS, SeededEntropy(1), SystemDisk())
    file = tmp_path / "vault"
    if not is_bound:
        file.write_bytes(b"\x02" + file.read_bytes()[1:])
    refused(lambda: load_vault(tmp_path, KEYS), 2)


# ---- a store and a home ----------------------------------------------------------------------------------------------


def raise_labels(vault: Vault, chosen: Callable[[str], bool]) -> int:
    """Give the blobs whose labels are ``chosen`` the labels of a later version; return how many."""
    count = 0
    for path in vault.blobs():
        head, name, text = path.name.split("-", 2)
        if chosen(text):
            path.rename(path.with_name(f"{head}-{name}-{raised(text)}"))
            count += 1
    return count


def stored(vault: Vault) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in vault.blobs()]


def test_init_makes_no_second_vault_and_joins_none(vault: Vault) -> None:
    assert raise_labels(vault, recognise) == 2
    before = stored(vault)
    config = configuration(vault.folder)
    refused(lambda: create_vault(places(vault.folder, "other"), config, PASSPHRASE, platform=vault.platform), 2)
    refused(lambda: vault.join("other"), 2)
    assert stored(vault) == before
    assert not (places(vault.folder, "other").state / "vault").exists()


def test_init_makes_no_vault_where_blobs_of_an_unknown_one_lie(vault: Vault) -> None:
    for path in vault.blobs():
        if recognise(path.name.split("-", 2)[2]):
            path.unlink()
    before = stored(vault)
    with pytest.raises(Exception, match="no header that this version knows"):
        create_vault(places(vault.folder, "other"), configuration(vault.folder), PASSPHRASE, platform=vault.platform)
    assert stored(vault) == before


def test_a_newer_machines_log_stops_joining_pushing_and_checking(vault: Vault) -> None:
    with vault.opened() as volume:
        put(volume, "file", random.randbytes(1000))
        volume.sync(wait=True)
        known = {name_of(path) for path in vault.blobs()}
    vault.join("other")
    assert raise_labels(vault, lambda text: not recognise(text) and _is_new(vault, text, known))
    before = stored(vault)
    refused(lambda: vault.join("third"), 2)
    with vault.opened() as volume:
        put(volume, "more", random.randbytes(1000))
        refused(lambda: volume.sync(wait=True), 2)
        refused(volume.check, 2)
    assert stored(vault) == before


def _is_new(vault: Vault, text: str, known: set[str]) -> bool:
    return any(path.name.endswith(text) and name_of(path) not in known for path in vault.blobs())


def test_no_copy_of_an_old_header_is_put_beside_a_newer_one(vault: Vault) -> None:
    with vault.opened() as volume:
        for number, path in enumerate(path for path in vault.blobs() if recognise(path.name.split("-", 2)[2])):
            _, name, text = path.name.split("-", 2)
            path.rename(path.with_name(f"{9998 + number:016d}-{name[::-1]}-{raised(text)}"))
        before = stored(vault)
        refused(volume.headers.ensure, 2)
    assert stored(vault) == before


def test_a_planted_newer_header_keeps_nobody_out(vault: Vault) -> None:
    header = next(path for path in vault.blobs() if recognise(path.name.split("-", 2)[2]))
    text = raised(header.name.split("-", 2)[2])
    (vault.store / f"{9999:016d}-{bytes(16).hex()}-{text}").write_bytes(b"anything")
    assert vault.join("other").epoch == 2
