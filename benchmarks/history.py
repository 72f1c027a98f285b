"""Snapshots, browsing, restoring and collecting garbage, beside restic on the same tree where both do the same.

Both are measured as commands. A snapshot of restic reads the files again to find what changed; tgdav already has them. restic
restores to a directory; tgdav is measured at that, and at putting the tree back into the drive.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.contestants import TGDAV
from benchmarks.http_client import Failed
from benchmarks.results import Measurement, Results
from benchmarks.scale import MIB, Scale, make_file
from tests.support.server import Home

RESTIC = "restic"
_IN_DIRECTORY = 500
_LARGE = 64 * MIB
_TIMEOUT = 3600.0


def history(folder: Path, scale: Scale) -> Results:
    """Measure each, ``scale.rounds`` times on fresh vaults."""
    samples: dict[tuple[str, str], list[float]] = {}
    for number in range(scale.rounds):
        place = folder / f"round-{number}"
        tree, garbage = _make_tree(place / "tree", scale), _make_garbage(place / "garbage", scale)
        for name, run in ((TGDAV, _tgdav), (RESTIC, _restic)):
            if name == RESTIC and shutil.which("restic") is None:
                continue
            for workload, seconds in run(place / "of", tree, garbage, scale).items():
                samples.setdefault((workload, name), []).append(seconds)
            shutil.rmtree(place / "of")
        shutil.rmtree(place)
    measured = [
        Measurement(workload, name, "s", tuple(found), lower_is_better=True)
        for (workload, name), found in sorted(samples.items())
    ]
    return Results(measured)


def _make_tree(tree: Path, scale: Scale) -> Path:
    for number in range(scale.files):
        directory = tree / f"{number // _IN_DIRECTORY:03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number:06}").write_bytes(os.urandom(scale.small))
    return tree


def _make_garbage(garbage: Path, scale: Scale) -> Path:
    garbage.mkdir(parents=True)
    size = min(_LARGE, scale.garbage)
    for number in range(scale.garbage // size):
        make_file(garbage / f"{number:04}", size)
    return garbage


def _seconds(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _names(scale: Scale) -> dict[str, str]:
    files, size = f"{scale.files} files of {scale.small} bytes", f"{scale.garbage // MIB} MiB"
    return {
        "snapshot": f"snapshot of {files}",
        "browse": f"list all directories of a snapshot of {files}",
        "copy": f"restore {files} to a directory",
        "restore": f"restore {files} in the drive",
        "gc": f"delete {size} that nothing refers to",
    }


def _tgdav(place: Path, tree: Path, garbage: Path, scale: Scale) -> dict[str, float]:
    home, names = Home(place), _names(scale)
    home.run("init", "--backend", "directory", "--path", str(place / "store"))

    def run(*words: str) -> str:
        return home.run(*words, timeout=_TIMEOUT).stdout

    found: dict[str, float] = {}
    with home.server() as server:
        run("put", str(tree), "/")
        run("sync", "--wait")
        found[names["snapshot"]] = _seconds(lambda: run("snapshot", "bench"))
        listed: list[str] = []
        found[names["browse"]] = _seconds(lambda: listed.append(run("ls", "-R", "--at", "bench", "/")))
        if len(listed[0].splitlines()) < scale.files:
            raise Failed("a snapshot lists fewer files than it has")
        copy = place / "copy"
        found[names["copy"]] = _seconds(lambda: run("get", "--at", "bench", "/tree", str(copy)))
        found[names["restore"]] = _seconds(lambda: run("restore", "bench", "--path", "/tree", "--to", "/again"))
        run("put", str(garbage), "/")
        run("sync", "--wait")
        _remove(home, server.url)
        run("trash", "empty")
        found[names["gc"]] = _seconds(lambda: run("gc"))
        server.terminate()
    _require_no_garbage(place / "store", scale)
    return found


def _require_no_garbage(store: Path, scale: Scale) -> None:
    left = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    if left > scale.garbage // 2 + 4 * scale.files * scale.small + 2 * MIB:
        raise Failed(f"{store} has {left} bytes: garbage was left")


def _remove(home: Home, url: str) -> None:
    user, password = home.auth
    subprocess.run(
        ["curl", "-sf", "-u", f"{user}:{password}", "-X", "DELETE", f"{url}garbage/"], check=True, capture_output=True
    )


def _restic(place: Path, tree: Path, garbage: Path, scale: Scale) -> dict[str, float]:
    names = _names(scale)
    place.mkdir(parents=True)
    (place / "password").write_text("benchmark", encoding="utf-8")
    words = ["restic", "-q", "-r", str(place / "repository"), "-p", str(place / "password"), "--no-cache"]

    def run(*more: str, directory: Path = tree.parent) -> str:
        done = subprocess.run([*words, *more], check=True, capture_output=True, text=True, cwd=directory)
        return done.stdout

    run("init")
    run("backup", "tree")
    found = {names["snapshot"]: _seconds(lambda: run("backup", "tree"))}
    found[names["browse"]] = _seconds(lambda: run("ls", "latest"))
    found[names["copy"]] = _seconds(lambda: run("restore", "latest", "--target", str(place / "copy")))
    run("backup", "--host", "garbage", "garbage", directory=garbage.parent)
    found[names["gc"]] = _seconds(lambda: run("forget", "--host", "garbage", "--keep-tag", "none", "--prune"))
    _require_no_garbage(place / "repository", scale)
    return found
