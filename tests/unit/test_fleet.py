"""The model of thousands of nodes: its arithmetic on cases that can be done by hand, and that docs/scale.md has its tables."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import ROOT


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("fleet", ROOT / "bench/fleet.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fleet"] = module
    spec.loader.exec_module(module)
    return module


fleet = _load()
GB = 1e9


def test_one_node_is_as_fast_as_the_slower_end() -> None:
    """Its own, or the server's."""
    assert fleet.pull(1, 10 * GB, 2 * GB, 1 * GB).last == pytest.approx(10)
    assert fleet.pull(1, 10 * GB, 1 * GB, 2 * GB).last == pytest.approx(10)


def test_a_server_is_shared_evenly() -> None:
    """Ten at once end together, at the time the server needs for all of it, and all of them are late."""
    done = fleet.pull(10, 1 * GB, 1 * GB, 1 * GB, limit_s=9.0)

    assert (done.first, done.median, done.last, done.longest) == pytest.approx((10, 10, 10, 10))
    assert done.late == 10


def test_in_turns_nobody_is_late() -> None:
    """The same bytes take as long, and each node a tenth of it."""
    done = fleet.pull(10, 1 * GB, 1 * GB, 1 * GB, at_once=1, limit_s=9.0)

    assert (done.first, done.median, done.last, done.longest) == pytest.approx((1, 6, 10, 1))
    assert done.late == 0


def test_two_that_overlap() -> None:
    """The second begins at 1 s, when the first has half: both at half the pace, until the first has the rest at 3 s."""
    done = fleet.pull(2, 2 * GB, 1 * GB, 1 * GB, window_s=2.0)

    assert (done.first, done.last) == pytest.approx((3, 4))
    assert done.longest == pytest.approx(3)


def test_begun_so_slowly_that_none_meet() -> None:
    """Each has the server for itself."""
    done = fleet.pull(5, 1 * GB, 1 * GB, 1 * GB, window_s=50.0)

    assert (done.first, done.last, done.longest) == pytest.approx((1, 41, 1))


@pytest.mark.parametrize("options", [{}, {"at_once": 7}, {"window_s": 30.0}, {"at_once": 3, "window_s": 5.0}], ids=str)
def test_no_byte_is_lost_and_none_is_served_twice(options: dict[str, Any]) -> None:
    """Never faster than the server, nor than a node, and a server that has always something to do is as fast as it can be."""
    done = fleet.pull(100, 1 * GB, 4 * GB, 1 * GB, **options)

    assert done.last >= 25 - 1e-6
    assert done.first >= 1 - 1e-6
    if options.get("at_once", math.inf) >= 4 and not options.get("window_s"):
        assert done.last == pytest.approx(25, rel=0.02)


def test_the_rest_is_arithmetic() -> None:
    """With round numbers."""
    measured = fleet.Measured(
        mints_s=100, list_ms=2, job_events=10, event_bytes=200, scrape_bytes=1000, scrape_series=100, question_bytes=500, question_ms=2
    )  # fmt: skip
    site = fleet.Site(nodes=600, jobs_a_day=86_400, store_share=0.5, gateways=2, scrape_s=10, pass_s=60, job_s=math.inf)

    assert fleet.wave(site, measured, 1000) == {"calls": 3000, "seconds": 5}
    assert fleet.gateway(site, measured) == {"live": 1, "jobs": 2.5, "lists": 10, "busy": pytest.approx(0.025)}
    assert fleet.gateway(replace(site, job_s=0), measured)["lists"] == pytest.approx(600 / 900)
    half = replace(site, job_s=1200 * math.log(2))
    assert fleet.gateway(half, measured)["lists"] == pytest.approx(300 / 60 + 300 / 900)
    assert fleet.monitoring(site, measured) == {"series": 60_000, "samples_s": 6000, "bytes_s": 60_000}
    assert fleet.events(site, measured) == {"lines": 993_600, "bytes": 198_720_000, "node_bytes": 331_200}
    assert fleet.channel(60, 60, measured) == {"questions_s": 1, "bytes_s": 500, "busy": 0.002}


def test_a_knob_moves_what_it_says() -> None:
    """No row whose two last columns are the same."""
    rows = fleet.TABLES["knobs"](fleet.Site(), fleet.Measured()).splitlines()[2:]

    assert rows
    for row in rows:
        before, after = row.strip("| ").split(" | ")[-2:]
        assert before != after, row


def test_the_document_has_the_tables_as_they_are_printed() -> None:
    """Each of them, in its place; ``bench/fleet.py write`` puts them there."""
    text = fleet.DOCUMENT.read_text()

    for name, made in fleet.TABLES.items():
        assert f"<!-- fleet: {name} -->\n{made(fleet.Site(), fleet.Measured())}\n<!-- end -->" in text
    assert fleet.filled(text) == text
