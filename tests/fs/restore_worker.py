"""``python -m tests.fs.restore_worker FOLDER NOW NUMBER``: restore the snapshot ``then``, and be killed at a failpoint of it.

NOW is the time in ns, NUMBER counts the failpoints of restores from 1. Exits 0 if the restore was done before.
"""

import os
import signal
import sys
from pathlib import Path

from tests.support.platform import ManualClock
from tests.support.volumes import open_volume
from tgdav.disk import SystemDisk
from tgdav.entropy import SystemEntropy
from tgdav.failpoints import installed
from tgdav.fs import restoring
from tgdav.platform import Platform


def main(folder: Path, now: int, number: int) -> None:
    restoring.STEPS = 4
    volume = open_volume(folder, platform=Platform(ManualClock(now), SystemEntropy(), SystemDisk()))
    left = number

    def stop(name: str) -> None:
        nonlocal left
        left -= name.startswith("restore.")
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with installed(stop):
        volume.restorer.restore("then", (), None, lambda *_: None)
    volume.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
