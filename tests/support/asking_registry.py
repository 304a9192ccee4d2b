"""A registry that wants a password from everybody and has nothing; it notes who showed it what."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asking:
    """What was asked: (path, Authorization header)."""

    address: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)

    def shown(self) -> list[str]:
        """Each USER:PASSWORD it was shown, the empty one apart."""
        found = [base64.b64decode(one.split()[-1]).decode() for _, one in self.asked if one]
        return [one for one in found if one != ":"]

    def asked_for(self, path: str) -> bool:
        """Whether anything below a path was asked for."""
        return any(one.startswith(path) for one, _ in self.asked)


@contextmanager
def asking_registry(sends_to: str = "") -> Iterator[Asking]:
    """Serve on loopback; with *sends_to*, who is logged in is sent on to ``/v2/moved/`` of that address."""
    asking = Asking()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization", "")
            asking.asked.append((self.path, shown))
            if not shown:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
            elif self.path == "/v2/" or not sends_to:
                self.send_response(200 if self.path == "/v2/" else 404)
            else:
                self.send_response(307)
                self.send_header("Location", f"http://{sends_to}/v2/moved/manifests/1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    asking.address = f"127.0.0.1:{server.server_port}"
    try:
        yield asking
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
