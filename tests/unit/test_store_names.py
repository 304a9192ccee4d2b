"""What a job's role or user is called at the gateway, whatever the node is called."""

from __future__ import annotations

import re

import pytest

from pbsdock.stores.secret import incarnation_of, name_of, owner_tag, session_name

HOSTS = ("node1", "node1.a.example.org", "node1.b.example.org", "NODE1", "n" * 64, "n" * 63 + "m")


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_is_one_nodes(host: str) -> None:
    """It fits (IAM: 64 characters), tells its incarnation to its own node, and nothing to any other."""
    name = name_of(f"pbsdock@{host}", "0123456789abcdef01234567", "ceph")
    others = [one for one in HOSTS if one != host]

    assert re.fullmatch(r"[a-z0-9-]{1,64}", name)
    assert incarnation_of(name, f"pbsdock@{host}", "ceph") == "0123456789abcdef01234567"
    assert [incarnation_of(name, f"pbsdock@{one}", "ceph") for one in others] == [None] * len(others)
    assert len({owner_tag(f"pbsdock@{one}") for one in HOSTS}) == len(HOSTS)


@pytest.mark.parametrize("job", ["7.s", "1234567[12]." + "s" * 64, "doctor." + "n" * 64, "é", ""])
def test_a_session_has_a_name_the_gateway_takes(job: str) -> None:
    """AWS STS, RoleSessionName: 2 to 64 of these characters; long names are cut at their end."""
    assert re.fullmatch(r"[A-Za-z0-9_=,.@-]{2,64}", session_name(job))
    assert session_name(job)[:7] == re.sub(r"[^A-Za-z0-9_=,.@-]", "-", job)[:7].ljust(2, "-")
