"""Pulls that crawl, stall, never end or are not what they say: each job is told in a sentence, and the node stays well."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest

from tests.conftest import IMAGE, Instance
from tests.support.lying_registry import lying_registry

pytestmark = pytest.mark.engine

_TOTAL_S, _INACTIVITY_S, _BYTES = 6, 2, 4 << 20
# Which it is, is the engine's matter: it may tell of a layer that crawls, or not.
_SLOW = rf"could not be pulled (in {_TOTAL_S} s|without any progress for {_INACTIVITY_S} s); nothing was started"


@pytest.fixture
def strict(instance: Instance) -> Instance:
    """The instance with small bounds for images, and as before afterwards."""
    bounds = f"total_s = {_TOTAL_S}\ninactivity_s = {_INACTIVITY_S}\nmax_bytes = {_BYTES}\n"
    instance.configure(f"[images]\n{bounds}")
    return instance


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("digest", "could not be pulled; nothing was started: filesystem layer verification failed for digest sha256:"),
        ("stall", _SLOW),
        ("crawl", _SLOW),
        ("endless", rf"bytes and more to come; this site allows {_BYTES}"),
    ],
)
def test_registry_that_lies(strict: Instance, way: str, says: str) -> None:
    """Told, within the bounds; the engine's own pull is ended too, and a job with another image runs meanwhile."""
    with lying_registry(way) as lie:
        image = f"{lie.address}/lie:1"
        began = time.monotonic()
        done = strict.run(f"#!/bin/sh\n#DOCKER {image}\ntrue\n")
        took = time.monotonic() - began
        other = strict.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho other\n")
        # Of a layer that stalls this engine lets go only when its registry does: docker pull is no different.
        hung_up = way in ("digest", "stall") or lie.hung_up.wait(10)

    assert done.exit_status == 125
    assert re.search(says, done.stderr.decode())
    assert image in done.stderr.decode()
    assert took < _TOTAL_S + 10
    assert lie.sent < 8 * _BYTES
    assert hung_up
    assert other.stdout == b"other\n"
    assert not (strict.run_dir / "unhealthy").exists()


@pytest.mark.parametrize("way", ["429", "503"])
def test_registry_that_is_busy(instance: Instance, way: str) -> None:
    """It is left in peace for as long as it asks for, and then the job has its image (which has no program to run)."""
    with lying_registry(way, turned_away=5, retry_after_s=2) as lie:
        done = instance.run(f"#!/bin/sh\n#DOCKER {lie.address}/lie:1\ntrue\n")
        pauses = [later - sooner for sooner, later in pairwise(lie.at)]
    trail = [one for one in instance.events() if one.get("image") == f"{lie.address}/lie:1"]

    assert b"there is no /bin/sh" in done.stderr
    assert [one["event"] for one in trail][-1] == "image.pulled"
    assert {one["code"] for one in trail if one["event"] == "image.retry"} == {"registry-busy"}
    assert max(pauses) >= 1.9


def test_registry_that_is_busy_for_long(instance: Instance) -> None:
    """The job is queued again at once, by nobody's fault: the node stays in service."""
    with lying_registry("429", turned_away=1000, retry_after_s=3600) as lie:
        began = time.monotonic()
        done = instance.run(f"#!/bin/sh\n#DOCKER {lie.address}/lie:1\ntrue\n", requeue_limit=3)
        took = time.monotonic() - began
        other = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho other\n")

    assert (done.exit_status, done.node_down) == (125, None)
    assert b" has failed 3 times for one reason: image " in done.stderr
    assert b"its registry has told this node to wait" in done.stderr  # as it did when it was asked first
    assert took < 30
    assert other.stdout == b"other\n"
    assert not (instance.run_dir / "unhealthy").exists()
