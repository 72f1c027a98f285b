"""The command line: each command calls an open volume, or the process that has it open through its control socket.

Only this package, ``tgdav.drive`` and ``tgdav_fuse.__main__`` read the environment. Errors become one line and an exit code.
"""

from tgdav.cli.app import main

__all__ = ["main"]
