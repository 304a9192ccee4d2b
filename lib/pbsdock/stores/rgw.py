"""Signed questions to a RADOS gateway: its IAM and STS actions, and its admin API.

botocore signs, urllib3 sends. The service clients of botocore are left out on purpose: loading their models costs
more memory than all the rest of the agent, for six calls.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import socket
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from pbsdock.config.tables import StoreConfig
from pbsdock.stores.errors import StoreError, reason_of
from pbsdock.stores.identity import Identity
from pbsdock.stores.secret import Secret

_ANSWER_LIMIT = 8 << 20  # bytes
_AT_ONCE = 32


class _Prompt(urllib3.connection.HTTPConnection):
    """Acknowledges an answer's first packet at once.

    On a connection that is kept, a gateway whose frontend has ``tcp_nodelay`` off, as radosgw 16.2 has by default,
    holds the second packet back until then: 44 ms instead of 1 (measured).
    """

    def getresponse(self) -> Any:
        """Wait for the answer. The kernel forgets the option, so it is set for each one (tcp(7))."""
        _acknowledge_at_once(self.sock)
        return super().getresponse()


class _PromptTls(urllib3.connection.HTTPSConnection):
    """The same over TLS."""

    def getresponse(self) -> Any:
        """Wait for the answer."""
        _acknowledge_at_once(self.sock)
        return super().getresponse()


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Prompt


class _PoolTls(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PromptTls


def _acknowledge_at_once(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Gateway:
    """One store's gateway; any thread may ask. Every question takes at most the store's ``timeout_s``."""

    def __init__(self, name: str, store: StoreConfig) -> None:
        self.name = name
        self.store = store
        self._pool = urllib3.PoolManager(
            maxsize=_AT_ONCE,
            retries=False,
            timeout=urllib3.Timeout(total=store.timeout_s),
            cert_reqs="CERT_REQUIRED",
            ca_certs=store.ca_bundle or None,
        )
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTls}

    def query(self, identity: Identity, service: str, action: str, **parameters: str) -> ElementTree.Element:
        """One action of IAM or STS; returns the answer's root, its tags without namespaces. Raises StoreError.

        Ceph 16 does not decode ``+`` as a blank in a form body, so blanks are sent as ``%20``.
        """
        form = {"Action": action, **parameters}
        body = urlencode(form, quote_via=quote, safe="-_.~").encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        request = AWSRequest(method="POST", url=f"{self.store.endpoint}/", data=body, headers=headers)
        SigV4Auth(_signer(identity), service, self.store.region).add_auth(request)
        status, answer = self._send(action, request, body)
        root = _xml(answer)
        if status >= 300 or root is None:
            code = text_of(root, "Code") if root is not None else ""
            raise self._error(code or f"HTTP {status}", action, status)
        return root

    def admin(
        self, identity: Identity, method: str, path: str, parameters: Mapping[str, str], doing: str, missing: str = ""
    ) -> Any:
        """One call of the admin API; returns its JSON, None where there is none or the answer is *missing*."""
        query = urlencode(parameters, quote_via=quote, safe="-_.~")
        request = AWSRequest(method=method, url=f"{self.store.endpoint}/admin/{path}?{query}")
        S3SigV4Auth(_signer(identity), "s3", self.store.region).add_auth(request)
        status, answer = self._send(doing, request, None)
        try:
            data = json.loads(answer) if answer.strip() else None
        except ValueError:
            data = None
        if status >= 300:
            code = str(data.get("Code", "")) if isinstance(data, dict) else ""
            if missing and code == missing:
                return None
            raise self._error(code or f"HTTP {status}", doing, status)
        return data

    # -- a bucket, with a job's own credentials ------------------------------------------------------------------------

    def bucket_owner(self, secret: Secret, bucket: str) -> str:
        """The gateway user a bucket belongs to, ``TENANT$USER`` or ``USER``. Raises StoreError."""
        root = _xml(self._bucket(secret, "GET", bucket, "acl"))
        owner = text_of(root.find("Owner"), "ID") if root is not None else ""
        if not owner:
            raise StoreError("store-failed", f"bucket {bucket!r} shows no owner", self.name)
        return owner

    def bucket_policy(self, secret: Secret, bucket: str) -> str | None:
        """A bucket's policy, None if it has none. Raises StoreError."""
        answer = self._bucket(secret, "GET", bucket, "policy", missing="NoSuchBucketPolicy")
        return answer.decode("utf-8", "replace") if answer else None

    def set_bucket_policy(self, secret: Secret, bucket: str, policy: str) -> None:
        """Set a bucket's policy. Raises StoreError."""
        self._bucket(secret, "PUT", bucket, "policy", body=policy.encode())

    def probe(self, secret: Secret, bucket: str) -> int:
        """List at most one key of a bucket; returns HTTP's status. Raises StoreError if there is no answer at all."""
        request = AWSRequest(method="GET", url=f"{self.store.endpoint}/{quote(bucket)}?list-type=2&max-keys=1")
        S3SigV4Auth(_signer(secret), "s3", self.store.region).add_auth(request)
        return self._send("list a bucket", request, None)[0]

    def _bucket(
        self, secret: Secret, method: str, bucket: str, resource: str, body: bytes | None = None, missing: str = ""
    ) -> bytes:
        doing = f"{method} {resource} of bucket {bucket!r}"
        request = AWSRequest(method=method, url=f"{self.store.endpoint}/{quote(bucket)}?{resource}", data=body)
        S3SigV4Auth(_signer(secret), "s3", self.store.region).add_auth(request)
        status, answer = self._send(doing, request, body)
        if status < 300:
            return answer
        root = _xml(answer)
        code = text_of(root, "Code") if root is not None else ""
        if missing and code == missing:
            return b""
        raise StoreError("store-failed", f"{doing} failed: {_plain(code) or f'HTTP {status}'}", self.name, status)

    def _error(self, code: str, action: str, status: int) -> StoreError:
        ours, reason = reason_of(_plain(code), action)
        return StoreError(ours, reason, self.name, status)

    def _send(self, doing: str, request: AWSRequest, body: bytes | None) -> tuple[int, bytes]:
        endpoint = self.store.endpoint
        try:
            status, content, date = self._ask(request, body)
        except urllib3.exceptions.SSLError as error:
            if "CERTIFICATE_VERIFY_FAILED" not in str(error):
                raise StoreError("store-unreachable", f"{endpoint} does not speak proper TLS", self.name) from None
            raise StoreError(
                "store-certificate",
                f"the certificate of {endpoint} is not known here; see s3.{self.name}.ca_bundle",
                self.name,
            ) from None
        except urllib3.exceptions.NewConnectionError:
            raise StoreError("store-unreachable", f"{endpoint} cannot be reached ({doing})", self.name) from None
        except urllib3.exceptions.TimeoutError:
            reason = f"{endpoint} gave no answer within {self.store.timeout_s:g} s ({doing})"
            raise StoreError("store-too-slow", reason, self.name) from None
        except (urllib3.exceptions.HTTPError, OSError):
            raise StoreError("store-unreachable", f"{endpoint} cannot be reached ({doing})", self.name) from None
        self._check_clock(date)
        return status, content

    def _ask(self, request: AWSRequest, body: bytes | None) -> tuple[int, bytes, str | None]:
        """Send it; returns status, content and date. A kept connection may have been closed at the other end just now:
        then it is sent once more, as all that is asked here can be repeated."""
        try:
            return self._exchange(request, body)
        except urllib3.exceptions.ProtocolError:
            return self._exchange(request, body)

    def _exchange(self, request: AWSRequest, body: bytes | None) -> tuple[int, bytes, str | None]:
        answer = self._pool.request(
            request.method,
            request.url,
            body=body,
            headers=dict(request.headers),
            redirect=False,
            preload_content=False,
        )
        content = answer.read(_ANSWER_LIMIT)
        if answer.read(1):  # longer than it may be: its rest would be taken for the next answer
            answer.close()
        answer.release_conn()
        return answer.status, content, answer.headers.get("Date")

    def _check_clock(self, date: str | None) -> None:
        """A gateway whose clock is off signs sessions that end too early or too late (RFC 9110, Date)."""
        try:
            theirs = email.utils.parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        if abs(time.time() - theirs) > self.store.skew_s + 1:
            raise StoreError(
                "store-clock",
                f"the clocks of this node and of the gateway differ by {abs(time.time() - theirs):.0f} s;"
                f" {self.store.skew_s:.0f} s are allowed (s3.{self.name}.skew_s)",
                self.name,
            )


def _signer(who: Identity | Secret) -> Credentials:
    return Credentials(who.access_key, who.secret_key, who.token if isinstance(who, Secret) else None)


def _plain(code: str) -> str:
    """An error code that is one: what a gateway answers goes into sentences."""
    return "".join(character for character in code if character.isalnum() or character == " ")[:60]


def _xml(answer: bytes) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(answer)  # noqa: S314 - the site's own gateway, and expat refuses entity bombs
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def text_of(root: ElementTree.Element | None, name: str) -> str:
    """The text of the first element of that name, "" if there is none."""
    found = root.find(f".//{name}") if root is not None else None
    return found.text or "" if found is not None else ""


def texts_of(root: ElementTree.Element, name: str) -> list[str]:
    """The texts of all elements of that name."""
    return [element.text or "" for element in root.iter(name)]
