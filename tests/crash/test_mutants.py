"""Mutation tests: each detector passes on the program as it is, and fails, for the right reason, on the mutated one."""

import multiprocessing
import os
import re
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.crash.detectors import DETECTORS, a_body_cut_off
from tests.crash.mutants import MUTANTS
from tests.support.forgetful_disk import usable

pytestmark = pytest.mark.skipif(not usable(), reason="FUSE cannot be used here")


def attempt(mutant: str, detector: str, folder: str) -> str:
    """Run a detector in a fork of this worker, with a mutation; return the message of its assertion, nothing if it passed.

    Raises RuntimeError when the run ended in any other way: an error of another kind does not count as caught.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, _verdict(mutant, detector, Path(folder)).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        verdict = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    if verdict.startswith("!") or not verdict:
        raise RuntimeError(verdict or "the detector's process died")
    return verdict[1:]


def _verdict(mutant: str, detector: str, folder: Path) -> str:
    try:
        if detector == "a_body_cut_off":
            a_body_cut_off(folder, mutant or "nothing")
        else:
            if mutant:
                MUTANTS[mutant].apply()
            DETECTORS[detector](folder)
    except AssertionError as error:
        return "." + (str(error) or "an assertion without a message")
    except BaseException:
        return "!" + traceback.format_exc()
    return "."


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessPoolExecutor]:
    """A process of its own with one thread, from which detectors are forked."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_detector_passes_without_a_mutation(worker: ProcessPoolExecutor, quick_path: Path, detector: str) -> None:
    assert worker.submit(attempt, "", detector, str(quick_path)).result() == ""


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_caught(worker: ProcessPoolExecutor, quick_path: Path, name: str) -> None:
    mutant = MUTANTS[name]
    message = worker.submit(attempt, name, mutant.detector, str(quick_path)).result()
    assert re.search(mutant.expected, message, re.DOTALL), f"{mutant.detector} says: {message or 'nothing is wrong'}"
    print(f"\nmutant: {name}: {mutant.detector}: {message.splitlines()[0][:150]}")
