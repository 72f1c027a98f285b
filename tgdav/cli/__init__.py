"""The command line: thin commands over an open volume or the control socket of the process that has it open.

Here, and in ``tgdav_fuse.__main__``, the environment is read; errors become one line and an exit code; nothing else is decided.
"""

from tgdav.cli.app import main

__all__ = ["main"]
