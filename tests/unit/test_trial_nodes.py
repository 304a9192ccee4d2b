"""Jobs of several nodes, as the stand-in lays them out; nothing is started."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.rm.torque import BadValue, parse_jb, parse_nodes
from pbsdock.trial import BadRequest, Outcome, Request
from pbsdock.trial import environment as environments
from pbsdock.trial.command import report
from pbsdock.trial.namespaces import EmulatedNode
from pbsdock.trial.nodes import NodeSlots, exec_host, place, sisters, slot_owners
from pbsdock.trial.request import Job, resolve
from pbsdock.trial.spool import job_file

USER = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid), "nobody")


def _placed(text: str, *names: str) -> list[tuple[str, int]]:
    return [(node.node, node.slots) for node in place(parse_nodes(text), "vm", names)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1", ()),
        ("2", ("n2",)),
        ("3:ppn=2", ("n2", "n3")),
        ("1:ppn=4+2", ("n2", "n3")),
        ("vm:ppn=1+n2:ppn=3", ("n2",)),
        ("1+x:ppn=3", ("x",)),
        ("2+n2", ("n2", "n3")),
        ("vm+2", ("n2", "n3")),
    ],
)
def test_nodes_to_emulate(text: str, names: tuple[str, ...]) -> None:
    """Those that are named, and as many more as are counted; this host is the first."""
    assert sisters(parse_nodes(text), "vm") == names


def test_no_node_is_called_as_this_host() -> None:
    """A host called n2 has the sisters n3 and n4."""
    assert sisters(parse_nodes("3"), "n2") == ("n3", "n4")


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("3:ppn=2", [("vm", 2), ("n2", 2), ("n3", 2)]),
        ("1:ppn=4+2", [("vm", 4), ("n2", 1), ("n3", 1)]),
        ("vm:ppn=1+n3:ppn=3", [("vm", 1), ("n3", 3)]),
        ("2+n2:ppn=2", [("vm", 1), ("n3", 1), ("n2", 2)]),
    ],
)
def test_slots(text: str, placed: list[tuple[str, int]]) -> None:
    """In the order of the request."""
    assert _placed(text, "n2", "n3") == placed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("4", "only 3 nodes are there: vm, n2, n3"),
        ("vm+n4", "there is no node n4; there are vm, n2, n3"),
        ("vm+n2+n2", "the node n2 is named twice; name it once, with all its slots"),
        ("n2+vm", "a job tried here starts on this host; name vm first"),
        ("2:ppn=0", "ppn is 1 or more"),
    ],
)
def test_what_cannot_be_placed(text: str, sentence: str) -> None:
    """One sentence, with what is allowed."""
    with pytest.raises(BadValue) as caught:
        _placed(text, "n2", "n3")

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("17", "17 nodes are more than the 16 that are emulated on one host"),
        ("1+N_2", "'N_2' cannot be a host name; write small letters, digits, dots and hyphens"),
    ],
)
def test_what_cannot_be_emulated(text: str, sentence: str) -> None:
    """Names and numbers of nodes have bounds."""
    with pytest.raises(BadValue) as caught:
        sisters(parse_nodes(text), "vm")

    assert str(caught.value) == sentence


def test_virtual_nodes() -> None:
    """exec_host and the owner of each slot, as mom counts them."""
    placement = [NodeSlots(node="vm", slots=1), NodeSlots(node="n2", slots=3)]

    assert exec_host(placement) == "vm/0+n2/0-2"
    assert slot_owners(placement) == (0, 1, 1, 1)


def _job(tmp_path: Path, nodes: str) -> Job:
    mom_priv = tmp_path / "mom_priv"
    mom_priv.mkdir()
    request = Request(mom_priv=mom_priv, user=USER, script=b"true\n", job_id="17.vm")
    request.resources, request.sisters = "nodes=1", ("n2", "n3")
    plain = resolve(request, {})
    request.resources = f"nodes={nodes}"
    wide = resolve(request, {})
    names = {plain.host: "vm"}
    placement = tuple(replace(node, node=names.get(node.node, node.node)) for node in wide.placement)
    return replace(wide, host="vm", placement=placement)


@pytest.mark.parametrize(
    ("nodes", "count", "ppn", "slots"),
    [
        ("2:ppn=2", "2", "2", "4"),
        ("1+2:ppn=4", "3", "4", "9"),  # the first ppn of the text, be it another part's
        ("1:ppn=2+n2:ppn=3", "1", "2", "5"),  # a node that is named counts as none
    ],
)
def test_counts_that_mom_tells(tmp_path: Path, nodes: str, count: str, ppn: str, slots: str) -> None:
    """``InitUserEnv`` and ``setup_pelog_environment`` in Torque's source; all slots are right."""
    env = environments.for_hooks(_job(tmp_path, nodes), 1)

    assert (env["PBS_NUM_NODES"], env["PBS_NUM_PPN"], env["PBS_NP"]) == (count, ppn, slots)
    assert (env["PBS_NODENUM"], "PBS_NODEFILE" in env) == ("1", False)


def test_a_sisters_record(tmp_path: Path) -> None:
    """It reads as one without a session, on node 2 of the host list."""
    record = parse_jb(job_file(_job(tmp_path, "3:ppn=2"), None, 0, 0, 2).encode())

    assert (record.exec_host, record.node_id, record.session_id) == ("vm/0-1+n2/0-1+n3/0-1", 2, None)


def test_a_sisters_task(tmp_path: Path) -> None:
    """What it is asked for counts but for PATH and PBS_VNODENUM; there is no node file."""
    asked = {"PBS_TASKNUM": "1", "PBS_VNODENUM": "0", "PATH": "/mine", "X": "1"}
    env = environments.for_task(_job(tmp_path, "2:ppn=2"), 5, asked, node=1, slot=3)

    assert (env["PBS_TASKNUM"], env["PBS_VNODENUM"], env["PBS_NODENUM"], env["X"]) == ("1", "3", "1", "1")
    assert env["PATH"] == environments.MOM["PATH"]
    assert env["HOSTNAME"] == "n2"
    assert "PBS_NODEFILE" not in env


def test_a_sister_ended_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The mother's prologue has no status then, and is not to blame."""
    outcome = Outcome(
        job_id="1.vm", exit_status=-3, stdout=b"", stderr=b"", prologue_status=None, epilogue_status=0, seconds={}
    )

    report(outcome, interactive=False, as_json=False)

    assert capsys.readouterr().err == (
        "pbsdock try: a prologue.parallel of a sister's failed; Torque records -3 and queues the job again\n"
    )


def test_paths_of_a_node(tmp_path: Path) -> None:
    """An absolute link would lead out of /proc/PID/root, so it is followed before."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        node = EmulatedNode(
            name="n2", address="", number=2, log=tmp_path, engine_socket=tmp_path, requests=ours, pid=os.getpid()
        )
        root = f"/proc/{os.getpid()}/root"

        assert node.path(tmp_path / "link/jobs/7.JB") == Path(f"{root}{os.path.realpath(tmp_path)}/real/jobs/7.JB")
        assert node.path("/") == Path(root)


def test_more_nodes_than_there_are(tmp_path: Path) -> None:
    """Said as any wrong resource is."""
    with pytest.raises(BadRequest, match=r"^-l nodes=4: only 3 nodes are there: "):
        _job(tmp_path, "4")
