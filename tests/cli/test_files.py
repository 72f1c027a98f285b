"""``ls``, ``find``, ``cat``, ``get`` and ``put``, alone and beside a server."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Machine, config_for, raw
from tests.support.server import PROGRAM, Home, Server
from tgdav.cli.output import Output

NOT_TEXT = b"not \xe9 text"
OLD = 1_500_000_000_123_456_789


def tree(folder: Path) -> Path:
    """Return a directory with one of everything that is copied."""
    folder.mkdir()
    (folder / "empty directory").mkdir(mode=0o700)
    below = folder / "sub" / "below"
    below.mkdir(parents=True)
    (below / "large").write_bytes(os.urandom(3_000_000))
    (folder / "empty").touch()
    (folder / "small").write_bytes(b"small\n")
    (folder / "small").chmod(0o640)
    (folder / "read only").write_bytes(b"do not write")
    (folder / "read only").chmod(0o444)
    (folder / "program").write_bytes(b"#!/bin/sh\n")
    (folder / "program").chmod(0o4755)
    (folder / "link").symlink_to("./sub//below/")
    (folder / "dangling").symlink_to(os.fsdecode(NOT_TEXT))
    (folder / os.fsdecode(NOT_TEXT)).write_bytes(b"its name is not UTF-8")
    (folder / "closed").mkdir()
    (folder / "closed" / "in it").write_bytes(b"its directory cannot be written to")
    (folder / "closed").chmod(0o555)
    for number, path in enumerate(sorted((*folder.rglob("*"), folder), reverse=True)):
        os.utime(path, ns=(OLD, OLD + number), follow_symlinks=False)
    return folder


def listed(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return kind, mode, mtime and content of everything in a directory, itself included."""
    return {str(path.relative_to(folder)): _described(path) for path in (folder, *folder.rglob("*"))}


def _described(path: Path) -> tuple[Any, ...]:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return ("link", os.readlink(path), found.st_mtime_ns)  # noqa: PTH115 - a Path would change its spelling
    content = path.read_bytes() if path.is_file() else None
    return (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode), found.st_mtime_ns, content)


# ---- whole trees -----------------------------------------------------------------------------------------------------


