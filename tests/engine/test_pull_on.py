"""``pbsdock images pull --on`` over two nodes with an engine and an agent each, and a real registry."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import IMAGE, USERS, wait_until
from tests.support.registry import registry
from tests.support.sisters import Site, site

pytestmark = pytest.mark.engine
__all__ = ["site"]


@pytest.fixture
def image(site: Site) -> Iterator[str]:
    """In a registry on this host's loopback address, which both nodes reach; neither has it."""
    with registry() as address:
        name = f"{address}/ahead:1"
        text = f"FROM {IMAGE}\nLABEL own={address}\n"
        subprocess.run(["docker", "build", "-q", "-t", name, "-"], input=text.encode(), check=True)
        subprocess.run(["docker", "push", "-q", name], check=True, capture_output=True)
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)
        assert site.cluster.sister.emulated is not None
        site.cluster.sister.emulated.forward(int(address.rpartition(":")[2]))
        yield name
        for node in site.cluster.nodes:
            node.docker("rmi", "-f", name)


@pytest.mark.threat(40)
def test_images_are_pulled_on_other_nodes(site: Site, image: str) -> None:
    """By root alone, each by its own agent; what is here is said to be; who lacks it, and why, is in the table."""
    names = [node.name for node in site.cluster.nodes]
    mother = site.cluster.mother.instance
    mother.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")  # which starts the agent
    wait_until("it listens", lambda: any(site.events(site.cluster.mother, "channel.listening")))
    done = mother.command("images", "pull", image, "--on", ",".join(names))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {tuple(line.split()[:2]) for line in done.stdout.splitlines()[1:-1]} == {(name, "pulled") for name in names}
    assert done.stdout.splitlines()[-1] == "2 of 2 are there"
    assert all(node.docker("inspect", image).returncode == 0 for node in site.cluster.nodes)
    (ordered,) = site.events(site.cluster.sister, "image.ordered")
    assert (ordered["image"], ordered["sender"]) == (image, names[0])

    again = mother.command(
        "images", "pull", image, f"{image}x", "--on", ",".join([*names, "no-such-host.invalid"]), "--json"
    )
    rows = {(row["node"], row["image"]): row for row in json.loads(again.stdout)["results"]}
    assert again.returncode == 1
    assert {rows[name, image]["result"] for name in names} == {"was here"}
    assert {rows[name, f"{image}x"]["result"] for name in names} == {"failed"}
    assert "has no such tag" in rows[names[1], f"{image}x"]["detail"]
    assert rows["no-such-host.invalid", image]["result"] == "no-answer"

    program = str(mother.root / "opt/pbsdock/bin/pbsdock")
    command = ["runuser", "-u", USERS[0], "--", program, "images", "pull", image, "--on", names[1]]
    user = subprocess.run(command, capture_output=True, text=True, check=False)
    assert user.returncode == 1
    assert "only root may have other nodes pull images" in user.stderr


@pytest.mark.threat(40)
def test_a_node_with_a_policy_of_its_own(site: Site, image: str) -> None:
    """What nobody may run there does not come there."""
    site.cluster.configure(
        f'[images]\nallow = ["ghcr.io/*"]\n[nodes]\nport = {site.port}\n', nodes=[site.cluster.sister]
    )
    site.cluster.sister.kill_agent()
    site.cluster.sister.instance.start_agent()
    done = site.cluster.mother.instance.command("images", "pull", image, "--on", "n2")

    assert done.returncode == 1
    assert "refused" in done.stdout
    assert "images.allow of n2 lets nobody run image" in done.stdout
    assert site.cluster.sister.docker("inspect", image).returncode != 0
