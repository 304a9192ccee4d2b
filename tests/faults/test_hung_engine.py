"""An engine that hangs while jobs arrive: no hook waits long, the node leaves and comes back, every job runs at last.

``PBSDOCK_FAULTS=full`` has it hang for five minutes.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pbsdock.trial import Outcome
from tests.conftest import wait_until
from tests.faults.bystanders import Bystanders
from tests.faults.checker import compare
from tests.faults.site import IMAGE, Site

pytestmark = pytest.mark.engine

JOBS = 20
HANG_S = 300.0 if os.environ.get("PBSDOCK_FAULTS") == "full" else 8.0
_HOOK_S = 20.0  # ten engine deadlines of this instance


def _run(site: Site, _: int) -> Outcome:
    trial = site.victim("echo out; exit 7", IMAGE)
    return trial.begin() or trial.finish(trial.wait())


@pytest.mark.timeout(1200)
def test_engine_hung_with_jobs_arriving(site: Site) -> None:
    """20 jobs arrive, 2 end meanwhile, 2 run through it."""
    site.ready()
    before = site.world.look()
    bystanders = Bystanders(site)
    ending = [site.victim("echo out; sleep 2; echo more; exit 6", IMAGE) for _ in range(2)]
    for trial in ending:
        assert trial.begin() is None
    wait_until("both run", lambda: all(b"out" in one.out_path.read_bytes() for one in ending))
    site.engine.freeze()
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(JOBS) as pool:
            first = list(pool.map(lambda number: _run(site, number), range(JOBS)))
        flagged = site.node_check()
        while time.monotonic() - began < HANG_S:
            time.sleep(0.1)
            if time.monotonic() - began > HANG_S / 2:
                assert site.node_check() != ""  # it does not come back before the engine does
    finally:
        site.engine.thaw()
    thawed = time.monotonic()
    # Nobody but mom's own node check asks: it comes back by itself.
    wait_until("the node is in service again", lambda: site.node_check() == "", 30)
    back = time.monotonic() - thawed
    ended = [trial.finish(trial.wait()) for trial in ending]
    with ThreadPoolExecutor(8) as pool:
        again = list(pool.map(lambda number: _run(site, number), range(JOBS)))
    noticed = bystanders.noticed() + bystanders.end()
    print(
        f"\nhung for {HANG_S:.0f} s: longest prologue {max(one.seconds['prologue'] for one in first):.1f} s, longest"
        f" epilogue {max(one.seconds.get('epilogue', 0.0) for one in first):.1f} s, back {back:.1f} s after it"
    )

    assert {one.exit_status for one in first} == {-14}  # queued again, none aborted
    assert max(max(one.seconds.values()) for one in first) < _HOOK_S
    assert flagged.startswith("ERROR pbsdock: the Docker engine does not answer: ")
    assert [(one.exit_status, one.stdout) for one in ended] == [(6, b"out\nmore\n")] * 2
    assert [(one.exit_status, one.stdout) for one in again] == [(7, b"out\n")] * JOBS
    assert noticed == []
    deadline = time.monotonic() + 30.0
    while (left := compare(before, site.world.look())) and time.monotonic() < deadline:
        site.reap()
    assert not left, str(left)
