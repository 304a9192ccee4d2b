"""Which bridges of a host lead to nothing but itself, in trees as the kernel makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbsdock.host.interfaces import virtual_bridges


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """docker0 without ports, br-1 with a container's, br0 with the network card, br1 with a bond."""
    for bridge, ports in (("docker0", []), ("br-1", ["veth1"]), ("br0", ["eth0"]), ("br1", ["bond0"])):
        (tmp_path / bridge / "bridge").mkdir(parents=True)
        (tmp_path / bridge / "brif").mkdir()
        for port in ports:
            (tmp_path / bridge / "brif" / port).mkdir()
    for name in ("veth1", "eth0/device", "bond0/bonding", "lo"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_bridges_without_a_network_card(net: Path) -> None:
    """The others are how the host is reached."""
    assert virtual_bridges(net) == ("br-1", "docker0")


def test_no_such_tree(tmp_path: Path) -> None:
    """Then nothing is excluded."""
    assert virtual_bridges(tmp_path / "none") == ()
