"""What the process does with its memory; in processes of their own, as it lasts until the end."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_process_with_keys_writes_no_core_dumps() -> None:
    code = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
from tgdav.cli import main
main(["version"], {})
PR_GET_DUMPABLE = 3
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE), resource.getrlimit(resource.RLIMIT_CORE)[0])
"""
    assert run(code).splitlines()[-1] == "0 0"


def test_lasting_objects_are_not_scanned_by_the_collector() -> None:
    code = """
import gc
from tgdav.cli.process import freeze_objects
lasting = [[] for _ in range(1000)]
freeze_objects()
print(gc.get_freeze_count() > 1000, any(one is lasting for one in gc.get_objects()))
knot = []
knot.append(knot)
del knot
print(gc.collect())
"""
    assert run(code).split() == ["True", "False", "1"]


def test_memory_freed_by_one_thread_is_reused_by_another() -> None:
    code = """
import threading
from pathlib import Path
from tgdav.cli.process import tune_allocator
tune_allocator()
MIB = 1024 * 1024
lasting = []

def most() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

def work() -> None:
    blocks = []
    for _ in range(64):
        blocks.append(bytearray(b"x") * MIB)
        lasting.append(bytearray(1000))

grown = []
for _ in range(4):
    before = most()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    grown.append((most() - before) // 1024)
work()
grown.append((most() - before) // 1024)
print(grown[0], sum(grown[1:]))
"""
    first, later = map(int, run(code).split())
    assert first >= 60
    assert later < 10
