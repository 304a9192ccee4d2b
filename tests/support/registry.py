"""A real registry (Debian's docker-registry) on loopback, and servers that misbehave as one."""

from __future__ import annotations

import ctypes
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import wait_until
from tests.support.ports import free_port


@contextmanager
def registry(htpasswd: str = "") -> Iterator[str]:
    """Run a registry; yields ``127.0.0.1:PORT``. *htpasswd* is a bcrypt line, or empty for an open one."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-registry."))
    address = f"127.0.0.1:{free_port()}"
    auth = ""
    if htpasswd:
        (root / "htpasswd").write_text(htpasswd + "\n")
        auth = f"auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n"
    (root / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {root}/data}}\n"
        f"http: {{addr: '{address}'}}\n{auth}"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(root / "config.yml")],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    host, port = address.split(":")

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    try:
        wait_until("the registry listens", listens)
        yield address
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def silent_registry() -> Iterator[str]:
    """Something that accepts connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for one in held:
            one.close()


def htpasswd(name: str, password: str) -> str:
    """A line of an htpasswd file, as the registry wants it: bcrypt."""
    library = ctypes.CDLL("libcrypt.so.1")  # crypt(3); Python 3.13 wraps it no more
    for function in (library.crypt, library.crypt_gensalt):
        function.restype = ctypes.c_char_p
    salt = library.crypt_gensalt(b"$2b$", ctypes.c_ulong(5), None, 0)
    return f"{name}:{library.crypt(password.encode(), salt).decode()}"
