"""What differs between two configurations, what of a new one counts at once, and a file that is read again."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from pathlib import Path
from unittest import mock

import pytest

from pbsdock.agent.reload import BadFile, Hangups, reload
from pbsdock.config.change import changes, in_force
from pbsdock.config.tables import Config, parse
from pbsdock.core.plain import from_plain, to_plain
from pbsdock.core.record import State
from pbsdock.protocol import wire
from tests.unit.fakes import FakeNode, ask, fake_node, known

_STORE = "[s3.ceph]\nendpoint='https://a'\nidentity='/i'\n"


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    node = fake_node(tmp_path)
    node.paths.config.parent.mkdir()
    return node


def _keys(before: str, after: str) -> dict[str, bool]:
    return {change.key: change.needs_restart for change in changes(parse(before), parse(after))}


def test_every_kind_of_change_is_found() -> None:
    """Values, stores and overrides, with what needs a start."""
    before = "[limits]\npids = 100\n[[override]]\nusers = ['a']\n" + _STORE
    after = "[limits]\npids = 200\n[engine]\nsocket = '/x'\nruntime = 'crun'\n[s3.new]\nendpoint='https://b'\nidentity='/i'\n"

    assert _keys(before, before) == {}
    assert _keys(before, after) == {
        "engine.socket": True,
        "engine.runtime": False,
        "limits.pids": False,
        "s3.ceph": True,
        "s3.new": True,
        "override[1]": False,
    }
    assert _keys(_STORE, _STORE + "allow = ['b']\nkind = 'key'\n") == {"s3.ceph.allow": False, "s3.ceph.kind": True}


def test_what_needs_a_start_stays_and_the_rest_counts() -> None:
    """A store that is gone is there for the jobs that use it, and closed to new ones."""
    before = parse("[engine]\nsocket = '/x'\n" + _STORE + "allow = ['*']\n")
    new = "[s3.new]\nendpoint='https://b'\nidentity='/i'\n"
    after = parse("[limits]\npids = 200\n" + new + "[[override]]\nusers = ['a']\n[override.s3.new]\nallow = ['x']\n")
    merged = in_force(before, after)

    assert merged.limits.pids == 200
    assert merged.engine.socket == "/x"
    assert list(merged.s3) == ["ceph"]
    assert merged.s3["ceph"].allow == ()
    assert merged.s3["ceph"].endpoint == "https://a"
    assert merged.override[0].s3 is None
    assert all(
        change.needs_restart for change in changes(merged, after) if change.key not in ("override[1]", "s3.ceph")
    )


def test_a_configuration_survives_json() -> None:
    """As the agent tells what is in force."""
    config = parse("[[override]]\nusers = ['a']\n[override.limits]\npids = 17\n" + _STORE)

    assert from_plain(Config, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert from_plain(Config, json.loads(json.dumps(to_plain(config)))) == config


def test_a_reload_with_fakes(node: FakeNode) -> None:
    """In force for what comes, told by event and answer; a job that is planned keeps its own."""
    record = known(node, State.READY)
    node.planned_by[record.incarnation] = before = node.config
    node.paths.config.write_text("[limits]\npids = 99\n[engine]\nsocket = '/elsewhere'\n")
    (answer,) = ask(node, 0, wire.Message("reload"))

    assert json.loads(answer.text("json")) == {"changed": ["limits.pids"], "waiting": ["engine.socket"]}
    assert node.events.told[-1] == ("config.reloaded", {"changed": "limits.pids", "waiting": "engine.socket"})
    assert node.config.limits.pids == 99
    assert node.rules.config is node.config
    assert node.rules.lines["limits", "pids"] == 2
    assert node.config_of(record) is before
    (told,) = ask(node, 0, wire.Message("config"))
    assert from_plain(Config, json.loads(told.text("json"))) == node.config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\npids = 99\nspeed = 1\n", "pbsdock.toml:3: unknown key"),
        ("[engine]\ndocker_config = '/nowhere/config.json'\n", "/nowhere/config.json"),
        ("[security]\nseccomp = '/nowhere.json'\n", "/nowhere.json"),
    ],
)
def test_a_wrong_file_is_refused_whole(node: FakeNode, text: str, said: str) -> None:
    """Not even what is right in it counts."""
    before = node.config
    node.paths.config.write_text(text)

    with pytest.raises(BadFile, match="stays as it was") as caught:
        reload(node)
    assert said in str(caught.value)
    assert node.config is before
    assert node.events.names() == ["config.refused"]


def test_hangups_before_anybody_follows_are_not_lost(node: FakeNode) -> None:
    """Whether held back by the supervisor or come before the file was read; a wrong file ends nothing."""
    done = threading.Semaphore(0)
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # no other thread holds it back
        hangups = Hangups()
        node.paths.config.write_text("nonsense")
        with mock.patch("pbsdock.agent.reload.reload", side_effect=lambda node: (done.release(), reload(node))):
            hangups.follow(node)
            assert done.acquire(timeout=10)
            node.paths.config.write_text("[limits]\npids = 77\n")
            signal.pthread_kill(threading.get_ident(), signal.SIGHUP)
            assert done.acquire(timeout=10)
            for _ in range(500):
                if node.config.limits.pids == 77:
                    break
                threading.Event().wait(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert node.config.limits.pids == 77
