"""A host that is not like ours: a name of 64 characters with a domain, and no IPv6. Engine, agent, hooks and jobs all run
on it."""

from __future__ import annotations

import json
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import IMAGE, USERS, Instance, wait_until
from tests.support.attack import library
from tests.support.engine import OwnEngine

pytestmark = pytest.mark.engine
NAME = "node1." + "c" * 46 + ".example.org"  # as long as the kernel lets a name be


class Host:
    """Namespaces of its own for the name and the network, and an engine in them."""

    def __init__(self, instance: Instance, root: Path) -> None:
        self.instance = instance
        self.holder = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--uts",
                "sh",
                "-euc",
                "for one in all default lo; do echo 1 >/proc/sys/net/ipv6/conf/$one/disable_ipv6; done\n"
                f"hostname {NAME}\nip link set lo up\necho ready\nexec sleep 600",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"
        self.inside = ("nsenter", "-t", str(self.holder.pid), "--net", "--uts")
        self.engine = OwnEngine(root, self.inside, networks=())

    def call(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run something there."""
        words = [
            *self.inside,
            *(("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups") if user else ()),
            *command,
        ]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, cwd="/")

    def pbsdock(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The instance's command, there."""
        return self.call(str(self.instance.root / "opt/pbsdock/bin/pbsdock"), *arguments)

    def run(self, options: str, body: str) -> subprocess.CompletedProcess[str]:
        """Run a job there to its end."""
        script = self.instance.root / "odd.sh"
        script.write_text(f"#!/bin/sh\n#DOCKER {options} {IMAGE}\n{body}\n")
        script.chmod(0o644)
        return self.pbsdock("try", "--user", USERS[0], str(script))

    def containers(self) -> list[str]:
        """What there is at its engine."""
        return self.engine.docker("ps", "-aq", "--no-trunc").stdout.decode().split()


@pytest.fixture(scope="module")
def booted(installed: Instance, scratch: Path) -> Iterator[Host]:
    """The host, with the image; started once."""
    host = Host(installed, scratch / "odd-engine")
    try:
        host.engine.start()
        archive = subprocess.run(["docker", "save", IMAGE], capture_output=True, check=True).stdout
        assert host.engine.docker("load", input=archive).returncode == 0
        yield host
    finally:
        host.engine.unmake()
        host.holder.kill()
        host.holder.wait()


@pytest.fixture
def host(booted: Host, instance: Instance) -> Iterator[Host]:
    """The instance moved onto that host, and back."""
    instance.configure(
        f'[engine]\nsocket = "{booted.engine.socket}"\n[network]\nallow = ["host", "none", "bridge"]\n[reaper]\ngrace_s = 1\nperiod_s = 3600\n'
    )
    yield booted
    wait_until("nothing is left there", lambda: not booted.containers(), 20)


@pytest.mark.parametrize("network", ["host", "none", "bridge"])
def test_jobs_of_a_long_name_without_ipv6(host: Host, network: str) -> None:
    """Any network: the job runs, sees no IPv6 address, and the host's whole name."""
    done = host.run(f"--network {network}", "hostname; cat /proc/net/if_inet6 | wc -l; grep -c : /proc/net/dev; exit 3")

    said, *numbers = done.stdout.splitlines()
    assert said == NAME, done
    assert numbers == ["0", {"host": str(1 + _bridges(host)), "none": "1", "bridge": "2"}[network]], done
    assert (done.returncode, done.stderr) == (3, "")


def _bridges(host: Host) -> int:
    return len(re.findall(r"^\d+: docker", host.call("ip", "-o", "link").stdout, re.MULTILINE))


def test_names_carry_the_whole_name(host: Host) -> None:
    """Job ids and events."""
    job = host.run("--network none", "echo $PBS_JOBID").stdout.strip()

    assert job.endswith(f".{NAME}")
    assert {one["node"] for one in host.instance.trail(job)} == {NAME}


def test_a_sweep_takes_its_own_and_no_namesakes(host: Host) -> None:
    """The reaper removes what carries this host's whole name, and not a short name's or another domain's."""
    assert host.run("", "true").returncode == 0  # the agent is there
    own = host.instance.name
    made = {}
    for node in (NAME, "node1", "node1.example.net", NAME + ".more"):
        labels = [
            "--label",
            f"pbsdock.owner={own}@{node}",
            "--label",
            "pbsdock.job=7.s",
            "--label",
            "pbsdock.incarnation=0",
        ]
        made[node] = host.engine.docker("create", *labels, IMAGE, "true").stdout.decode().strip()
    wait_until("the agent finds its own", lambda: made[NAME] in host.pbsdock("reap", "--dry-run").stdout, 10)
    found = json.loads(host.pbsdock("reap", "--json").stdout)
    left = host.containers()
    for one in left:
        host.engine.docker("rm", one)

    assert [one["name"] for one in found["findings"] if one["kind"] == "container"] == [made[NAME]]
    assert sorted(left) == sorted(made[node] for node in made if node != NAME)


def test_a_renamed_host_goes_on_with_its_job(host: Host) -> None:
    """A name that came by DHCP after the job had begun: the next agent finishes and releases it all the same."""
    script = host.instance.root / "odd.sh"
    script.write_text(f"#!/bin/sh\n#DOCKER {IMAGE}\necho begun; sleep 3; exit 5\n")
    command = [
        *host.inside,
        str(host.instance.root / "opt/pbsdock/bin/pbsdock"),
        "try",
        "--user",
        USERS[0],
        str(script),
    ]

    def starts() -> int:
        return sum(event["event"] == "job.started" for event in host.instance.events())

    before = starts()  # a container alone may be one by which the image is looked into
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/") as job:
        wait_until("it runs", lambda: starts() > before)
        host.call("hostname", "node1")
        host.instance.kill_agent()
        assert host.call(str(host.instance.root / "opt/pbsdock/hooks/node-check")).returncode == 0
        out, err = job.communicate(timeout=60)
    wait_until("all of it is gone", lambda: not host.containers() and not host.instance.present())
    host.call("hostname", NAME)
    host.instance.kill_agent()

    assert (job.returncode, out) == (5, "begun\n"), err


_ENDPOINT = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from pbsdock.agent.endpoint import Endpoint
from pbsdock.agent.sessions import Sessions
from pbsdock.stores.secret import Secret
from pathlib import Path
sessions = Sessions()
server = Endpoint(0, sessions, lambda incarnation, store: Secret("access", "secret", "token", time.time() + 60))
server.start()
print(server.server_port, sessions.token_for("0", int(sys.argv[2]), Path("/nonexistent")), flush=True)
time.sleep(60)
"""
_CLIENT = """
import sys, urllib.request, urllib.error
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": sys.argv[2]})
try: print(urllib.request.urlopen(asked, timeout=10).status)
except urllib.error.HTTPError as error: print(error.code)
"""


def test_sessions_without_ipv6(host: Host) -> None:
    """The endpoint tells the job's user from another by the kernel's table of IPv4 connections alone."""
    uid = str(pwd.getpwnam(USERS[0]).pw_uid)
    venv = host.instance.root / "opt/pbsdock/current/venv/bin/python3"
    with subprocess.Popen(
        [*host.inside, str(venv), "-I", "-c", _ENDPOINT, library(host.instance), uid], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port, token = server.stdout.readline().split()
        address = f"http://127.0.0.1:{port}/ceph"
        mine, others = (host.call("/usr/bin/python3", "-c", _CLIENT, address, token, user=one).stdout for one in USERS)
        sixth = host.call(sys.executable, "-c", "import socket; socket.create_connection(('::1', 1))")
        server.kill()

    assert (mine, others) == ("200\n", "403\n")
    assert "Cannot assign requested address" in sixth.stderr or "Network is unreachable" in sixth.stderr
