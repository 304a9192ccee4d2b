"""The environment by which a container's clients find their files: paths and addresses, never a key. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from pbsdock.core.plan import Plan

DIRECTORY = "/run/pbsdock/s3"  # in the container
TOKEN = "token"  # noqa: S105 - a file's name
# The host job's own, which the clients would take before any file.
FOREIGN = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_ENDPOINT_URL",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_CA_BUNDLE",
    }
)


def has_credentials(plan: Plan) -> bool:
    """Whether the container gets any."""
    return any(store.container for store in plan.stores)


def variables(plan: Plan) -> Mapping[str, str]:
    """The variables of a container with credentials, {} for another."""
    mine = [store for store in plan.stores if store.container]
    if not mine:
        return {}
    first = mine[0]
    made = {
        "AWS_SHARED_CREDENTIALS_FILE": f"{DIRECTORY}/credentials",
        "AWS_CONFIG_FILE": f"{DIRECTORY}/config",
        "AWS_REGION": first.region,
        "AWS_DEFAULT_REGION": first.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "S3CMD_CONFIG": f"{DIRECTORY}/s3cfg",
        "RCLONE_CONFIG": f"{DIRECTORY}/rclone.conf",
    }
    if len(mine) == 1:
        # With several stores it would send every profile to the first one's address; their files have each its own.
        made["AWS_ENDPOINT_URL_S3"] = first.endpoint
    if plan.credentials_port:
        # Clients look here after the files; one that is told to leave them refreshes by itself (AWS SDKs reference,
        # "Container credential provider": plain HTTP to a loopback address only).
        made["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"http://127.0.0.1:{plan.credentials_port}/"
        made["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = f"{DIRECTORY}/{TOKEN}"
    if first.ca_file:
        made["AWS_CA_BUNDLE"] = f"{DIRECTORY}/{first.ca_file}"
    return made
