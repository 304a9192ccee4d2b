"""Signatures between the nodes of a cluster: what root of a node has signed, every other node can check.

A signature says who, never when or what for: whoever reads a payload checks its kind, its age and whom it is meant for.
A signed text has the characters ``A-Z a-z 0-9 . _ -`` alone, so it is a value of an environment and a word of a line.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pbsdock.config.reader import ConfigError
from pbsdock.config.sections import NodesConfig
from pbsdock.config.trust import check_trusted
from pbsdock.core.errors import HookError

LEAST_KEY, MOST_KEY = 32, 4096  # bytes
MOST_TEXT = 1 << 20  # characters; munged takes no more either (munge.h, MUNGE_MAXIMUM_REQ_LEN)
KEY_FILE = "cluster.key"

_TEXT = re.compile(r"(k1|m1)\.[A-Za-z0-9._-]+")
_ANOTHER_WAY = "another way of signing; [nodes] sign_with must be the same on all nodes"
# munge.h. After these three, munge_decode(3) has checked the credential and gives its payload all the same.
_SUCCESS, _EXPIRED, _REWOUND, _REPLAYED = 0, 15, 16, 17
_AUTHENTIC = (_SUCCESS, _EXPIRED, _REWOUND, _REPLAYED)
_OURS = b"pbsdock\0"  # before the payload: root of a node may have munge sign for other programs as well
_MUNGED_AWAY = 6  # EMUNGE_SOCKET
_MUNGE_FRAME = re.compile(rb"MUNGE:([A-Za-z0-9+/]+={0,2}):\s*")
_METADATA = re.compile(rb"STATUS: +([0-9]+)\nUID: +([0-9]+)\n\n")
_MUNGE_TIMEOUT_S = 5.0


class SigningError(HookError):
    """Nothing could be signed, or what came is not authentic.

    Codes: ``not-authentic`` for a text that no root of this cluster has signed as it is; ``cannot-sign`` where this
    node's own key or munged cannot be used.
    """


class Signer(Protocol):
    """A way to sign that all nodes of the cluster share."""

    name: str

    def sign(self, payload: bytes) -> str:
        """The signed text, payload included. Raises SigningError."""

    def verify(self, text: str) -> bytes:
        """The payload, if root of a node of this cluster has signed it. Raises SigningError."""


class KeySigner:
    """HMAC-SHA256 (RFC 2104) with a key that all nodes have: ``k1.PAYLOAD.MAC``, both base64url without padding."""

    name = "key"

    def __init__(self, key: bytes) -> None:
        """*key*: as :func:`read_key` gives it. Raises SigningError for one of a wrong length."""
        if wrong := _wrong_length(len(key)):
            raise SigningError("cannot-sign", f"the cluster's key {wrong}")
        self._key = key

    def sign(self, payload: bytes) -> str:
        """The signed text, payload included."""
        head = f"k1.{_encode(payload)}"
        return f"{head}.{_encode(hmac.digest(self._key, head.encode(), hashlib.sha256))}"

    def verify(self, text: str) -> bytes:
        """The payload. Raises SigningError."""
        head, _, _ = _checked(text, "k1").rpartition(".")
        try:
            payload = _decode(head[3:])
        except ValueError:
            raise _not_authentic("its payload is not whole") from None
        # Compared as text, since several texts may stand for the same bytes in base64.
        if not hmac.compare_digest(self.sign(payload), text):
            raise _not_authentic("it was changed, or signed with another key")
        return payload


class MungeSigner:
    """Credentials of munged(8), which all nodes of the cluster share: ``m1.`` and the credential in base64url.

    What root has not signed is no signature here: any user can have munged sign for them. Nor can any user read one.
    Replayed, expired and rewound in munge's sense are no reasons to refuse: a text is checked more than once, and has
    a time of its own in its payload. Facts: munge.h, munge(1), unmunge(1) of 0.5.15.
    """

    name = "munge"

    def __init__(self, socket: str = "", programs: Path = Path("/usr/bin")) -> None:
        """*socket*: munged's; "": where munge was built to find it."""
        self._munge, self._unmunge = str(programs / "munge"), str(programs / "unmunge")
        self._socket = (f"--socket={socket}",) if socket else ()

    def answers(self) -> bool:
        """Whether munged signs."""
        try:
            self.sign(b"")
        except SigningError:
            return False
        return True

    def sign(self, payload: bytes) -> str:
        """The signed text, payload included. Raises SigningError."""
        code, out, said = self._run([self._munge, *self._socket, "--restrict-uid=0"], _OURS + payload)
        frame = _MUNGE_FRAME.fullmatch(out)
        if code != 0 or frame is None:
            raise SigningError("cannot-sign", f"munge does not sign: {said or f'exit status {code}'}")
        return f"m1.{_encode(base64.b64decode(frame[1]))}"

    def verify(self, text: str) -> bytes:
        """The payload. Raises SigningError."""
        try:
            credential = _decode(_checked(text, "m1")[3:])
        except ValueError:
            raise _not_authentic("it is not whole") from None
        call = [self._unmunge, *self._socket, "--numeric", "--keys=STATUS,UID"]
        code, out, said = self._run(call, b"MUNGE:" + base64.b64encode(credential) + b":\n")
        if code == _MUNGED_AWAY:
            raise SigningError("cannot-sign", f"munge cannot check a signature: {said}")
        head = _METADATA.match(out)
        if code not in _AUTHENTIC or head is None or int(head[1]) != code:
            raise _not_authentic(f"munge says: {said or f'exit status {code}'}")
        if int(head[2]) != 0:
            raise _not_authentic(f"uid {int(head[2])} has signed it, not root")
        payload = out[head.end() :]
        if not payload.startswith(_OURS):
            raise _not_authentic("another program has signed it")
        return payload.removeprefix(_OURS)

    def _run(self, call: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        """Exit status, output, and what was said about an error. Raises SigningError."""
        try:
            done = subprocess.run(
                call,
                input=data,
                capture_output=True,
                timeout=_MUNGE_TIMEOUT_S,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise SigningError("cannot-sign", f"munged has not answered in {_MUNGE_TIMEOUT_S:.0f} s") from None
        except OSError as error:
            raise SigningError("cannot-sign", f"{call[0]} cannot be started: {error.strerror}") from None
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:200]
        return done.returncode, done.stdout, said.removeprefix("munge: ").removeprefix("unmunge: ")


def choose(nodes: NodesConfig, config_file: Path, munge: MungeSigner | None = None) -> Signer | None:
    """How this node signs; None where the site has neither munge nor a key.

    *config_file*: the site's, beside which the key is by default. Raises SigningError for a key file that is there and
    cannot be used, or that is not there although ``sign_with = "key"``.
    """
    munge = munge or MungeSigner()
    file = key_file(nodes, config_file)
    if nodes.sign_with == "munge" or (nodes.sign_with == "auto" and munge.answers()):
        return munge
    if nodes.sign_with == "auto" and not os.path.lexists(file):
        return None
    return KeySigner(read_key(file))


def key_file(nodes: NodesConfig, config_file: Path) -> Path:
    """Where the cluster's key is."""
    return Path(nodes.key_file) if nodes.key_file else config_file.parent / KEY_FILE


def read_key(path: Path) -> bytes:
    """The cluster's key: a file that only root can read or replace. Raises SigningError."""
    try:
        check_trusted(path)
        with open(path, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o077:
                mode = f"{stat.S_IMODE(found.st_mode):04o}"
                raise SigningError(
                    "cannot-sign", f"{path} has mode {mode}; others than root must not read it: chmod 600"
                )
            if wrong := _wrong_length(found.st_size):
                raise SigningError("cannot-sign", f"{path} {wrong}; make one with pbsdock setup key")
            return file.read(MOST_KEY + 1)
    except FileNotFoundError:
        sentence = f"{path} does not exist; make it with pbsdock setup key, and copy it to all nodes"
        raise SigningError("cannot-sign", sentence) from None
    except ConfigError as error:
        raise SigningError("cannot-sign", str(error)) from None
    except OSError as error:
        raise SigningError("cannot-sign", f"{path} cannot be read: {error.strerror}") from None


def _wrong_length(length: int) -> str | None:
    return None if LEAST_KEY <= length <= MOST_KEY else f"has {length} bytes; expected {LEAST_KEY} to {MOST_KEY}"


def _checked(text: str, prefix: str) -> str:
    """The text, if it looks like one of *prefix*. Raises SigningError."""
    if len(text) > MOST_TEXT:
        raise _not_authentic(f"it has {len(text)} characters, at most {MOST_TEXT} are read")
    found = _TEXT.fullmatch(text)
    if found is None:
        raise _not_authentic("it is empty" if not text else "it is not written as one")
    if found[1] != prefix:
        raise _not_authentic(f"it is signed in {_ANOTHER_WAY}")
    return text


def _not_authentic(why: str) -> SigningError:
    return SigningError("not-authentic", f"the signature does not hold: {why}")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Strictly: one text for each content. Raises ValueError."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if _encode(data) != text:
        raise ValueError("not the shortest way to write it")
    return data
