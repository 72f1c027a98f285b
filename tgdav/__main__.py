"""``python -m tgdav``."""

import sys

from tgdav.cli import main

if __name__ == "__main__":
    sys.exit(main())
