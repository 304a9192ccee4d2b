"""What the version before has written and said, read by this one; and that it can read what this one writes.

The documents are real ones: of a job over two nodes, one about to start and a refused one, by the version that
tests/support/previous.py names. They are made anew with it when that is another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pbsdock.agent import image_use, neighbours, requests
from pbsdock.cluster.channel import Request, read_answer, read_request
from pbsdock.cluster.signing import KeySigner
from pbsdock.core.ledger import Ledger, _plain
from pbsdock.core.record import State
from pbsdock.core.story import from_json, to_json
from pbsdock.core.ticket import Ticket
from tests.conftest import ROOT
from tests.support import previous
from tests.unit.fakes import fake_node

SAID: Mapping[str, Any] = json.loads((ROOT / "tests/unit/previous_version.json").read_text())
SIGNER = KeySigner(SAID["key"].encode())


def lacking(there: Any, now: Any, where: str = "") -> list[str]:
    """What a document has that the other one does not have, or with another type. Fields may be more."""
    if isinstance(there, dict) and isinstance(now, dict):
        return [
            found
            for key, value in there.items()
            for found in (lacking(value, now[key], f"{where}.{key}") if key in now else [f"{where}.{key} is gone"])
        ]
    if isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        return [
            found for n, (a, b) in enumerate(zip(there, now, strict=True)) for found in lacking(a, b, f"{where}[{n}]")
        ]
    return [] if there == now else [f"{where} is {now!r}, was {there!r}"]


def test_it_is_of_the_version_that_the_other_tests_install() -> None:
    assert SAID["commit"] == previous.COMMIT


@pytest.mark.parametrize("document", SAID["ledger"], ids=lambda document: f"{document['job_id']} {document['node']}")
def test_its_ledger_is_read_and_what_is_written_it_can_read(tmp_path: Path, document: dict[str, Any]) -> None:
    """Each record whole; as it is written again it lacks nothing, and nothing has become something else."""
    (tmp_path / f"{document['safe']}.{document['incarnation']}.json").write_text(json.dumps(document))
    (record,), problems = Ledger(tmp_path).load_all()

    assert problems == []
    assert (record.state, record.planned.image) == (State(document["state"]), document["plan"]["image"])
    assert lacking(document, json.loads(json.dumps(_plain(record)))) == []


def test_it_knows_every_state_of_a_job() -> None:
    """It could not read a record in another one after a rollback."""
    assert {state.value for state in State} <= {*SAID["states"]}


def test_its_history_is_read_and_what_is_written_it_can_read() -> None:
    for document in SAID["history"]:
        assert lacking(document, json.loads(json.dumps(to_json(from_json(document))))) == []


def test_its_tickets_and_questions_are_understood(tmp_path: Path) -> None:
    """As signed by it; and what it asks is answered here."""
    asked = read_request(SIGNER, SAID["request"].strip().encode())
    answer = read_answer(SIGNER, SAID["answer"].strip().encode(), asked)
    ticket = Ticket.unpack(SIGNER.verify(answer["ticket"]))

    assert isinstance(asked, Request)
    assert (asked.op, asked.job, ticket.job_id, ticket.mother) == ("ticket", "73.vm", "73.vm", "vm")
    repacked = Ticket.unpack(ticket.pack())
    assert repacked == ticket
    assert {*SAID["questions"]} <= {*neighbours.handlers(fake_node(tmp_path))}


def test_what_its_hooks_ask_for_is_known() -> None:
    """A hook that began before the exchange asks the agent that comes after it."""
    known = {"ping", "why", *requests._OF_ROOT, *requests._OF_USERS, *requests._OF_RUN_HOOKS, *requests._OF_ADMINS}

    assert {*SAID["requests"]} <= known


def test_what_it_knows_of_images_is_read(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    file.write_text(json.dumps(SAID["images"]))
    uses = image_use.load(file)

    assert len(uses.images) == 1
    assert lacking(SAID["images"], json.loads(uses.to_json())) == []


@pytest.mark.parametrize(
    ("there", "now", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {"b": 1}, [".a is gone"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": "1"}]}, [".a[0].b is '1', was 1"]),
        ([1], [1, 2], [" is [1, 2], was [1]"]),
    ],
)
def test_lacking(there: Any, now: Any, found: list[str]) -> None:
    assert lacking(there, now) == found
