"""botocore clients of a worker. Keys come from the agent, also before they expire; the host's are not used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, RefreshableCredentials

from pbsdock.staging.errors import StageError
from pbsdock.staging.order import Access

# Keeps what it has read: a worker finds the models that the process it is forked from has read.
_LOADER = botocore.loaders.create_loader()
Ask = Callable[[str], dict[str, Any]]


class _FromAgent(CredentialProvider):  # type: ignore[misc]  # botocore has no types
    METHOD = "pbsdock"
    CANONICAL_NAME = "pbsdock"

    def __init__(self, store: str, access: Access, ask: Ask) -> None:
        self.store = store
        self.access = access
        self.ask = ask

    def load(self) -> Any:
        keys = self.access.keys
        if not keys.get("expires"):
            return Credentials(keys["access_key"], keys["secret_key"], keys.get("token"))
        lasts = float(keys["expires"]) - datetime.now(UTC).timestamp()
        return RefreshableCredentials.create_from_metadata(
            _metadata(keys),
            lambda: _metadata(self.ask(self.store)),
            self.METHOD,
            advisory_timeout=min(900, lasts / 3),
            mandatory_timeout=min(300, lasts / 6),
        )


def _metadata(keys: dict[str, Any]) -> dict[str, Any]:
    return {
        "access_key": keys["access_key"],
        "secret_key": keys["secret_key"],
        "token": keys["token"],
        "expiry_time": datetime.fromtimestamp(float(keys["expires"]), UTC).isoformat(),
    }


def client_of(store: str, access: Access, ask: Ask) -> Any:
    """An S3 client. Raises StageError if the certificates cannot be read by the job's user."""
    if access.ca_bundle:
        try:
            with open(access.ca_bundle, "rb"):
                pass
        except OSError as error:
            raise StageError(
                "store-certificate", f"the certificates in {access.ca_bundle} cannot be read by users: {error.strerror}"
            ) from None
    session = botocore.session.Session()
    session.register_component("data_loader", _LOADER)
    session.register_component("credential_provider", CredentialResolver([_FromAgent(store, access, ask)]))
    return session.create_client(
        "s3",
        region_name=access.region,
        endpoint_url=access.endpoint,
        verify=access.ca_bundle or True,
        config=Config(
            # What is signed of a body is its Content-MD5, which the gateway verifies; it need not be hashed twice.
            s3={"addressing_style": "path" if access.path_style else "virtual", "payload_signing_enabled": False},
            signature_version="s3v4",
            max_pool_connections=access.parallel,
            connect_timeout=5,
            read_timeout=20,
            proxies={},
            retries={"mode": "standard", "total_max_attempts": 1},  # RetryPolicy repeats
            # What newer SDKs add by themselves, older gateways refuse; each part carries its Content-MD5 instead.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
