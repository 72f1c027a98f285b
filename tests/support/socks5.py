"""A SOCKS5 proxy on loopback (RFC 1928, password method of RFC 1929): enough for a client that connects out."""

import contextlib
import socket
import threading
from typing import Self

_VERSION, _PASSWORD, _NOTHING_FITS = 5, 2, 255


class Socks5Proxy:
    """Accepts logins with ``name`` and ``password``; ``visits`` has the addresses that were connected to."""

    def __init__(self, name: str, password: str) -> None:
        self._name, self._password = name.encode(), password.encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.visits: list[tuple[str, int]] = []
        self.refused = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as asked:
            methods = asked.read(asked.read(2)[1])
            if _PASSWORD not in methods:
                client.sendall(bytes((_VERSION, _NOTHING_FITS)))
                return
            client.sendall(bytes((_VERSION, _PASSWORD)))
            name = asked.read(asked.read(2)[1])
            password = asked.read(asked.read(1)[0])
            if (name, password) != (self._name, self._password):
                self.refused += 1
                client.sendall(b"\x01\x01")
                return
            client.sendall(b"\x01\x00")
            kind = asked.read(4)[3]
            host = socket.inet_ntoa(asked.read(4)) if kind == 1 else asked.read(asked.read(1)[0]).decode()
            port = int.from_bytes(asked.read(2), "big")
            self.visits.append((host, port))
            with socket.create_connection((host, port)) as target:
                client.sendall(bytes((_VERSION, 0, 0, 1)) + bytes(6))
                back = threading.Thread(target=_pump, args=(target, client), daemon=True)
                back.start()
                _pump(client, target)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
