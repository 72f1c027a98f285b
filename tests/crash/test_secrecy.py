"""Neither names nor content appear on the disk or in the store, and the store reveals next to nothing about them."""

import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.crash.machines import CHEAP, PASSPHRASE, Machine, content, put
from tests.support.server import Home, Server, wait_for
from tgdav.crypto.header import HEADER_BYTES, recognise
from tgdav.crypto.label import BlobKind, decode_label

NAMES = ("Quarterly-Secret-Plan", "versteckt\u00e4.txt", "deeply hidden folder", "JunkFile")
MARKER = b"XYZZY-marker-0123456789-marker-XYZZY"
PROPERTY = "PlughProperty"


def needles() -> list[bytes]:
    """All that must be nowhere: as written, in UTF-16 both ways, in the other case, and quoted as in a URL."""
    texts = [*NAMES, MARKER.decode(), PROPERTY]
    found = {text.encode() for text in texts}
    for text in texts:
        found |= {text.encode("utf-16-le"), text.encode("utf-16-be"), text.upper().encode(), text.lower().encode()}
        found.add(text.replace(" ", "%20").encode())
    return sorted(found)


def assert_nowhere(folder: Path, *, also: tuple[bytes, ...] = ()) -> int:
    """Assert that no needle is in the bytes or the name of any file below; return how many files there were."""
    count, wanted = 0, [*needles(), *also]
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes() + bytes(str(path.relative_to(folder)), "utf-8")
            assert not [needle for needle in wanted if needle in data], path
            count += 1
    return count


def write_everything(server: Server) -> None:
    with server.client() as client:
        folder = "/" + NAMES[2].replace(" ", "%20")
        assert client.request("MKCOL", folder).status == 201
        for number, size in enumerate((0, 100, 40_000, 3_000_000)):
            body = (MARKER * (size // len(MARKER) + 1))[:size] + MARKER
            assert client.request("PUT", f"{folder}/{NAMES[0]}-{number}", body=body).status == 201
        assert client.request("PUT", "/versteckt%C3%A4.txt", body=MARKER * 10_000).status == 201
        assert client.request("PUT", f"/._{NAMES[3]}", body=MARKER * 10).status == 201
        change = (
            '<?xml version="1.0"?><D:propertyupdate xmlns:D="DAV:"><D:set><D:prop>'
            f'<x:{PROPERTY} xmlns:x="urn:{MARKER.decode()}">{MARKER.decode()}</x:{PROPERTY}>'
            "</D:prop></D:set></D:propertyupdate>"
        )
        assert client.request("PROPPATCH", "/versteckt%C3%A4.txt", {}, change.encode()).status == 207
        assert MARKER in client.request("GET", f"{folder}/{NAMES[0]}-2").body
        lock = '<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>'  # noqa: E501
        assert client.request("LOCK", "/versteckt%C3%A4.txt", {}, lock.encode()).status == 200


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path, config="version: 2\n" + CHEAP)
    told = made.run("init", "--backend", "directory", "--path", str(tmp_path / "store")).stdout
    made.variables["RECOVERY"] = told.split("recovery key: ")[1].split()[0]
    return made


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    with home.server("-v") as running:
        yield running


def test_nothing_readable_on_the_disk_or_in_the_store(server: Server, home: Home, tmp_path: Path) -> None:
    write_everything(server)
    secrets = (home.passphrase.encode(), home.password.encode(), str(home.variables["RECOVERY"]).encode())
    assert assert_nowhere(home.path, also=secrets) > 3
    home.run("sync", "--wait")
    write_some_more(server)
    assert assert_nowhere(home.path, also=secrets) > 3
    assert assert_nowhere(tmp_path / "store", also=secrets) > 3
    _modes(home.path)
    _command_lines(server, secrets)
    server.kill()
    assert assert_nowhere(home.path, also=secrets) > 3
    _modes(home.path)
    assert not [needle for needle in (*needles(), *secrets) if needle in server.output.encode()]


def write_some_more(server: Server) -> None:
    with server.client() as client:
        body = client.request("GET", "/versteckt%C3%A4.txt").body
        assert client.request("PUT", f"/{NAMES[0]}", body=body + content(1, 3_000_000)).status == 201


def _modes(folder: Path) -> None:
    """Files 0600, folders 0700; sockets 0600; the user's own configuration may be wider."""
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        if path.name != "config.yaml":
            assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def _command_lines(server: Server, secrets: tuple[bytes, ...]) -> None:
    for process in [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]:
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/comm").read_bytes()
        assert not [secret for secret in secrets if secret in shown]


def test_the_store_shows_packs_segments_checkpoints_and_headers_alone(quick_path: Path) -> None:
    machine = Machine(quick_path)
    machine.create()
    with machine.opened() as volume:
        put(volume, "one", content(1, 200_000))
        put(volume, "two", b"x")
        volume.sync(wait=True)
        assert volume.replicator.checkpoint()
        kinds = []
        for info in volume.stores.store.list():
            label = decode_label(info.label, volume.vault_keys, info.name)
            if label is None:
                assert recognise(info.label)
                assert info.size == HEADER_BYTES
                continue
            kinds.append(label.kind)
            assert label.size == info.size >= 65_536
        labels = [info.label for info in volume.stores.store.list()]
    assert set(kinds) == {BlobKind.PACK, BlobKind.SEGMENT, BlobKind.CHECKPOINT}
    assert len({len(label) for label in labels}) == 1, "labels of different kinds have different lengths"
    others = [path.name for path in machine.store.iterdir() if path.name.startswith(".")]
    assert others == [".lock"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in machine.store.iterdir()} == {0o600}


def sizes_after(folder: Path, files: list[int], seed: int) -> list[int]:
    """The sizes of the blobs that a set of files becomes."""
    machine = Machine(folder, seed=seed)
    machine.create()
    known = set(machine.blobs())
    with machine.opened() as volume:
        for number, size in enumerate(files):
            put(volume, f"{number}", content(seed * 100 + number, size))
        volume.sync(wait=True)
    return sorted(path.stat().st_size for path in machine.blobs() if path not in known)


def test_equal_totals_make_equal_blobs(quick_path: Path) -> None:
    """Whatever the number and the sizes of files below 64 KiB in all, the store shows the same."""
    shapes = ([1], [40_000], [20_000, 20_000], [4000] * 10, [39_000, *[100] * 10], [0, 0, 5])
    seen = {tuple(sizes_after(quick_path / f"{number}", shape, number)) for number, shape in enumerate(shapes)}
    assert len(seen) == 1, seen


def test_the_passphrase_is_not_in_the_memory_of_files(quick_path: Path) -> None:
    machine = Machine(quick_path)
    created = machine.create()
    with machine.opened() as volume:
        put(volume, "file", MARKER * 3000)
        wait_for(lambda: assert_nowhere(quick_path, also=(PASSPHRASE.encode(), created.recovery_key.encode())))
