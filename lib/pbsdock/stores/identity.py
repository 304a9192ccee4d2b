"""The node's own identity at a store: one root-only file, read anew each time, so that an exchanged key counts."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pbsdock.config.tables import ConfigError, check_trusted, is_root_only
from pbsdock.core.redact import known
from pbsdock.stores.errors import StoreError

_KEYS = ("user", "access_key", "secret_key")


@dataclass(frozen=True, slots=True)
class Identity:
    """A gateway user and its key pair."""

    user: str
    access_key: str
    secret_key: str = field(repr=False)


def load(store: str, path: Path) -> Identity:
    """Read *path*: TOML with user, access_key and secret_key. Raises StoreError, whose words quote nothing of it."""
    try:
        check_trusted(path)
        if not is_root_only(path):
            raise StoreError("identity-unsafe", f"{path} can be read by others than root; use chmod 600", store)
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise StoreError("identity-unsafe", str(error), store) from None
    except OSError as error:
        raise StoreError("identity-unreadable", f"{path} cannot be read: {error.strerror}", store) from None
    except ValueError:
        raise StoreError("identity-unreadable", f"{path} is not TOML with {', '.join(_KEYS)}", store) from None
    if set(data) != set(_KEYS) or not all(isinstance(value, str) and value for value in data.values()):
        raise StoreError("identity-unreadable", f"{path} has to hold exactly the texts {', '.join(_KEYS)}", store)
    known.add(f"identity of {store}", data["access_key"], data["secret_key"])
    return Identity(**data)
