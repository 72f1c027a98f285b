"""What the process does with its memory; in processes of their own, as it lasts until the end."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_what_lasts_is_left_out_of_the_collectors_rounds() -> None:
    code = """
import gc
from tgdav.cli.memory import settle_memory
lasting = [[] for _ in range(1000)]
settle_memory()
print(gc.get_freeze_count() > 1000, any(one is lasting for one in gc.get_objects()))
knot = []
knot.append(knot)
del knot
print(gc.collect())
"""
    assert run(code).split() == ["True", "False", "1"]
