"""The key file: a passphrase that a machine made for itself, when nobody gave one."""

from pathlib import Path

from tgdav.errors import DamageError
from tgdav.platform import Platform
from tgdav.volume.folders import make_folder, write_file


def key_file_passphrase(path: Path, platform: Platform, *, make: bool) -> str | None:
    """Return the passphrase in the key file; with ``make`` a new one is made where there is none.

    Raises DamageError (nothing is in the file), NoSpace, LocalFailure.
    """
    try:
        found = path.read_text(encoding="utf-8-sig", errors="replace").strip()
    except FileNotFoundError:
        if not make:
            return None
    else:
        if not found:
            raise DamageError(f"the key file {path} is empty", blob="key file", hint="put the passphrase into it")
        return found
    made = platform.entropy.bytes(32).hex()
    make_folder(path.parent, platform.disk)
    write_file(path, made.encode() + b"\n", platform.disk)
    return made
