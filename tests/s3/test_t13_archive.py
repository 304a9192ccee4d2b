"""T13: secrets never pass the engine's archive calls: of everything the agent asks of it, each call is one we know.

``docker cp`` and its API resolve paths inside a container as root (CVE-2018-15664 and its successors). What the agent asks
of an image by them it reads only, from a container that has the image alone and never runs: nothing in it can move.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.s3.site import Site, config

pytestmark = pytest.mark.engine
_KNOWN = re.compile(
    r"GET (/v[\d.]+)?/(_ping|version|info|events\?.*|containers/json\?.*|networks\?.*|containers/[^/]+/json|images/.+/json|exec/\w+/json)"
    r"|HEAD /_ping"
    r"|POST (/v[\d.]+)?/(containers/create\?.*|containers/[^/]+/(start|attach\?.*|resize\?.*)|exec/\w+/(start|resize\?.*)"
    r"|containers/[^/]+/exec)"
    r"|DELETE (/v[\d.]+)?/containers/[^/]+\?v=1&force=1"
)


_ARCHIVE = re.compile(r"(GET|HEAD) /v[\d.]+/containers/([0-9a-f]{64})/archive\?path=/[^?&]*")


@contextmanager
def _listening(path: Path, heard: list[bytes]) -> Iterator[None]:
    """A socket before the engine's that passes everything on and keeps what the agent says."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def pump(source: socket.socket, target: socket.socket, keep: bool) -> None:
        try:
            while data := source.recv(65536):
                if keep:
                    heard.append(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def accept() -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect("/var/run/docker.sock")
            threading.Thread(target=pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=pump, args=(far, near, False), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        path.unlink()


@pytest.mark.threat(12)
def test_every_call_is_known(site: Site) -> None:
    """From the prologue to the epilogue of a job with credentials; none of which is in any request."""
    heard: list[bytes] = []
    path = site.instance.root / "ear.sock"
    with _listening(path, heard):
        site.instance.configure(f'[engine]\nsocket = "{path}"\n' + config(site.store))
        done = site.run("--s3 ceph:alice-in --s3 keys:alice-out:rw", "cat $AWS_SHARED_CREDENTIALS_FILE")
        wait_until("all is gone", lambda: site.instance.left() == [])
        site.instance.configure(config(site.store))
    said = b"".join(heard)
    lines = [
        one.decode()
        for one in re.findall(rb"^((?:GET|HEAD|PUT|POST|DELETE|PATCH) \S+) HTTP/1\.1\r$", said, re.MULTILINE)
    ]
    secrets = re.findall(rb"= (\S{12,})$", done.stdout, re.MULTILINE)

    assert [one for one in lines if "/create?" in one]
    archives = [found for one in lines if (found := _ARCHIVE.fullmatch(one))]
    assert archives, "no image was looked into: nothing was tried"
    for container in {found[2] for found in archives}:
        others = [one for one in lines if container in one and not _ARCHIVE.fullmatch(one)]
        assert [one.split()[0] for one in others] == ["GET", "DELETE"], others  # looked whether it is there, removed
    assert b'"NetworkMode": "none", "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]}}' in said  # and no mounts
    assert [one for one in lines if not _KNOWN.fullmatch(one) and not _ARCHIVE.fullmatch(one)] == []
    assert len(secrets) >= 4
    assert [one for one in secrets if one in said] == []
