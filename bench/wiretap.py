"""A TCP relay on 127.0.0.1 that counts what passes, both ways: handshakes, TLS and frames."""

import socket
import threading


class Wiretap:
    """`port` leads to `target`, another port of this machine. `total`: bytes so far."""

    def __init__(self, target: int):
        self.total = 0
        self._target = target
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    self.total += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self) -> "Wiretap":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in (self._server, *self._open):
            connection.close()
