"""The systemd units: systemd accepts them, and they set what the documentation promises."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
PROGRAMS = Path(sys.executable).parent
ALL = sorted(UNITS.glob("*/*.service"))


def settings(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser


@pytest.mark.mount_free
def test_each_kind_has_both_units() -> None:
    wanted = {"tgdav.service", "tgdav-fuse@.service"}
    assert {unit.name for unit in UNITS.glob("system/*")} == {unit.name for unit in UNITS.glob("user/*")} == wanted


@pytest.mark.mount_free
@pytest.mark.parametrize("unit", ALL, ids=lambda unit: f"{unit.parent.name}/{unit.name}")
def test_settings_of_each(unit: Path) -> None:
    service = settings(unit)["Service"]
    assert service["Type"] == "notify"
    assert service["LoadCredential"].startswith("tgdav-passphrase:")
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2 3 4"


@pytest.mark.mount_free
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
@pytest.mark.parametrize("unit", ALL, ids=lambda unit: f"{unit.parent.name}/{unit.name}")
def test_systemd_accepts_them(tmp_path: Path, unit: Path) -> None:
    text = unit.read_text().replace("/usr/local/bin", str(PROGRAMS)).replace("%h/.local/bin", str(PROGRAMS))
    copy = tmp_path / unit.name.replace("@", "@mnt-tg")
    copy.write_text(text)
    words = ["systemd-analyze", *(["--user"] if unit.parent.name == "user" else []), "verify", str(copy)]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
