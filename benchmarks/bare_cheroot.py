"""The ceiling for small requests: a WSGI application on cheroot that keeps bodies in memory and answers with 4 KiB.

``python -m benchmarks.bare_cheroot PORT``
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from cheroot.wsgi import Server

_CONTENT = bytes(4096)


def main() -> None:
    kept: dict[str, bytes] = {}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            kept[environ["PATH_INFO"]] = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            start_response("201 Created", [("Content-Length", "0")])
            return [b""]
        start_response("200 OK", [("Content-Length", str(len(_CONTENT)))])
        return [_CONTENT]

    Server(("127.0.0.1", int(sys.argv[1])), application).start()


if __name__ == "__main__":
    main()
