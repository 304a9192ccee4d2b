"""Kind *role*: a role of its own for each job, and sessions of it that can do less than the role.

The session's policy and the role's are intersected (observed with Ceph 16.2), so the container's session cannot do what
the staging worker's can. Deleting the role's policy ends every session at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from pbsdock.config.tables import StoreConfig
from pbsdock.core.plan import BucketGrant, Store
from pbsdock.s3.document import document
from pbsdock.stores import identity
from pbsdock.stores.errors import StoreError
from pbsdock.stores.rgw import Gateway, text_of, texts_of
from pbsdock.stores.secret import Secret, owner_tag, session_name
from pbsdock.stores.share import Sharer

LONGEST_S = 43200  # most that MaxSessionDuration takes (AWS IAM API, CreateRole)
LEAST_ROLE_S = 3600
_POLICY = "job"


class Roles:
    """The roles of one store."""

    def __init__(self, gateway: Gateway, store: StoreConfig, owner: str, sharer: Sharer) -> None:
        self.gateway = gateway
        self.path = f"/pbsdock/{owner_tag(owner)}/"
        self.store = store
        self.sharer = sharer

    def mint(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret | None:
        """Make the role and a session of it.

        The gateway looks at a role's policy when a session is used, so both are asked for at once.
        """
        who = self._identity()
        self._create(who, name)
        with ThreadPoolExecutor(1, "role-policy") as beside:
            permitted = beside.submit(self._permit, who, name, job_id, (*asked.container, *asked.staging))
            session = self._for_container(who, name, job_id, asked, seconds)
            permitted.result()
        return session

    def _permit(self, who: identity.Identity, name: str, job_id: str, grants: Sequence[BucketGrant]) -> None:
        """Set the role's policy, and share the buckets that are due."""
        buckets = self.sharer.due(grants)
        self._allow(who, name, document(grants, share=buckets))
        if buckets:
            session = self._session(who, name, job_id, document((), share=buckets), 0)
            self.sharer.share(session, buckets)
            self._allow(who, name, document(grants))

    def again(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret | None:
        """Another session; the role is made again if somebody has deleted it."""
        try:
            return self._for_container(self._identity(), name, job_id, asked, seconds)
        except StoreError as error:
            if error.status != 404:
                raise
        return self.mint(name, job_id, asked, seconds)

    def staging(self, name: str, job_id: str, asked: Store, seconds: int) -> Secret:
        """A session for the staging worker."""
        return self._session(self._identity(), name, job_id, document(asked.staging), seconds)

    def revoke(self, name: str) -> None:
        """Delete the policy, which ends all sessions, then the role."""
        who = self._identity()
        for action, more in (("DeleteRolePolicy", {"PolicyName": _POLICY}), ("DeleteRole", {})):
            try:
                self.gateway.query(who, "iam", action, RoleName=name, **more)
            except StoreError as error:
                if error.status != 404:
                    raise

    def mine(self, owner: str) -> list[str]:
        """The roles below this node's path; a gateway that has no role at all says so by an error (observed)."""
        path = f"/pbsdock/{owner_tag(owner)}/"
        try:
            return texts_of(self.gateway.query(self._identity(), "iam", "ListRoles", PathPrefix=path), "RoleName")
        except StoreError as error:
            if error.status != 404:
                raise
            return []

    def _identity(self) -> identity.Identity:
        return identity.load(self.gateway.name, self.store.identity_path)

    def _create(self, who: identity.Identity, name: str) -> None:
        tenant, dollar, user = who.user.rpartition("$")
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": ["sts:AssumeRole"],
                    "Principal": {"AWS": [f"arn:aws:iam::{tenant if dollar else ''}:user/{user}"]},
                }
            ],
        }
        longest = str(max(LEAST_ROLE_S, min(LONGEST_S, int(self.store.lifetime_s))))
        try:
            self.gateway.query(
                who,
                "iam",
                "CreateRole",
                Path=self.path,
                RoleName=name,
                MaxSessionDuration=longest,
                AssumeRolePolicyDocument=json.dumps(trust, separators=(",", ":")),
            )
        except StoreError as error:
            if error.status != 409:  # it is there already: an agent was killed between two steps
                raise

    def _allow(self, who: identity.Identity, name: str, policy: str) -> None:
        self.gateway.query(who, "iam", "PutRolePolicy", RoleName=name, PolicyName=_POLICY, PolicyDocument=policy)

    def _for_container(
        self, who: identity.Identity, name: str, job_id: str, asked: Store, seconds: int
    ) -> Secret | None:
        if not asked.container:
            return None
        return self._session(who, name, job_id, document(asked.container, absent=True), seconds)

    def _session(self, who: identity.Identity, name: str, job_id: str, policy: str, seconds: int) -> Secret:
        tenant = who.user.rpartition("$")[0]
        answer = self.gateway.query(
            who,
            "sts",
            "AssumeRole",
            RoleArn=f"arn:aws:iam::{tenant}:role{self.path}{name}",
            RoleSessionName=session_name(job_id),
            DurationSeconds=str(self._seconds(seconds)),
            Policy=policy,
        )
        keys = [text_of(answer, tag) for tag in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")]
        if not all(keys):
            raise StoreError("store-failed", "AssumeRole gave an answer without keys", self.gateway.name)
        return Secret(keys[0], keys[1], keys[2], _moment(keys[3], seconds))

    def _seconds(self, wanted: int) -> int:
        """Within what the store takes; 900 s is the least of an unchanged gateway (rgw_sts_min_session_duration)."""
        return max(min(900, int(self.store.lifetime_s)), min(int(self.store.lifetime_s), wanted))


def _moment(text: str, seconds: int) -> float:
    """The end of a session by the gateway's clock; it writes nanoseconds, which Python does not read."""
    try:
        return datetime.fromisoformat(f"{text[:19]}+00:00").timestamp()
    except ValueError:
        return time.time() + seconds
