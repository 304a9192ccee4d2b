"""What the agent's systemd unit is ordered by, and what it must not need."""

from __future__ import annotations

from tests.conftest import ROOT


def _words(name: str) -> list[str]:
    lines = (ROOT / "etc/systemd/pbsdock-agent.service").read_text().splitlines()
    return [word for line in lines if line.startswith(f"{name}=") for word in line.partition("=")[2].split()]


def test_the_agent_comes_after_what_it_uses() -> None:
    """The engine, and munge where a site has it; a node without munge, or whose engine is down, has an agent as well."""
    assert {"docker.service", "munge.service"} <= set(_words("After"))
    assert _words("Requires") == ["pbsdock-agent.socket"]
    assert "munge.service" not in _words("Wants") + _words("BindsTo") + _words("PartOf")
