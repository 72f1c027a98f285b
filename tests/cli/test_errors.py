"""The table of exit codes, and errors in words."""

import os

import pytest

from tgdav import errors
from tgdav.cli.errors import as_json, exit_code, for_control, one_line
from tgdav.errors import ConfigError, TgdavError
from tgdav.wording import printable

PROBLEM = {"file": "c.yaml", "key": "a.b", "found": "1", "allowed": "2"}
CASES: list[tuple[Exception, int]] = [
    (TgdavError("x"), 1),
    (errors.UsageError("x"), 2),
    (ConfigError([PROBLEM]), 2),
    (errors.NewerFormat("x", 2), 2),
    (errors.AccessError("x"), 3),
    (errors.NotLoggedIn(), 3),
    (errors.DamageError("x"), 4),
    (errors.BlobMissing("x"), 4),
    (errors.StoreError("x"), 5),
    (errors.StoreUnavailable("x"), 5),
    (errors.StoreRejected("x"), 5),
    (errors.VaultInUse("x"), 6),
    (errors.LoginInUse("x"), 6),
    (errors.WriterReplaced("x"), 7),
    (errors.NoSpace("x"), 1),
    (errors.WouldBlock("x"), 1),
    (OSError(28, "No space left"), 1),
    (RuntimeError("x"), 1),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=lambda case: type(case).__name__)
def test_each_error_has_its_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code
    assert for_control(error)["exit"] == code


def test_every_error_class_is_in_the_cases() -> None:
    classes = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TgdavError)}
    covered = {base for error, _ in CASES for base in type(error).__mro__}
    assert not {kind for kind in classes if not issubclass(kind, errors.FileSystemError)} - covered


def test_an_error_line_has_the_cause_and_the_remedy() -> None:
    assert one_line(errors.AccessError("wrong passphrase", hint="try another")) == "wrong passphrase; try another"
    assert one_line(FileNotFoundError(2, "No such file", "/there")) == "No such file: /there"


def test_many_problems_are_one_line() -> None:
    line = one_line(ConfigError([PROBLEM, PROBLEM, PROBLEM]))
    assert line == "c.yaml: a.b: found 1, allowed: 2 (and 2 more: run 'tgdav config check')"


def test_unexpected_errors_reveal_nothing() -> None:
    assert "hunter2" not in one_line(RuntimeError("hunter2"))
    assert as_json(RuntimeError("hunter2"))["error"]["kind"] == "failure"


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[2Jb\nü\u202e\udcff") == "a\\x1b[2Jb\\nü\\u202e\\udcff"
    assert os.linesep not in one_line(errors.UsageError("two\nlines", hint="and\rmore"))
