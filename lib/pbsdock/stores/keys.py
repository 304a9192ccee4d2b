"""Kind *key*: a gateway user of its own for each job, confined by a policy, for clients that know no session token.

Narrower than a key of the data's owner, which carries all of that user's buckets: a new user owns nothing, may make no
bucket, and can do what its policy says (observed with Ceph 16.2). Deleting it ends the key at once. The container and
the staging worker share the key, and the node's identity must be allowed to make users.
"""

from __future__ import annotations

from typing import Any

from pbsdock.config.tables import StoreConfig
from pbsdock.core.plan import Store
from pbsdock.s3.document import document
from pbsdock.stores import identity
from pbsdock.stores.errors import StoreError
from pbsdock.stores.rgw import Gateway
from pbsdock.stores.secret import Secret, owner_tag
from pbsdock.stores.share import Sharer

_POLICY = "job"
_PAGE = 1000


class Keys:
    """The per-job users of one store."""

    def __init__(self, gateway: Gateway, store: StoreConfig, sharer: Sharer) -> None:
        self.gateway = gateway
        self.store = store
        self.sharer = sharer

    def mint(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret | None:
        """Make the user and its key."""
        who = self._identity()
        try:
            made = self.gateway.admin(
                who,
                "PUT",
                "user",
                {
                    "uid": name,
                    "display-name": f"pbsdock job {job_id}",
                    "max-buckets": "-1",
                    "generate-key": "true",
                    "format": "json",
                },
                "create a user",
            )
        except StoreError as error:
            if error.status != 409:
                raise
            made = self._info(who, name)
        secret = self._key(made)
        grants = (*asked.container, *asked.staging)
        if buckets := self.sharer.due(grants):
            self._allow(who, name, document((), share=buckets))
            self.sharer.share(secret, buckets)
        self._allow(who, name, document(grants, absent=True))
        return secret if asked.container else None

    def again(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret | None:
        """The key that is there; made again if somebody has deleted the user."""
        if not asked.container:
            return None
        try:
            return self._key(self._info(self._identity(), name))
        except StoreError as error:
            if error.status != 404:
                raise
        return self.mint(name, job_id, asked, seconds)

    def staging(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret:
        """The same key."""
        return self._key(self._info(self._identity(), name))

    def revoke(self, name: str) -> None:
        """Delete the user with its key and policy."""
        self.gateway.admin(
            self._identity(), "DELETE", "user", {"uid": name, "format": "json"}, "delete a user", missing="NoSuchUser"
        )

    def mine(self, owner: str) -> list[str]:
        """The users of this node; the gateway can only list all of them, a thousand at a time."""
        who, marker, found = self._identity(), "", []
        while True:
            parameters = {"format": "json", "max-entries": str(_PAGE), **({"marker": marker} if marker else {})}
            page = self.gateway.admin(who, "GET", "metadata/user", parameters, "list the users")
            found += [uid for uid in page["keys"] if uid.startswith(f"pbsdock-{owner_tag(owner)}-")]
            marker = str(page.get("marker") or "")
            if str(page.get("truncated")).lower() != "true" or not marker:
                return found

    def _identity(self) -> identity.Identity:
        return identity.load(self.gateway.name, self.store.identity_path)

    def _info(self, who: identity.Identity, name: str) -> Any:
        return self.gateway.admin(who, "GET", "user", {"uid": name, "format": "json"}, "read a user")

    def _key(self, user: Any) -> Secret:
        try:
            key = user["keys"][0]
            return Secret(str(key["access_key"]), str(key["secret_key"]))
        except (KeyError, IndexError, TypeError):
            raise StoreError("store-failed", "the gateway made a user without a key", self.gateway.name) from None

    def _allow(self, who: identity.Identity, name: str, policy: str) -> None:
        self.gateway.query(who, "iam", "PutUserPolicy", UserName=name, PolicyName=_POLICY, PolicyDocument=policy)
