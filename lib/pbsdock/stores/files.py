"""The files a job's clients read: texts, and their delivery into a tmpfs that only the job's user can enter.

Written by rename, so a client sees the old file or the new one, whole. The container gets the directory, read-only: a
file bound by itself would stay the one it was when a fresh one takes its name.
"""

from __future__ import annotations

import configparser
import io
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pbsdock.core.plan import Store
from pbsdock.host import syscalls
from pbsdock.s3.environment import DIRECTORY
from pbsdock.stores.secret import Secret

_SIZE = "1m"


@dataclass(frozen=True, slots=True)
class Delivered:
    """One store a container has credentials of: as planned, as configured, and the keys."""

    plan: Store
    path_style: bool
    secret: Secret


def texts(stores: Sequence[Delivered]) -> dict[str, str]:
    """File name -> text; the container's default store comes first. Pure."""
    rows = [("default", stores[0]), *((store.plan.name, store) for store in stores)] if stores else []
    made = {
        "credentials": _ini([(name, _credentials(store)) for name, store in rows]),
        "config": _ini([(name if name == "default" else f"profile {name}", _config(store)) for name, store in rows]),
        "rclone.conf": _ini([(store.plan.name, _rclone(store)) for store in stores]),
    }
    if stores:
        made["s3cfg"] = _ini([("default", _s3cfg(stores[0]))])
    return made


def _credentials(store: Delivered) -> dict[str, str]:
    secret = store.secret
    values = {"aws_access_key_id": secret.access_key, "aws_secret_access_key": secret.secret_key}
    return {**values, "aws_session_token": secret.token} if secret.token else values


def _config(store: Delivered) -> dict[str, str]:
    values = {
        "region": store.plan.region,
        "endpoint_url": store.plan.endpoint,
        "s3": f"\naddressing_style = {'path' if store.path_style else 'virtual'}\nsignature_version = s3v4",
        # What newer SDKs add by themselves, older gateways refuse.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return {**values, "ca_bundle": f"{DIRECTORY}/{store.plan.ca_file}"} if store.plan.ca_file else values


def _rclone(store: Delivered) -> dict[str, str]:
    secret = store.secret
    values = {
        "type": "s3",
        "provider": "Ceph",
        "env_auth": "false",
        "access_key_id": secret.access_key,
        "secret_access_key": secret.secret_key,
        "region": store.plan.region,
        "endpoint": store.plan.endpoint,
        "force_path_style": str(store.path_style).lower(),
        "no_check_bucket": "true",
    }
    return {**values, "session_token": secret.token} if secret.token else values


def _s3cfg(store: Delivered) -> dict[str, str]:
    secret = store.secret
    scheme, _, host = store.plan.endpoint.partition("://")
    values = {
        "access_key": secret.access_key,
        "secret_key": secret.secret_key,
        "host_base": host,
        "host_bucket": host if store.path_style else f"%(bucket)s.{host}",
        "bucket_location": store.plan.region,
        "use_https": str(scheme == "https"),
        "signature_v2": "False",
    }
    if secret.token:
        values["access_token"] = secret.token
    if store.plan.ca_file:
        values["ca_certs_file"] = f"{DIRECTORY}/{store.plan.ca_file}"
    return values


def _ini(sections: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    """INI as botocore, s3cmd and rclone read it: indented lines go on with a value."""
    parser = configparser.RawConfigParser()
    for name, values in sections:
        # A store may be called "default"; the profile of that name is the same one then.
        parser[name] = values
    text = io.StringIO()
    parser.write(text)
    return text.getvalue().replace("\t", "    ")


# -- delivery ---------------------------------------------------------------------------------------------------------


def make(directory: Path, uid: int, gid: int) -> None:
    """Mount an empty tmpfs at *directory* that *uid* may read and nobody but root may write. Raises OSError."""
    directory.mkdir(mode=0o700)
    options = f"mode=0500,uid={uid},gid={gid},size={_SIZE},nr_inodes=64"
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("tmpfs", str(directory), "tmpfs", flags, options)


def deliver(directory: Path, files: Mapping[str, str], uid: int, gid: int) -> None:
    """Write each file whole, mode 0400, in the place of an older one. Raises OSError."""
    for name, text in files.items():
        temporary = directory / f".{secrets.token_hex(8)}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchown(fd, uid, gid)
            file.write(text)
        os.rename(temporary, directory / name)


def remove(directory: Path) -> None:
    """Unmount, also where something still holds it; no error if nothing is mounted. Raises OSError."""
    syscalls.unmount(str(directory))
