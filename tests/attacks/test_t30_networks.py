"""T30, T34: a container has the network the site chose, publishes nothing, and never speaks from a port mom trusts."""

from __future__ import annotations

import pytest

from tests.conftest import IMAGE, Instance, wait_until

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "name", ["bridge", "container:x", "container:${HOME}", "ns:/proc/1/ns/net", "default", "../host", "a b"]
)
def test_networks_that_are_not_offered(instance: Instance, name: str) -> None:
    """Others' namespaces least of all."""
    done = instance.run(f"#!/bin/sh\n#DOCKER --network '{name}' {IMAGE}\necho started\n")

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.startswith(b"pbsdock: STDIN:2:")


def test_host_only_by_policy(instance: Instance) -> None:
    """A site that says none gives none, and nobody can ask for more."""
    good = instance.config.read_text()
    instance.configure('[network]\ndefault = "none"\nallow = []\n')
    try:
        none = instance.run(
            f"#!/bin/sh\n#DOCKER {IMAGE}\ngrep -c : /proc/net/dev; ping -c1 -W1 127.0.0.1 >/dev/null 2>&1; cat /proc/net/route | wc -l\n"
        )
        host = instance.run(f"#!/bin/sh\n#DOCKER --network host {IMAGE}\necho started\n")
    finally:
        instance.configure(good)

    assert none.stdout == b"1\n1\n"
    assert (host.exit_status, host.stdout) == (125, b"")


@pytest.mark.threat(34)
@pytest.mark.parametrize("network", ["host", "bridge", "none"])
def test_no_privileged_port(instance: Instance, network: str) -> None:
    """pbs_mom takes whoever speaks from a port below 1024 for root: no network lets a job do so.

    The engine opens all ports in a network namespace of the container's own (net.ipv4.ip_unprivileged_port_start is 0
    since 20.10), and masquerading keeps a source port below 1024 below 1024 (iptables-extensions(8)).
    No pbs_mom runs here to be asked; the port is what it would look at.
    """
    good = instance.config.read_text()
    instance.configure('[network]\nallow = ["host", "bridge", "none"]\n')
    try:
        trial = instance.begin(
            f"#!/bin/sh\n#DOCKER --network {network} {IMAGE}\nfor port in 1 600 1023; do timeout 1 nc -l -p $port 2>/dev/null; "
            "[ $? = 1 ] || echo bound $port; done\ncat /proc/sys/net/ipv4/ip_unprivileged_port_start\necho end; sleep 30\n"
        )
        wait_until("it has tried", lambda: b"end" in trial.out_path.read_bytes(), 30)
        ports = instance.inspect(trial.job_id)["NetworkSettings"]["Ports"]
        trial.qdel()
        done = trial.finish(trial.wait())
    finally:
        instance.configure(good)

    assert done.stdout == b"1024\nend\n"
    assert not ports


@pytest.mark.threat(31)
def test_devices(instance: Instance) -> None:
    """/dev has what every container has and no more; no device is granted that the scheduler and the site did not."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nls /dev | tr '\\n' ' '\n")
    assert set(done.stdout.decode().split()) <= {
        "core",
        "fd",
        "full",
        "mqueue",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
        "console",
    }
    for option in ("--gpus all", "--gpus 1", "--device /dev/null"):
        refused = instance.run(
            f"#!/bin/sh\n#DOCKER {option} {IMAGE}\necho started\n",
            variables={"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_VISIBLE_DEVICES": "all"},
        )
        assert (refused.exit_status, refused.stdout) == (125, b"")
