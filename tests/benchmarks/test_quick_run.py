"""The whole harness at tiny sizes: all servers run and answer, all workloads end, the JSON is what it should be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import WORKLOADS
from benchmarks.contestants import CHEROOT, RCLONE, TGDAV, WSGIDAV
from benchmarks.pipeline import SUM, WHOLE
from tests.support.mounts import unusable

ROOT = Path(__file__).parents[2]


@pytest.mark.clients
def test_a_quick_run_measures_everything_and_judges_nothing(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(target), "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in WORKLOADS:
        assert f"{name} …" in done.stdout
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["quick"] is True
    assert found["machine"].keys() >= {"processor", "memory", "system", "python", "rclone", "wsgidav", "cheroot"}
    assert {each["contestant"] for each in found["measurements"]} >= {TGDAV, RCLONE, WSGIDAV, CHEROOT, SUM, WHOLE}
    assert all(len(each["samples"]) == 1 and each["median"] > 0 for each in found["measurements"])
    assert len(found["comparisons"]) == 25
    assert len(found["counts"]) == 6
    assert {each["met"] for each in found["comparisons"] + found["counts"]} == {None}
    assert list(tmp_path.iterdir()) == [target]


def test_a_checkout_is_compared_with_another(tmp_path: Path) -> None:
    """Here with itself: what the program of the other checkout is called is known from its virtual environment."""
    scripts = tmp_path / "other" / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name, module in {"tgdav": "tgdav", "tgdav-fuse": "tgdav_fuse"}.items():
        (scripts / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n', encoding="utf-8")
        (scripts / name).chmod(0o755)
    command = [sys.executable, "-m", "benchmarks.before_after", str(tmp_path / "other"), "--rounds", "1"]
    command += ["--files", "10", "--large", "1", "--folder", str(tmp_path)]
    if unusable():
        command += ["--only", "serve", "--only", "start"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for workload in ("PUT 4 KiB, 8 clients", "PROPFIND of 10 files", "GET a large file", "tgdav --version"):
        assert workload in done.stdout
    assert unusable() or "untar 10 files" in done.stdout