def test_a_tree_comes_back_as_it_was(drive: Machine, tmp_path: Path) -> None:
    source = tree(tmp_path / "source")
    put = drive.run("--json", "put", str(source), "/copy").json()
    assert put["files"] == 7
    assert put["symlinks"] == 2
    assert put["bytes"] == sum(
        path.stat().st_size for path in source.rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert put["failed"] == put["skipped"] == []
    got = drive.run("--json", "get", "/copy", str(tmp_path / "back")).json()
    assert {key: got[key] for key in got} == {key: put[key] for key in got}
    assert listed(tmp_path / "back") == listed(source)
    # Once more, over what is there.
    assert drive.run("--json", "put", str(source), "/").json()["failed"] == []
    assert drive.run("--json", "get", "/source", "/copy", str(tmp_path)).json()["failed"] == []
    assert listed(tmp_path / "copy") == listed(source)


def test_directories_are_merged_and_files_replaced(drive: Machine, tmp_path: Path) -> None:
    for name, files in {
        "one": {"a": "1", "both": "1", "sub/b": "1"},
        "two": {"c": "2", "both": "22", "sub/d": "2"},
    }.items():
        for path, text in files.items():
            target = tmp_path / name / "tree" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    expected = {"a": "1", "both": "22", "c": "2", "sub/b": "1", "sub/d": "2"}
    for name in ("one", "two"):
        drive.run("put", str(tmp_path / name / "tree"), "/")
    out = tmp_path / "out"
    (out / "tree" / "sub").mkdir(parents=True)
    (out / "tree" / "both").write_text("older, and longer")
    (out / "tree" / "sub" / "mine").write_text("kept")
    drive.run("get", "/tree", str(out))
    found = {str(p.relative_to(out / "tree")): p.read_text() for p in (out / "tree").rglob("*") if p.is_file()}
    assert found == expected | {"sub/mine": "kept"}


def test_where_copies_go(drive: Machine, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    a, b, out = str(tmp_path / "a"), str(tmp_path / "b"), tmp_path / "out"
    drive.run("put", a, "/new name")
    drive.run("put", a, "/made/on the way/")
    drive.run("put", a, b, "/made/for several")
    drive.run("put", f"{tmp_path}/made/", a, "/", check=False)
    drive.run("put", b, "/made")
    drive.run("put", b, "/new name")
    paths = drive.run("--json", "find", "/", "--type", "f").json()["paths"]
    assert paths == [
        "/made/b", "/made/for several/a", "/made/for several/b", "/made/on the way/a", "/new name",
    ]  # fmt: skip
    out.mkdir()
    drive.run("get", "/new name", str(out / "other"))
    drive.run("get", "/new name", str(out))
    drive.run("get", "/made/b", "/made/on the way", str(out))
    drive.run("get", "/made/b", str(out / "b2"))
    drive.run("get", "/", str(tmp_path / "all"))
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {
        "other",
        "new name",
        "b",
        "on the way/a",
        "b2",
    }
    assert (out / "other").read_text() == "b"
    assert (tmp_path / "all" / "made" / "b").read_text() == "b"


def test_other_kinds_are_reported_as_left_out(drive: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "pipe")
    (source / "file").touch()
    done = drive.run("--json", "put", str(source), "/")
    assert done.json()["skipped"] == [str(source / "pipe")]
    assert "pipe: skipped, because it is a fifo" in done.stderr


def test_a_link_in_the_way_of_a_tree_is_not_followed(drive: Machine, tmp_path: Path) -> None:
    source, out, elsewhere = tmp_path / "tree", tmp_path / "out", tmp_path / "elsewhere"
    for folder in (source / "sub", out / "tree", elsewhere):
        folder.mkdir(parents=True)
    (source / "sub" / "file").touch()
    (source / "z").touch()
    (out / "tree" / "sub").symlink_to(elsewhere)
    drive.run("put", str(source), "/")
    done = drive.run("--json", "get", "/tree", str(out), check=False)
    assert done.code == 1
    assert [failed["path"] for failed in done.json()["failed"]] == ["/tree/sub"]
    assert (out / "tree" / "z").exists()
    assert list(elsewhere.iterdir()) == []


def test_progress_is_in_bytes_of_a_known_total(drive: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[str, int, int]] = []

    @contextmanager
    def progress(_self: Output, _label: str) -> Iterator[Callable[..., None]]:
        yield lambda *report: reports.append(report)

    monkeypatch.setattr(Output, "shows_progress", True)
    monkeypatch.setattr(Output, "progress", progress)
    source = tree(tmp_path / "source")
    size = drive.run("--json", "put", str(source), "/").json()["bytes"]
    assert reports[-1] == ("stored bytes", size, size)
    assert len(reports) > len(list(source.rglob("*"))) // 2
    drive.run("get", "/source", str(tmp_path / "back"))
    assert reports[-1] == ("fetched bytes", size, size)


# ---- listing ---------------------------------------------------------------------------------------------------------


def test_listings(drive: Machine, tmp_path: Path) -> None:
    drive.run("put", str(tree(tmp_path / "tree")), "/")
    assert drive.run("ls").stdout == "tree\n"
    names = [
        "closed",
        "dangling",
        "empty",
        "empty directory",
        "link",
        "not \\xe9 text",
        "program",
        "read only",
        "small",
        "sub",
    ]
    assert drive.run("ls", "/tree/").stdout.splitlines() == names
    assert drive.run("ls", "-d", "/tree").stdout == "/tree\n"
    assert drive.run("ls", "-R", "/tree/sub").stdout.splitlines() == ["/tree/sub/below", "/tree/sub/below/large"]
    assert drive.run("ls", "/tree/small", "/tree/sub").stdout == "/tree/small\n\n/tree/sub:\nbelow\n"
    long = drive.run("ls", "-la", "/tree").stdout.splitlines()
    assert [line.split(None, 4)[0] for line in long][:3] == ["dr-xr-xr-x", "lrwxrwxrwx", "-rw-r--r--"]
    assert "2.9 MiB 2017-07-14" in drive.run("ls", "-l", "/tree/sub/below").stdout
    assert long[4].endswith(" link -> ./sub//below/")
    entries = {entry["path"]: entry for entry in drive.run("--json", "ls", "/tree").json()["entries"]}
    assert entries["/tree/small"] == {
        "path": "/tree/small", "kind": "file", "bytes": 6, "mode": 0o640, "permissions": "-rw-r-----",
        "mtime": entries["/tree/small"]["mtime"],
    }  # fmt: skip
    assert entries["/tree/small"]["mtime"].startswith("2017-07-14T02:40:00.123456")
    assert entries["/tree/dangling"]["target"] == "not \\xe9 text"
    assert entries["/tree/sub"]["kind"] == "directory"


def test_finding(drive: Machine, tmp_path: Path) -> None:
    drive.run("put", str(tree(tmp_path / "tree")), "/")

    def found(*words: str) -> list[str]:
        paths: list[str] = drive.run("--json", "find", *words).json()["paths"]
        return paths

    assert found("--size", "+1M") == ["/tree/sub/below/large"]
    assert found("/tree/sub", "--name", "*e*") == ["/tree/sub/below", "/tree/sub/below/large"]
    assert found("--iname", "SMALL", "--type", "f") == ["/tree/small"]
    assert found("--type", "l") == ["/tree/dangling", "/tree/link"]
    assert found("--newer", "1h") == ["/"]  # the root is the only one whose time was not set
    assert "/tree/small" not in found("--newer", "/tree/small")
    assert len(found("--older", "2017-07-15")) == len(found()) - 1
    assert drive.run("find", "--type", "l").stdout == "/tree/dangling\n/tree/link\n"
    assert raw(drive, "find", "/tree", "--print0", "--name", "not*").stdout == b"/tree/" + NOT_TEXT + b"\0"


def test_a_large_directory(drive: Machine, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for number in range(1500):
        (source / f"{number:04} {'long ' * 20}").touch()
    assert drive.run("--json", "put", str(source), "/").json()["files"] == 1500
    names = [entry["path"][6:10] for entry in drive.run("--json", "ls", "/many").json()["entries"]]
    assert names == [f"{number:04}" for number in range(1500)]
    first = subprocess.run(
        f"{' '.join(PROGRAM)} find / | head -n 2", shell=True, env=drive.environment(), capture_output=True, check=False
    )
    assert first.stdout == b"/\n/many\n"


# ---- history ---------------------------------------------------------------------------------------------------------


def test_snapshots(drive: Machine, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree")
    before = listed(source)
    drive.run("put", str(source), "/")
    drive.run("snapshot", "before")
    (source / "small").unlink()
    (source / "small").write_text("longer than before")
    shutil.copy(source / "small", source / "new")
    drive.run("put", str(source / "new"), str(source / "small"), "/tree")
    assert "/tree/new" in drive.run("find").stdout
    assert "/tree/new" not in drive.run("find", "--at", "before").stdout
    assert drive.run("ls", "--at", "before", "/tree").stdout == drive.run("ls", "/.snapshots/before/tree").stdout
    entries = drive.run("--json", "ls", "--at", "before", "/tree/small").json()["entries"]
    assert [(entry["path"], entry["bytes"]) for entry in entries] == [("/tree/small", 6)]
    assert raw(drive, "cat", "--at", "before", "/tree/small").stdout == b"small\n"
    assert raw(drive, "get", "/tree/small", "--at=before", "-").stdout == b"small\n"
    assert raw(drive, "cat", "/.snapshots/before/tree/small", "/tree/small").stdout == b"small\nlonger than before"
    assert drive.run("--json", "get", "--at", "before", "/tree", str(tmp_path / "back")).json()["failed"] == []
    assert listed(tmp_path / "back") == before
    refused = drive.run("get", "--at", "never", "/tree", str(tmp_path / "back"), check=False)
    assert refused.code == 2
    assert refused.stderr == "tgdav: there is no snapshot 'never'; 'tgdav snapshots' lists them\n"
    assert drive.run("ls", "--at", "before", "/tree/new", check=False).code == 2
    assert drive.run("put", str(source), "/.snapshots/before", check=False).code == 7


def test_versions(drive: Machine, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / "file").write_text(f"content {number}")
        os.utime(tmp_path / "file", ns=(OLD, OLD + number))
        drive.run("put", str(tmp_path / "file"), "/")
        drive.run("snapshot", f"after-{number}")  # one burst of saves would be one version
    assert raw(drive, "cat", "/file").stdout == b"content 3"
    assert [raw(drive, "cat", "--version", str(number), "/file").stdout for number in (1, 2, 3)] == [
        b"content 1", b"content 2", b"content 3",
    ]  # fmt: skip
    drive.run("get", "/file", "--version", "2", str(tmp_path / "second"))
    assert (tmp_path / "second").read_text() == "content 2"
    assert (tmp_path / "second").stat().st_mtime_ns == OLD + 2
    for words in (["--version", "9", "/file"], ["--version", "1", "/"], ["--version", "0", "/file"]):
        assert drive.run("get", *words, str(tmp_path / "none"), check=False).code == 2
    assert drive.run("get", "--version", "1", "--at", "after-1", "/file", str(tmp_path / "none"), check=False).code == 2
    assert not (tmp_path / "none").exists()


# ---- content on standard streams -------------------------------------------------------------------------------------


def test_standard_streams(drive: Machine) -> None:
    data = os.urandom(2_500_000)
    assert raw(drive, "put", "-", "/made/data", input=data).returncode == 0
    assert raw(drive, "put", "-", "/made/empty").returncode == 0
    assert raw(drive, "put", "-", "/made/empty").returncode == 0
    assert raw(drive, "cat", "/made/data", "/made/empty", "/made/data").stdout == data * 2
    assert raw(drive, "get", "/made/data", "-").stdout == data
    mixed = raw(drive, "cat", "/none", "/made", "/made/data")
    assert mixed.stdout == data
    assert mixed.returncode == 2
    assert mixed.stderr.count(b"tgdav: /") == 2


def test_content_on_standard_input_is_never_taken_for_a_passphrase(copied_vault: Machine) -> None:
    asked = copied_vault.beside(copied_vault.path.name, variables={"TGDAV_PASSPHRASE": None})
    refused = raw(asked, "put", "-", "/file", input=copied_vault.passphrase.encode() + b"\ncontent")
    assert refused.returncode == 3
    assert b"standard input is the content" in refused.stderr
    assert copied_vault.run("ls").stdout == ""


def test_devices_and_pipes_are_written_to(drive: Machine, tmp_path: Path) -> None:
    assert raw(drive, "put", "-", "/file", input=b"content").returncode == 0
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        drive.run("get", "/file", str(tmp_path / "pipe"))
        assert reader.communicate(timeout=30)[0] == b"content"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "target").write_text("older")
    (tmp_path / "link").symlink_to("target")
    drive.run("get", "/file", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "content"


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ls", "/none"], 2, "/none: No such file or directory"),
        (["ls", "/file/below"], 2, "/file/below: Not a directory"),
        (["--namespace", "other", "ls"], 2, "the running tgdav has opened the namespace 'default'"),
        (["ls", "relative"], 2, "relative: a path in the drive begins with '/'"),
        (["ls", "/.."], 2, "/..: invalid name"),
        (["ls", "/" + "n" * 256], 2, "The name is longer than 255 bytes"),
        (["cat", "/directory"], 2, "/directory: Is a directory"),
        (["cat", "/link"], 2, "/link: not a regular file"),
        (["find", "/none"], 2, "/none: No such file or directory"),
        (["find", "--newer", "/none"], 2, "/none: No such file or directory"),
        (["find", "--newer", "yesterday"], 2, "'yesterday' is not a time"),
        (["find", "--size", "much"], 2, "'much' is not a size"),
        (["get", "/none", "{out}"], 2, "/none: No such file or directory"),
        (["get", "/file", "/directory", "{out}/none"], 2, "/none is not a directory"),
        (["get", "/file", "{out}/none/file"], 2, "there is no directory"),
        (["get", "/file", "{out}/none/"], 2, "is not a directory"),
        (["get", "/file", "/directory/file", "{out}"], 2, "several of the paths end in 'file'"),
        (["get", "/directory", "-"], 2, "/directory: Is a directory"),
        (["get", "/directory", "{file}"], 1, "File exists"),
        (["--json", "get", "/file", "-"], 2, "no place for JSON"),
        (["put", "{out}/none", "/"], 2, "there is no"),
        (["put", "{file}"], 2, "put needs a local path and a path in the drive"),
        (["put", "{file}", "relative"], 2, "a path in the drive begins with '/'"),
        (["put", "{file}", "{file}", "/new"], 2, "several of the paths end in"),
        (["put", "{file}", "{out}", "/file"], 2, "/file is not a directory"),
        (["put", "{file}", "/file/below"], 2, "tgdav: /file/below: Not a directory"),
        (["put", "{file}", "/link"], 2, "/link is a symbolic link to file"),
        (["put", "{out}", "/file"], 2, "/file: Not a directory"),
        (["put", "{file}", "/.snapshots"], 7, "tgdav: /.snapshots/local: history cannot be changed"),
        (["put", "-", "/directory"], 2, "/directory is a directory"),
        (["put", "-", "{file}", "/"], 2, "'-' cannot be combined"),
    ],
)
def test_refusals(served: Machine, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    file = tmp_path / "local"
    file.touch()
    run = partial(Home.run, served) if {"cat", "-"} & set(words) else served.run
    done = run(*(word.format(out=out, file=file) for word in words), check=False)
    assert done.code == code, done
    assert message in done.stderr
    assert list(out.iterdir()) == []
    assert served.run("ls", "-R").stdout.splitlines() == ["/directory", "/directory/file", "/file", "/link"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a server, and a little tree that no test of this file changes."""
    folder = tmp_path_factory.mktemp("served")
    home = Machine(folder, config=config_for(folder))
    home.run("init")
    source = folder / "source"
    (source / "directory").mkdir(parents=True)
    (source / "directory" / "file").write_text("below")
    (source / "file").write_text("content")
    (source / "link").symlink_to("file")
    with Server(home):
        home.run("put", *map(str, source.iterdir()), "/")
        yield home


def test_a_replaced_machine_may_read_and_not_write(copied_vault: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    copied_vault.run("put", str(tmp_path / "file"), "/")
    copied_vault.run("sync", "--wait")
    copied_vault.beside("other", config=config_for(tmp_path)).run("init", "--join")
    assert copied_vault.run("sync", check=False).code == 7
    refused = copied_vault.run("put", str(tmp_path / "file"), "/other", check=False)
    assert refused.code == 7
    assert copied_vault.run("ls").stdout == "file\n"
    copied_vault.run("get", "/file", str(tmp_path / "back"))
