"""The configurations that send events to Loki, compared with the event schema. Vector and Alloy are no packages of Debian's,
so they themselves are asked only where a host has them: the names of the tests say which those are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

VECTOR = ROOT / "etc/vector/pbsdock.yaml"
ALLOY = ROOT / "etc/alloy/pbsdock.alloy"
SCHEMA = json.loads((ROOT / "lib/pbsdock/events/schema.json").read_text())
LABELS = {"node", "event", "level"}  # what there are few values of; never job or user


def _always() -> set[str]:
    """The fields that every line has."""
    known = [event for event in SCHEMA["oneOf"] if "const" in event["properties"]["event"]]
    assert known
    return set.intersection(*(set(event["required"]) for event in known))


def _vector() -> dict[str, Any]:
    return dict(yaml.safe_load(VECTOR.read_text()))


def test_vectors_fields_and_labels_without_vector() -> None:
    """Each field it reads is in every event, its labels are bounded, and its parts are connected."""
    config = _vector()
    sink, transform = config["sinks"]["loki"], config["transforms"]["pbsdock"]
    named = {name: re.fullmatch(r"\{\{ pbsdock\.(\w+) \}\}", value) for name, value in sink["labels"].items()}

    assert {name for name, field in named.items() if field} == LABELS
    assert sink["labels"]["job"] == "pbsdock"
    assert {field[1] for field in named.values() if field} <= _always()
    assert set(re.findall(r"\.pbsdock\.(\w+)", transform["source"])) <= _always()
    assert (transform["inputs"], sink["inputs"]) == (["pbsdock_events"], ["pbsdock"])
    assert sink["encoding"] == {"codec": "text"}


def test_alloys_fields_and_labels_without_alloy() -> None:
    """The same, by the text: nothing else here reads its language."""
    text = re.sub(r"//.*", "", re.sub(r'"https://[^"]*"', '""', ALLOY.read_text()))
    read, labels = (
        dict(re.findall(r'"(\w+)" = "(\w+)"', found))
        for found in re.findall(r"(?:expressions|values) +?= \{([^}]*)\}", text)
    )

    assert set(read.values()) <= _always()
    assert labels == {name: name for name in LABELS}
    assert set(labels) <= set(read)
    assert '"job" = "pbsdock"' in text
    for component in re.findall(r"(loki\.\w+\.\w+)\.receiver", text):
        kind, _, name = component.rpartition(".")
        assert f'{kind} "{name}" {{' in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("file", [VECTOR, ALLOY], ids=lambda file: file.parent.name)
def test_they_read_the_file_of_the_stream(file: Any) -> None:
    """Where the agent writes it, and lines as long as it may write."""
    assert "/var/log/pbsdock/events.jsonl" in file.read_text()
    assert _vector()["sources"]["pbsdock_events"]["max_line_bytes"] >= 2 * 32 * 1024


def test_the_labels_stay_few_on_a_thousand_nodes() -> None:
    """Loki keeps a stream a combination; by its manual a tenth of a million is much. An event seldom has two levels."""
    events = len(SCHEMA["oneOf"])

    assert 1000 * events < 100_000


@pytest.mark.skipif(shutil.which("vector") is None, reason="there is no Vector here")
def test_vector_validates_it() -> None:
    """Without asking Loki."""
    subprocess.run(["vector", "validate", "--no-environment", str(VECTOR)], check=True)


@pytest.mark.skipif(shutil.which("alloy") is None, reason="there is no Alloy here")
def test_alloy_parses_it() -> None:
    """Its formatter reads the whole file."""
    subprocess.run(["alloy", "fmt", "--test", str(ALLOY)], check=True)
