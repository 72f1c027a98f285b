"""Why a mount was refused, as far as it can be seen from here. The FUSE library says it too, but not what to do."""

import os
import shutil
import sys
from pathlib import Path

from tgdav_fuse.options import MountOptions

_DEVICE = Path("/dev/fuse")
_CONFIGURATION = Path("/etc/fuse.conf")


def why_refused(where: Path, options: MountOptions) -> str:
    """Return what to do so that ``where`` can be mounted."""
    if sys.platform != "linux":
        return "is macFUSE installed and allowed?"
    if not _DEVICE.exists():
        return f"{_DEVICE} is missing: load the kernel's module (modprobe fuse), or give the container the device"
    if os.geteuid() == 0:
        return "is this process allowed to mount (CAP_SYS_ADMIN)?"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"this user may not use {_DEVICE}: join the group that owns it (often 'fuse')"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing: install the package fuse3"
    if not os.access(where, os.W_OK):
        return f"users mount at folders that they may write to; {where} is none"
    if {"allow_other", "allow_root"} & options.kernel and not _others_allowed():
        return f"allow_other and allow_root need the line 'user_allow_other' in {_CONFIGURATION}"
    return "the line above says what fusermount3 refused"


def _others_allowed() -> bool:
    try:
        lines = _CONFIGURATION.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
