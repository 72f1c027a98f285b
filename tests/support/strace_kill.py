"""Kill a program as it enters its N-th system call of a kind, for every N (Debian's strace).

strace counts calls for each thread on its own: ``when=N`` hits the first thread that comes to its N-th call. The
signal is delivered on entry, so the call itself does not happen. A test must count the runs that were killed: with
--seccomp-bpf, strace 6.1 lets every call pass without a word, which is why it is not used here.
"""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DURABLE_CALLS = ("pwrite64", "write", "fsync", "fdatasync", "rename", "link", "unlink", "ftruncate", "openat")


@dataclass(frozen=True)
class KillOutcome:
    """One run: ``killed`` at the ``number``-th call, or ended on its own with ``code``. ``last`` is the last traced call."""

    number: int
    killed: bool
    code: int
    stdout: str
    stderr: str
    last: str


def usable() -> bool:
    """Return whether strace is there and may trace."""
    program = shutil.which("strace")
    return program is not None and subprocess.run([program, "-o", "/dev/null", "true"], check=False).returncode == 0


def strace_prefix(calls: str | Iterable[str], number: int, log: Path) -> list[str]:
    """Return the prefix of a command line with which it is killed at the ``number``-th of ``calls``."""
    chosen = calls if isinstance(calls, str) else ",".join(calls)
    trace = ["-e", f"trace={chosen}", "-e", f"inject={chosen}:signal=KILL:when={number}"]
    return ["strace", "-f", "-qq", "-e", "signal=none", "-o", str(log), *trace]


def kill_at(
    command: Sequence[str], calls: str | Iterable[str], number: int, *, env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> KillOutcome:  # fmt: skip
    """Run ``command`` once, killed at its ``number``-th call. Raises subprocess.TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="strace-") as folder:
        log = Path(folder) / "log"
        done = subprocess.run(
            [*strace_prefix(calls, number, log), *command], env=env, text=True, capture_output=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        lines = [line for line in log.read_text(errors="replace").splitlines() if "(" in line]
    killed = done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return KillOutcome(number, killed, done.returncode, done.stdout, done.stderr, lines[-1] if lines else "")


def kill_at_each(
    prepare: Callable[[int], Sequence[str]], calls: str | Iterable[str], *, env: Mapping[str, str] | None = None,
    first: int = 1, stride: int = 1, cap: int | None = None, timeout: float = 60.0,
) -> Iterator[KillOutcome]:  # fmt: skip
    """Yield one outcome a run: N = ``first``, then every ``stride``-th, until a run ends on its own (yielded too).

    ``prepare(N)`` returns the command of that run, with a fresh state where that is wanted. At most ``cap`` runs.
    """
    chosen = calls if isinstance(calls, str) else ",".join(calls)
    number, runs = first, 0
    while cap is None or runs < cap:
        outcome = kill_at(prepare(number), chosen, number, env=env, timeout=timeout)
        yield outcome
        if not outcome.killed:
            return
        number, runs = number + stride, runs + 1
