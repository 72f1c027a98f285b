"""Random histories of each file system against the model, with crashes; and they find mutants of the model."""

import os
import random
import re

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.fs.machine_steps import FileSystemMachine
from tests.fs.mutants import MUTANTS, Mutant
from tests.fs.subjects import FACTORIES, Factory

HISTORIES = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SEARCH = settings(
    HISTORIES,
    max_examples=1000,
    phases=[Phase.generate],
    derandomize=False,
    report_multiple_bugs=False,
    print_blob=False,
)


def histories(factory: Factory) -> type[FileSystemMachine]:
    return type("Histories", (FileSystemMachine,), {"factory": factory})


def run(factory: Factory, how: settings) -> None:
    run_state_machine_as_test(histories(factory), settings=how)


def test_random_histories(factory: Factory) -> None:
    run(factory, settings(HISTORIES, max_examples=factory.histories))


@pytest.mark.torture
def test_many_random_histories_of_the_real_file_system() -> None:
    minutes = int(os.environ.get("TGDAV_TORTURE_MINUTES", "10"))
    real = next(factory for factory in FACTORIES if factory.name == "volume")
    count = 30 * minutes
    number = random.randrange(1 << 32)
    machine = seed(number)(histories(real))
    run_state_machine_as_test(machine, settings=settings(HISTORIES, max_examples=count, derandomize=False))
    steps = HISTORIES.stateful_step_count
    print(f"{count} random histories of {steps} steps, crashes among them, seed {number}: all as the model")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.model.__name__)
def test_finds_a_mutant(mutant: Mutant) -> None:
    with pytest.raises(AssertionError) as found:
        run_state_machine_as_test(seed(mutant.seed)(histories(mutant.factory)), settings=SEARCH)
    assert re.search(mutant.expected, str(found.value)), found.value
