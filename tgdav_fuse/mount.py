"""The program ``tgdav-fuse``: a mount in the foreground."""

import sys

from tgdav.cli.app import main as run


def main() -> int:
    """Run ``tgdav-fuse`` with the process's arguments and return its exit code."""
    return run(["mount", "--foreground", *sys.argv[1:]])
