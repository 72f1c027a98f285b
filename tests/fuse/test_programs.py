"""Common programs on a mount: the result must be that on any disk."""

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.program_trees import git, make_archive, make_repository, make_rich_tree, run
from tests.fuse.test_kill import ROOT
from tests.support.mounts import MountedVault
from tests.support.volumes import open_volume

MIB = 1 << 20


def sizes(small: int, full: int) -> pytest.MarkDecorator:
    """Run a test with ``small``, and in the long tests with ``full`` too."""
    return pytest.mark.parametrize("size", [small, pytest.param(full, marks=pytest.mark.torture)])


@pytest.fixture
def live(vault: MountedVault) -> Iterator[MountedVault]:
    """A mount for one test. Afterwards it is stopped, and every byte of the vault is checked."""
    with vault:
        yield vault
        vault.stop()
    vault.home.run("check", "--read-data", timeout=1800)


def remount(vault: MountedVault) -> None:
    """Drop all caches."""
    vault.stop(timeout=600)
    vault.start()


@sizes(100, 5000)
def test_git(live: MountedVault, tmp_path: Path, size: int) -> None:
    """A repository is cloned, changed, garbage-collected and checked."""
    make_repository(tmp_path / "origin", size, size // 20, seed=1)
    clone = live.path / "clone"
    git("clone", "-q", f"file://{tmp_path / 'origin'}", clone, cwd=tmp_path)
    assert git("status", "--porcelain", cwd=clone) == ""
    for step in range(1, 4):
        git("checkout", "-q", f"main~{step * size // 100}", cwd=clone)
        git("checkout", "-q", "-b", f"branch-{step}", cwd=clone)
        for number in range(0, size, 7):
            built = clone / f"directory-{number // 50}" / f"built-{step}-{number}.o"
            built.write_bytes(random.randbytes(2000))
        git("add", ".", cwd=clone)
        git("commit", "-qm", f"built {step}", cwd=clone)
        git("clean", "-qfdx", cwd=clone)
    git("checkout", "-q", "main", cwd=clone)
    git("gc", "-q", "--aggressive" if size < 1000 else "--auto", "--prune=now", cwd=clone)
    git("repack", "-adq", cwd=clone)
    git("fsck", "--strict", "--full", cwd=clone)
    remount(live)
    assert git("status", "--porcelain", cwd=clone) == ""
    git("fsck", "--strict", "--full", cwd=clone)
    assert git("rev-parse", "main^{tree}", cwd=clone) == git("rev-parse", "main^{tree}", cwd=tmp_path / "origin")


@sizes(300, 50_000)
def test_untar(live: MountedVault, tmp_path: Path, size: int) -> None:
    """The unpacked files equal the archive in content, modes, times and links, also after a restart."""
    archive = tmp_path / "archive.tar"
    make_archive(archive, size, seed=2)
    run("tar", "xpf", archive, "-C", live.path)
    assert run("tar", "df", archive, "-C", live.path) == ""
    assert int(run("find", live.path, "-type", "f", "-printf", "x").count("x")) == size + size // 40
    remount(live)
    assert run("tar", "df", archive, "-C", live.path) == ""


@sizes(80, 5000)
def test_rsync_copies_nothing_the_second_time(live: MountedVault, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    make_rich_tree(source, size, seed=3)
    words = ("rsync", "-aHAX", "--checksum", "--itemize-changes", f"{source}/", live.path / "copy")
    assert run(*words) != ""
    assert run(*words) == ""
    remount(live)
    assert run(*words) == ""
    assert run("rsync", "-aHAX", "--checksum", "--itemize-changes", "--delete", f"{live.path}/copy/", source) == ""


def test_unzip(directory: Path, tmp_path: Path) -> None:
    content = {
        f"directory {number % 5}/file {number}": random.Random(number).randbytes(number * 300) for number in range(100)
    }
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    run("unzip", "-q", tmp_path / "archive.zip", "-d", directory)
    assert {name: (directory / name).read_bytes() for name in content} == content


@pytest.mark.parametrize("copies", ["yes", "no", "auto"])
def test_vi_saves(directory: Path, copies: str) -> None:
    """``backupcopy=yes`` copies the file and writes in place, ``no`` renames. A backup file remains."""
    file = directory / "text"
    file.write_text("before\n")
    file.chmod(0o640)
    settings = f"set backupskip= backup writebackup backupcopy={copies}"
    for number in range(3):
        run("vi", "-u", "NONE", "-es", "-c", settings, "-c", f"%s/.*/saved {number}/", "-c", "wq", file, cwd=directory)
        assert file.read_text() == f"saved {number}\n"
    assert (directory / "text~").read_text() == "saved 1\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(directory)) == ["text", "text~"]


def test_an_office_program_saves(directory: Path) -> None:
    """As LibreOffice does: with a lock file, and a temporary file that is synced and renamed over the document."""
    document = directory / "text.odt"
    for number in range(5):
        content = random.Random(number).randbytes(200_000)
        lock = directory / ".~lock.text.odt#"
        with open(lock, "xb") as held:
            held.write(b"user;")
        draft = directory / f"lu{number}.tmp"
        with open(draft, "w+b") as file:
            file.write(content)
            file.seek(30)
            file.write(content[30:60])
            os.fsync(file.fileno())
        if document.exists():
            shutil.copystat(document, draft)
        os.replace(draft, document)
        lock.unlink()
        assert document.read_bytes() == content
    assert os.listdir(directory) == ["text.odt"]


def test_du_and_df(live: MountedVault) -> None:
    """``du`` counts what was written; the free space of ``df`` falls at least by what is not in the store yet."""
    before = os.statvfs(live.path)
    for number in range(4):
        (live.path / f"file-{number}").write_bytes(random.randbytes(5 * MIB))
    os.truncate(live.path / "file-0", 10**12)
    assert 20 * 1024 <= int(run("du", "-sk", live.path).split()[0]) <= 20 * 1024 + 100
    assert int(run("du", "-sb", live.path).split()[0]) >= 10**12
    total, used, free = (int(word) for word in run("df", "-B1", "--output=size,used,avail", live.path).split()[-3:])
    assert total == used + free
    assert free > 0
    assert before.f_frsize == 4096


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_sqlite_between_processes(directory: Path, mode: str) -> None:
    """Four processes insert into one database, each row once: locks work."""
    path = directory / "database"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE counted (number INTEGER)")
        connection.execute("INSERT INTO counted VALUES (0)")
    connection.close()
    script = (
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n"
        "for _ in range(15):\n c.execute('BEGIN IMMEDIATE')\n c.execute('UPDATE counted SET number = number + 1')\n"
        " c.execute('COMMIT')"
    )
    workers = [subprocess.Popen([sys.executable, "-c", script, str(path)]) for _ in range(4)]
    assert [worker.wait(120) for worker in workers] == [0] * 4
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT number FROM counted").fetchone() == (60,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@sizes(4, 64)
def test_fio_verifies(live: MountedVault, size: int) -> None:
    """Four jobs write ``size`` MiB each, sequentially and randomly, and verify what they read."""
    common = (
        "fio",
        "--directory",
        live.path,
        f"--size={size}M",
        "--numjobs=4",
        "--verify=crc32c",
        "--output-format=terse",
    )
    checks = ("--verify_fatal=1", "--verify_state_save=0", "--do_verify=1", "--end_fsync=1", "--group_reporting")
    run(*common, *checks, "--name=order", "--rw=write", "--bs=128k")
    run(*common, *checks, "--name=random", "--rw=randwrite", "--bs=4k", "--random_generator=tausworthe64")
    remount(live)
    run(
        *common,
        *checks,
        "--name=random",
        "--rw=randwrite",
        "--bs=4k",
        "--verify_only",
        "--random_generator=tausworthe64",
    )


@sizes(200, 20_000)
def test_many_processes_at_random(live: MountedVault, size: int) -> None:
    words = [sys.executable, "-m", "tests.fuse.churn_worker", str(live.path), str(size)]
    workers = [
        subprocess.Popen([*words, str(seed)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for seed in range(6)
    ]
    said = [worker.communicate()[0].decode() for worker in workers]
    codes = [worker.returncode for worker in workers]
    if any(codes):
        said.append(live.stop(timeout=600))  # what the mount says of it
        live.start()
    assert codes == [0] * 6, said
    before = run("find", live.path, "-printf", "%P %y %m %n %s %l\n")
    remount(live)
    assert run("find", live.path, "-printf", "%P %y %m %n %s %l\n") == before


@pytest.mark.parametrize(("size", "places"), [(40 * MIB, 6), pytest.param(1024 * MIB, 100, marks=pytest.mark.torture)])
def test_small_changes_of_a_large_file_send_little(vault: MountedVault, size: int, places: int) -> None:
    """Writes of 4 KiB at random places cost a few chunks each, and the file is right on a machine that joins."""
    choose, whole = random.Random(4), hashlib.sha256()
    with vault:
        with open(vault.path / "large", "wb") as file:
            for _ in range(size // MIB):
                file.write(choose.randbytes(MIB))
        vault.stop(timeout=600)
    vault.home.run("sync", "--wait", timeout=1800)
    before, chunks = _stored(vault.base / "store"), _chunks(vault)
    with vault:
        with open(vault.path / "large", "r+b") as file:
            for _ in range(places):
                file.seek(choose.randrange(size - 4096))
                file.write(choose.randbytes(4096))
                file.flush()
        with open(vault.path / "large", "rb") as file:
            while block := file.read(MIB):
                whole.update(block)
        vault.stop(timeout=600)
    vault.home.run("sync", "--wait", timeout=1800)
    sent, made = _stored(vault.base / "store") - before, _chunks(vault) - chunks
    print(f"\n{places} places of 4 KiB in {size // MIB} MiB: {made} chunks, {sent / MIB:.1f} MiB sent")
    assert made <= 4 * places
    assert sent <= places * 4.5 * MIB
    _reads_right_elsewhere(vault, whole.hexdigest())


def _reads_right_elsewhere(vault: MountedVault, digest: str) -> None:
    second = vault.home.beside("second")
    shutil.copy(vault.home.path / "config.yaml", second.path / "config.yaml")
    second.run("init", "--join")
    with MountedVault(vault.base / "other", home=second) as other:
        assert hashlib.sha256((other.path / "large").read_bytes()).hexdigest() == digest
        other.stop()
    second.run("check", "--read-data", timeout=1800)


def _stored(store: Path) -> int:
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def _chunks(vault: MountedVault) -> int:
    volume = open_volume(vault.base)
    with volume.database.reading() as connection:
        row = connection.one("SELECT count(*) FROM chunks")
    volume.close()
    assert row is not None
    return int(row[0])
