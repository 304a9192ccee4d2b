"""An installed instance that uses the gateway."""

from __future__ import annotations

import json
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import HOST_IMAGE, Instance
from tests.s3.conftest import Store

SITE = sysconfig.get_path("purelib")
AWS = str(Path(sysconfig.get_path("scripts")) / "aws")
TOOLS = f"-v /usr:/usr:ro -v {SITE}:/site:ro -e PYTHONPATH=/site -e PATH=/usr/bin:/bin"


@dataclass
class Site:
    """An installed instance with two stores at one gateway: ceph (roles) and keys (keys)."""

    instance: Instance
    store: Store

    def script(self, options: str, body: str) -> str:
        return f"#!/bin/sh\n#DOCKER {HOST_IMAGE} {TOOLS}\n#DOCKER {options}\n{body}\n"

    def run(self, options: str, body: str, **more: Any) -> Any:
        return self.instance.run(self.script(options, body), **more)

    def restart_agent(self) -> None:
        """Kill all its processes; mom's node check starts another."""
        self.instance.kill_agent()
        self.instance.start_agent()

    def reap(self) -> dict[str, Any]:
        """One pass of the reaper."""
        done = self.instance.command("reap", "--json")
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert not found["blocked"]
        return found

    def left(self) -> list[str]:
        """What the gateway still has of any job, and what the node has."""
        return self.instance.left() + self.store.roles() + self.store.users()


def config(store: Store, extra: str = "", more: str = "", head: str = "") -> str:
    """The instance's configuration; *extra* is the first store's, *more* the second's, *head* comes before both."""
    scripts = Path(AWS).parent
    return (
        f'[mounts]\nallow = ["/usr:ro", "{SITE}:ro", "{scripts}:ro", "/var/tmp/pbsdock-stage"]\n'
        f"[reaper]\ngrace_s = 1\nperiod_s = 3600\n[agent]\ncredentials_port = {store.port}\n{head}"
        f'[s3.ceph]\nendpoint = "{store.gateway.endpoint}"\nidentity = "{store.role_identity}"\n'
        f'allow = ["alice-*", "public:ro", "bob-shared/{{user}}"]\n{extra}'
        f'[s3.keys]\nendpoint = "{store.gateway.endpoint}"\nidentity = "{store.key_identity}"\nkind = "key"\n'
        f'allow = ["alice-*"]\n{more}'
    )
