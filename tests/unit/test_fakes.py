"""The fakes do what they stand for: the same calls, with the same parameters."""

from __future__ import annotations

import inspect

import pytest

from pbsdock.agent.stores import Stores
from pbsdock.engine.base import ContainerEngine
from pbsdock.engine.images import Images
from pbsdock.host.cgroup.base import JobCgroup
from tests.unit.fakes import FakeCgroups, FakeEngine, FakeImages, FakeStores


def _calls(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }


@pytest.mark.parametrize(("fake", "protocol"), [(FakeEngine, ContainerEngine), (FakeCgroups, JobCgroup)])
def test_a_fake_has_every_call_of_its_protocol(fake: type, protocol: type) -> None:
    """By name and parameters."""
    wanted, made = _calls(protocol), _calls(fake)

    assert {name: made.get(name) for name in wanted} == wanted


@pytest.mark.parametrize(("fake", "real"), [(FakeStores, Stores), (FakeImages, Images)])
def test_a_fake_has_no_call_that_the_real_thing_lacks(fake: type, real: type) -> None:
    """Else a test would pass that the agent could not."""
    calls = _calls(real)

    assert [name for name in _calls(fake) if name not in calls] == []
    if fake is FakeStores:
        assert {name: calls[name] for name in _calls(fake)} == _calls(fake)
