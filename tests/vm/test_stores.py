"""Credentials on a node that is reset hard: the machine's jobs use a real RADOS gateway of this host's."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rgw import Gateway
from tests.vm.lab import Lab

pytestmark = [pytest.mark.engine, pytest.mark.full, pytest.mark.timeout(2400)]

ADDRESS = "10.0.2.100:7480"
NETWORK = """[Unit]
Description=The way to the gateway
DefaultDependencies=no
Before=pbsdock-agent.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'modprobe virtio_net; until ip link set eth0 up; do sleep 0.2; done; ip address replace 10.0.2.15/24 dev eth0'
[Install]
WantedBy=multi-user.target
"""
CONFIG = f"""[s3.ceph]
endpoint = "http://{ADDRESS}"
identity = "/etc/pbsdock/identity.toml"
allow = ["alice-*"]
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """With one bucket."""
    root = Path(tempfile.mkdtemp(prefix="pbsdock-rgw.", dir="/var/tmp"))
    gateway = Gateway(root, memory_gib=1)
    try:
        gateway.start()
        alice = gateway.client(*gateway.user("alice"))
        alice.create_bucket(Bucket="alice-in")
        gateway.identity(root / "identity.toml", "pbsdock-node", "role")
        yield gateway
    finally:
        gateway.stop()
        shutil.rmtree(root, ignore_errors=True)


def roles(gateway: Gateway) -> list[str]:
    try:
        return [one["RoleName"] for one in gateway.admin("role", "list")]
    except RuntimeError as error:
        assert "No such file or directory" in str(error)  # its way to say that there is none
        return []


def use(lab: Lab, gateway: Gateway) -> None:
    """Give the machine a way to the gateway, also after a boot, and the installation a store there."""
    lab.machine.connect(ADDRESS, gateway.port)
    lab.check(
        f"cat >/etc/systemd/system/way.service <<'END'\n{NETWORK}END\ncat >/root/stores.toml <<'END'\n{CONFIG}END"
    )
    lab.check(f"umask 077; cat >/etc/pbsdock/identity.toml <<'END'\n{(gateway.root / 'identity.toml').read_text()}END")
    lab.check(
        "systemctl daemon-reload && systemctl enable --now way.service"
        " && cp /etc/pbsdock/pbsdock.toml /root/before.toml && cat /root/stores.toml >>/etc/pbsdock/pbsdock.toml && systemctl restart pbsdock-agent"
    )


def events(lab: Lab, job: str, name: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in lab.check("cat /var/log/pbsdock/events.jsonl").splitlines()]
    return [one for one in found if one.get("job") == job and one["event"] == name]


def test_a_role_does_not_outlive_the_machine(lab: Lab, gateway: Gateway) -> None:
    """The plug is pulled while a job has a role: the first reconcile of the next boot revokes it at the gateway.

    Before that, what only a hardened unit can show: the sessions' endpoint, on a port below 1024, answers the job.
    """
    use(lab, gateway)
    ask = 'wget -q -O - --header "Authorization: $(cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE)" ${AWS_CONTAINER_CREDENTIALS_FULL_URI}ceph'
    lab.job("roles", f"{ask} >$HOME/session; sleep 600", directive="--s3 ceph:alice-in:ro")
    lab.until("the endpoint has answered", "grep -q SecretAccessKey /home/pbsdock-a/session")
    (job,) = json.loads(lab.check("/opt/pbsdock/bin/pbsdock ps --json"))["jobs"]
    (role,) = roles(gateway)
    lab.check("rm /home/pbsdock-a/session; sync")

    lab.machine.reset()

    lab.until(
        "the old boot's job is released", f'grep -q \'"release.done".*"{job["job"]}"\' /var/log/pbsdock/events.jsonl'
    )
    assert roles(gateway) == []
    assert [one["why"] for one in events(lab, job["job"], "release.begun")] == ["other-boot"]
    assert [one["handle"] for one in events(lab, job["job"], "credentials.revoked")] == [role]
    assert lab.left() == ""

    lab.job("next", f"{ask} >$HOME/session", directive="--s3 ceph:alice-in:ro")
    lab.until("it has a session", "grep -q SecretAccessKey /home/pbsdock-a/session && ! systemctl is-active -q next")
    assert lab.left() == ""
    assert roles(gateway) == []
    lab.check(
        "systemctl --quiet disable --now way.service; rm /etc/systemd/system/way.service && systemctl daemon-reload"
    )
    lab.check("cp /root/before.toml /etc/pbsdock/pbsdock.toml && systemctl restart pbsdock-agent")
