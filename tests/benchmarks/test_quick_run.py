"""The whole harness at tiny sizes: all servers run and answer, all workloads end, the JSON is what it should be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import WORKLOADS
from benchmarks.contestants import CHEROOT, RCLONE, TGDAV, WSGIDAV
from benchmarks.pipeline import SUM, WHOLE

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
