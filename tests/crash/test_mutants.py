"""The proofs can fail: with a bug planted on purpose each does, and without it holds."""

import multiprocessing
import os
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2

from tests.crash.detectors import PROOFS, a_body_cut_off
from tests.crash.mutants import BUGS, CAUGHT_BY
from tests.support.forgetful_disk import usable
from tgdav.errors import TgdavError

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")


def attempt(bug: str, proof: str, folder: str) -> str:
    """Run a proof in a fork of this worker, with a bug planted; return what the proof said, nothing if it held.

    Raises RuntimeError when the run ended in any other way than the proof's own verdict.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, _verdict(bug, proof, Path(folder)).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    if said.startswith("!") or not said:
        raise RuntimeError(said or "the proof's process died")
    return said[1:]


def _verdict(bug: str, proof: str, folder: Path) -> str:
    try:
        if proof == "a_body_cut_off":
            a_body_cut_off(folder, bug or "nothing")
        else:
            if bug:
                BUGS[bug]()
            PROOFS[proof](folder)
    except (AssertionError, TgdavError, OSError, dbapi2.Error) as error:
        return "." + (str(error) or str(traceback.extract_tb(error.__traceback__)[-1].line))
    except BaseException:
        return "!" + traceback.format_exc()
    return "."


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    """A process of its own with one thread, from which proofs are forked."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("proof", PROOFS)
def test_the_proof_holds(worker: ProcessPoolExecutor, quick_path: Path, proof: str) -> None:
    assert worker.submit(attempt, "", proof, str(quick_path)).result() == ""


@pytest.mark.parametrize("bug", BUGS)
def test_the_bug_is_caught(worker: ProcessPoolExecutor, quick_path: Path, bug: str) -> None:
    said = worker.submit(attempt, bug, CAUGHT_BY[bug], str(quick_path)).result()
    assert said, f"{CAUGHT_BY[bug]} does not notice: {bug}"
    print(f"\nplanted: {bug}: {CAUGHT_BY[bug]}: {said.splitlines()[0][:150]}")


def test_there_are_enough() -> None:
    assert len(BUGS) >= 15
    assert set(CAUGHT_BY.values()) <= set(PROOFS)
