"""The program tgdav with another ``serve``: the vault's drive in a stock WsgiDAVApp on cheroot, as docs/embedding.md shows.

``python -m tests.support.embedded COMMAND …``; every other command is tgdav's own.
"""

import os
import signal
import sys
from types import FrameType

from cheroot.wsgi import Server
from wsgidav.wsgidav_app import WsgiDAVApp

from tgdav.cli import main
from tgdav.config import StatePaths, load
from tgdav.crypto.passphrase import Passphrase
from tgdav.fs.api import FileSystem
from tgdav.platform import Platform
from tgdav.volume.volume import Volume
from tgdav.webdav.provider import Provider


def application(fs: FileSystem, password: str) -> WsgiDAVApp:
    """Return the application with one user, ``tgdav``."""
    users = {"*": {"tgdav": {"password": password}}}
    return WsgiDAVApp(
        {
            "provider_mapping": {"/": Provider(fs)},
            "simple_dc": {"user_mapping": users},
            "block_size": 1 << 20,
            "verbose": 0,
        }
    )


def serve() -> None:
    """Serve the vault of TGDAV_HOME on a free port until SIGTERM."""
    paths = StatePaths.from_environment(dict(os.environ))
    config = load(paths.config_file, {}).config
    secret = Passphrase(os.environ["TGDAV_PASSPHRASE"])
    volume = Volume.open(paths, config, secret, platform=Platform.system())
    try:
        volume.start()
        app = application(volume.fs, os.environ["TGDAV_WEBDAV_PASSWORD"])
        server = Server(("127.0.0.1", 0), app, numthreads=32, request_queue_size=128)
        server.error_log = lambda *_, **__: None
        server.prepare()

        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        print(f"listening on http://127.0.0.1:{server.bind_addr[1]}/", flush=True)
        try:
            server.serve()
        except KeyboardInterrupt:
            server.stop()
    finally:
        volume.close()


if __name__ == "__main__":
    if "serve" in sys.argv[1:]:
        serve()
    else:
        sys.exit(main())
