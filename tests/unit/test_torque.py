"""Torque's words: job ids, sizes, times, nodes requests, argument vectors, .JB files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.rm.torque import (
    BadValue,
    JobFile,
    grant_of,
    parse_duration,
    parse_epilogue_argv,
    parse_jb,
    parse_job_id,
    parse_nodes,
    parse_prologue_argv,
    parse_resource_list,
    parse_size,
    slots_on,
)
from pbsdock.rm.torque.facts import LiveJob


@pytest.mark.parametrize(
    ("text", "number", "index", "parent", "safe"),
    [
        ("12.vm", 12, None, False, "12.vm"),
        ("12", 12, None, False, "12"),
        ("16[0].vm", 16, 0, False, "16-0.vm"),
        ("16[].vm", 16, None, True, "16-.vm"),
        ("16-3.srv.example.org", 16, 3, False, "16-3.srv.example.org"),
        ("7.head_node", 7, None, False, "7.head_node"),
        ("7.vm.my_alias", 7, None, False, "7.vm.my_alias"),
        ("7._x", 7, None, False, "7._x"),
        ("7[2].vm:15011.prod+1", 7, 2, False, "7-2.vm_15011.prod_1"),
    ],
)
def test_job_id(text: str, number: int, index: int | None, parent: bool, safe: str) -> None:
    """Every form of a job id, and its name as mom's files have it."""
    found = parse_job_id(text)

    assert (found.number, found.array_index, found.array_parent, found.safe) == (number, index, parent, safe)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "../1.vm",
        "1.vm/..",
        "1[",
        "1[a].vm",
        "1.vm\n",
        "1 .vm",
        "-1.vm",
        "1.-x",
        "١.vm",
        "1[1][2].vm",
        "*",
        "1.v..w",
        "1.v/w",
        "1.v*",
        "1.v?",
        "1.v[1]",
        "1.v\x7f",
        "1.v\u00e9",
    ],
)
def test_no_job_id(text: str) -> None:
    """Nothing that could be a path or a pattern passes."""
    with pytest.raises(BadValue) as caught:
        parse_job_id(text)

    assert str(caught.value) == f"{text!r} is not a job id; one looks like 12.server, 12[3].server or 12-3.server"


def test_long_job_id_keeps_a_short_name() -> None:
    """A long server name is shortened to a unique file name."""
    names = {parse_job_id(f"1.{'a' * 200}{tail}").safe for tail in "bc"}

    assert len(names) == 2
    assert all(len(one) == 100 for one in names)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100", 100),
        ("100b", 100),
        ("1kb", 1024),
        ("200mb", 200 << 20),
        ("3GB", 3 << 30),
        ("1tb", 1 << 40),
        ("2w", 8),
        ("1kw", 4096),
        ("1mw", 4 << 20),
        ("1gw", 4 << 30),
        ("1TW", 4 << 40),
        ("4k", 4096),
        ("0", 0),
        ("9223372036854775807gb", ((1 << 63) - 1) << 30),
    ],
)
def test_size(text: str, size: int) -> None:
    """Every unit, words of four bytes included, and what Torque makes of a size it cannot hold."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "mb", "1.5gb", "-1", "1xb", "1 gb x", "0x10"])
def test_no_size(text: str) -> None:
    """What is no size is told with what one looks like."""
    with pytest.raises(BadValue) as caught:
        parse_size(text)

    assert str(caught.value) == (
        f"{text!r} is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("01:30", 90),
        ("01:00:00", 3600),
        ("2:00:00:01", 172801),
        ("10.5", 11),
        ("10.499", 10),
        ("00:00:00", 0),
    ],
)
def test_duration(text: str, seconds: int) -> None:
    """Seconds and clock forms."""
    assert parse_duration(text) == seconds


def test_nodes() -> None:
    """Counts, names, ppn, gpus and properties."""
    found = parse_nodes("2:ppn=4:gpus=1+3:bigmem+host7:ppn=2")

    assert [(one.count, one.name, one.ppn, one.gpus, one.properties) for one in found] == [
        (2, None, 4, 1, ()),
        (3, None, 1, 0, ("bigmem",)),
        (1, "host7", 2, 0, ()),
    ]


@pytest.mark.parametrize("text", ["", ":", "1:", "-1", "1:2:3:4:5", "1.", "1.x", "1.5:30", "x", "²", "1" * 21, "1e3"])
def test_no_duration(text: str) -> None:
    """What is no time is told with what one looks like."""
    with pytest.raises(BadValue) as caught:
        parse_duration(text)

    assert str(caught.value) == f"{text!r} is not a time; write seconds or [[DD:]HH:]MM:SS"


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("ppn=4", (1, None, 4, 0, ())),
        ("gpus=2:ppn=3", (1, None, 3, 2, ())),
        ("1:ppn=2#excl", (1, None, 2, 0, ())),
        ("vm:ppn=1", (1, "vm", 1, 0, ())),
        ("3:bigmem:ib", (3, None, 1, 0, ("bigmem", "ib"))),
        ("1:gpus=1:exclusive_process", (1, None, 1, 1, ("exclusive_process",))),
    ],
)
def test_node_spec(text: str, spec: tuple[int, str | None, int, int, tuple[str, ...]]) -> None:
    """A missing count is one node, as in Torque's own parser."""
    (found,) = parse_nodes(text)

    assert (found.count, found.name, found.ppn, found.gpus, found.properties) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not a nodes request; write for example 2:ppn=4+1:bigmem"),
        ("1++2", "'1++2' is not a nodes request; write for example 2:ppn=4+1:bigmem"),
        ("1:ppn=x", "'ppn=x' in nodes=1:ppn=x needs a whole number after '='"),
        ("1:gpus=", "'gpus=' in nodes=1:gpus= needs a whole number after '='"),
    ],
)
def test_no_node_spec(text: str, says: str) -> None:
    """The part that is wrong is named."""
    with pytest.raises(BadValue) as caught:
        parse_nodes(text)

    assert str(caught.value) == says


def test_real_resource_list() -> None:
    """The list a prologue was seen to get."""
    found = parse_resource_list("nodes=1:ppn=2,mem=200mb,pmem=100mb,vmem=300mb,walltime=00:05:00,neednodes=1:ppn=2")

    assert (found.mem, found.pmem, found.vmem, found.walltime) == (200 << 20, 100 << 20, 300 << 20, 300)
    assert found.nodes[0].ppn == 2
    assert dict(found.raw)["neednodes"] == "1:ppn=2"


def test_argument_vectors() -> None:
    """Both hooks' arguments, with and without the last one."""
    long = ["7.vm", "alice", "users", "name", "mem=1mb", "batch", "acct", "/spool/7.vm.SC"]

    assert parse_prologue_argv(long).script_path == "/spool/7.vm.SC"
    assert parse_prologue_argv(long[:7]).script_path == ""
    ended = parse_epilogue_argv([*long[:4], "123", "mem=1mb", "cput=1", "batch", "acct", "-2", "/spool/7.vm.SC"])
    assert (ended.session_id, ended.exit_status) == (123, -2)
    with pytest.raises(BadValue, match="^a prologue gets 7 or 8 arguments, not 3$"):
        parse_prologue_argv(long[:3])


def test_a_text_resource_cannot_forge_a_limit() -> None:
    """mom escapes no comma: of two values the smaller counts, of two nodes requests the first."""
    found = parse_resource_list(
        "nodes=1,mem=1gb,ncpus=2,other=x,mem=9gb,walltime=60,walltime=99:00,ncpus=64,nodes=9:ppn=9"
    )

    assert (found.mem, found.walltime, found.ncpus, found.nodes[0].count) == (1 << 30, 60, 2, 1)
    assert parse_resource_list("").raw == ()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["7.vm"] * 9, "a prologue gets 7 or 8 arguments, not 9"),
        (["../7", *"ugnrqas"], "'../7' is not a job id; one looks like 12.server, 12[3].server or 12-3.server"),
    ],
)
def test_bad_prologue_arguments(argv: list[str], says: str) -> None:
    """The argument that is wrong is in the sentence."""
    with pytest.raises(BadValue) as caught:
        parse_prologue_argv(argv)

    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mem=x", "mem: 'x' is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw"),
        (
            "nodes=1,vmem=-5",
            "vmem: '-5' is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw",
        ),
        ("walltime=-1", "walltime: '-1' is not a time; write seconds or [[DD:]HH:]MM:SS"),
        ("nodes=1:ppn=-1", "'ppn=-1' in nodes=1:ppn=-1 needs a whole number after '='"),
        ("nodes=", "'' is not a nodes request; write for example 2:ppn=4+1:bigmem"),
        ("mem=1gb,walltime=2562047788015215:30:07,ncpus=99999999999999999999,nodes=1:ppn=9223372036854775807", ""),
    ],
)
def test_a_job_that_asks_for_nonsense_is_still_a_job(text: str, says: str) -> None:
    """The sentence is kept for whoever can tell it: the hooks of such a job are called as any other's."""
    started = parse_prologue_argv(["7.vm", "u", "g", "n", text, "q", "a", "s"])
    ended = parse_epilogue_argv(["7.vm", "u", "g", "n", "1", text, "", "q", "a", "0"])
    file = parse_jb(
        (
            f"<job><jobid>7.vm</jobid><attributes><Resource_List>{_elements(text)}</Resource_List></attributes></job>"
        ).encode()
    )

    assert (started.job_id.text, started.wrong) == ("7.vm", says)
    assert (ended.job_id.text, ended.resources) == ("7.vm", text)
    assert (file.job_id.text, file.wrong) == ("7.vm", says)


def _elements(text: str) -> str:
    pairs = [one.partition("=") for one in text.split(",")]
    return "".join(f"<{key}>{value}</{key}>" for key, _, value in pairs)


@pytest.mark.parametrize(
    ("session", "status", "says"),
    [
        ("x", "0", "'x' is not a session id; it is a whole number"),
        ("1", "", "'' is not an exit status; it is a whole number"),
        ("1", "--1", "'--1' is not an exit status; it is a whole number"),
    ],
)
def test_bad_epilogue_arguments(session: str, status: str, says: str) -> None:
    """Numbers are numbers."""
    with pytest.raises(BadValue) as caught:
        parse_epilogue_argv(["7.vm", "u", "g", "n", session, "", "", "q", "a", status])

    assert str(caught.value) == says


# As pbs_mom 6.1 wrote it, but for the attributes nobody reads: the fixed <queue/> is empty, values are not escaped but
# for XML's sake, <interactive> is a port.
JOB_FILE = b"""<?xml version="1.0"?>
<job>
  <version>131842</version>
  <start_time>1795473320</start_time>
  <jobid>30.vm</jobid>
  <fileprefix>30.vm</fileprefix>
  <queue/>
  <execution_uid>2001</execution_uid>
  <execution_gid>2002</execution_gid>
  <attributes>
    <Job_Name flags="1">x&amp;y</Job_Name>
    <Job_Owner flags="1">alice@vm</Job_Owner>
    <queue flags="1">batch</queue>
    <exec_host flags="1">vm/0+n2/0-2</exec_host>
    <interactive flags="1">51933</interactive>
    <Resource_List>
      <nodes flags="3">1:ppn=1</nodes>
      <mem flags="3">50mb</mem>
      <walltime flags="3">00:01:00</walltime>
    </Resource_List>
    <session_id flags="9">23259</session_id>
    <Variable_List flags="1">A=a&amp;b,B=&amp;foo;x,C=&lt;euser&gt;root&lt;/euser&gt;,BS=a\\b,CM=p,q,PBS_O_WORKDIR=/home/a,b,Z=</Variable_List>
    <euser flags="1">alice</euser>
    <egroup flags="5">users</egroup>
    <start_time flags="1">1795473321</start_time>
  </attributes>
  <taskid>2</taskid>
  <nodeid>0</nodeid>
</job>
"""


def test_job_file() -> None:
    """A .JB's facts, attributes before the fixed fields."""
    found = parse_jb(JOB_FILE)

    assert (found.job_id.text, found.user, found.group, found.uid, found.gid) == (
        "30.vm",
        "alice",
        "users",
        2001,
        2002,
    )
    assert (found.name, found.queue, found.exec_host) == ("x&y", "batch", "vm/0+n2/0-2")
    assert (found.session_id, found.node_id, found.start_time, found.interactive) == (23259, 0, 1795473321, True)
    assert (found.resources.mem, found.resources.walltime, found.resources.nodes[0].ppn) == (50 << 20, 60, 1)


def test_job_files_variables() -> None:
    """Nothing is escaped: a backslash is a backslash, and what is no variable belongs to the one before it."""
    assert parse_jb(JOB_FILE).variables == (
        ("A", "a&b"),
        ("B", "&foo;x"),
        ("C", "<euser>root</euser>"),
        ("BS", "a\\b"),
        ("CM", "p,q"),
        ("PBS_O_WORKDIR", "/home/a,b"),
        ("Z", ""),
    )


def test_sparse_job_file() -> None:
    """What mom has not written yet is absent, not wrong: no session, no variables, a batch job."""
    found = parse_jb(b"<job><jobid>7.vm</jobid><attributes><Job_Owner>bob@x</Job_Owner></attributes></job>")

    assert (found.user, found.uid, found.session_id, found.variables, found.interactive) == (
        "bob",
        None,
        None,
        (),
        False,
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "b">]><job/>', "a .JB has no document type; this file is not mom's"),
        (
            '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x [<!ENTITY a "b">]><job/>'.encode("utf-16"),
            "a .JB has no document type; this file is not mom's",
        ),
        (b"", "the .JB is not well-formed: no element found: line 1, column 0"),
        (b"<job><jobid>7.vm", "the .JB is not well-formed: no element found: line 1, column 16"),
        (b"<job><</job>", "the .JB is not well-formed: not well-formed (invalid token): line 1, column 6"),
        (b"<x/>", "the .JB has no job in it; this file is not mom's"),
        (b"<job/>", "'' is not a job id; one looks like 12.server, 12[3].server or 12-3.server"),
    ],
)
def test_no_job_file(data: bytes, says: str) -> None:
    """Anything but mom's own format is refused, and nothing is expanded."""
    with pytest.raises(BadValue) as caught:
        parse_jb(data)

    assert str(caught.value) == says


def test_undefined_entity() -> None:
    """mom escapes every ampersand: an entity of its own is a file of somebody else's."""
    with pytest.raises(BadValue, match=r"^the \.JB is not well-formed: undefined entity"):
        parse_jb(b"<job>&a;</job>")


@pytest.mark.parametrize(
    ("exec_host", "node", "slots"),
    [
        ("vm/0", "vm", (1, 1)),
        ("vm/0+vm/1+n2/0", "vm", (2, 3)),
        ("vm/0-3,6", "vm", (5, 5)),
        ("vm/0+n2/0-2", "n2.example.org", (3, 4)),
        ("n1.a.org/0+n1.b.org/0-3", "n1.a.org", (1, 5)),
        ("n1/0+n1.a.org/0-3", "n1.a.org", (4, 5)),
        ("n1.x.org/0-3", "n1.y.org", (4, 4)),
        ("n1.a.org/0-1+n1.b.org/0-3", "n1", (2, 6)),
        ("n1.a.org/0-1+n1.b.org/0-3", "n1.c.org", (2, 6)),
        ("vm/0", "other", (0, 1)),
        ("vm", "vm", (0, 0)),
        ("", "vm", (0, 0)),
        ("vm/²-³", "vm", (0, 0)),
        ("vm/5-2", "vm", (1, 1)),
    ],
)
def test_slots(exec_host: str, node: str, slots: tuple[int, int]) -> None:
    """Slots here and in all; a host by its full name where that is known, never those of two hosts together."""
    assert slots_on(exec_host, node) == slots


# As pbs_mom 6.1 wrote it for qsub -L tasks=1:lprocs=2:memory=300mb -L tasks=2:lprocs=3:memory=100mb:swap=150mb.
_REQUESTS = b"""
      <task_count.0 flags="1">1</task_count.0>
      <lprocs.0 flags="1">2</lprocs.0>
      <total_memory.0 flags="1">307200kb</total_memory.0>
      <memory.0 flags="1">307200kb</memory.0>
      <thread_usage_policy.0 flags="1">allowthreads</thread_usage_policy.0>
      <task_count.1 flags="1">2</task_count.1>
      <lprocs.1 flags="1">3</lprocs.1>
      <total_memory.1 flags="1">204800kb</total_memory.1>
      <memory.1 flags="1">102400kb</memory.1>
      <total_swap.1 flags="1">307200kb</total_swap.1>
      <swap.1 flags="1">153600kb</swap.1>
"""


def _with_requests(requests: bytes, *more: bytes) -> JobFile:
    text = b"<request_version>2</request_version><req_information>" + requests + b"</req_information>" + b"".join(more)
    return parse_jb(JOB_FILE.replace(b"</attributes>", text + b"</attributes>"))


def test_job_file_of_task_requests() -> None:
    """-L is nowhere else: sizes are a task's, in bytes."""
    first, second = _with_requests(_REQUESTS).tasks

    assert (first.count, first.lprocs, first.memory, first.swap) == (1, 2, 300 << 20, None)
    assert (second.count, second.lprocs, second.memory, second.swap) == (2, 3, 100 << 20, 150 << 20)


@pytest.mark.parametrize(
    ("requests", "slots", "memory", "swap", "cpus", "is_whole"),
    [
        (_REQUESTS, (1, 1), 500 << 20, 600 << 20, 8, False),
        (_REQUESTS, (1, 2), 250 << 20, 300 << 20, 4, False),
        (b"<memory.0>1gb</memory.0><task_count.0>2</task_count.0>", (3, 3), 2 << 30, None, 3, False),
        (b"<swap.0>1gb</swap.0>", (1, 1), 1 << 30, 1 << 30, 1, False),
        (b"<lprocs.0>all</lprocs.0>", (1, 1), None, None, 1, True),
        (b"<task_count.0>4</task_count.0><lprocs.0>2</lprocs.0><memory.0>1kb</memory.0><hostlist.0>vm:ppn=6</hostlist.0>"
         b"<hostlist.0>n2:ppn=2</hostlist.0>", (6, 8), 3 << 10, None, 6, False),
        (b"<task_count.0>2</task_count.0><lprocs.0>2</lprocs.0><memory.0>1kb</memory.0><node.0>1</node.0>"
         b"<hostlist.0>vm/0-3</hostlist.0><hostlist.0>n2/0-3</hostlist.0>", (4, 8), 1 << 10, None, 4, False),
        (b"<task_count.0>3</task_count.0><memory.0>1kb</memory.0><hostlist.0>vm.a.org/0-1,5</hostlist.0>", (3, 3), 3 << 10,
         None, 3, False),
        (b"<task_count.0>2</task_count.0><memory.0>1kb</memory.0><hostlist.0>alias:ppn=2</hostlist.0>", (2, 2), 2 << 10,
         None, 2, False),
    ],
    ids=["all here", "half here", "more slots than lprocs", "swap", "all", "ppn", "a node each", "domain", "another name"],
)  # fmt: skip
def test_grant_of_task_requests(
    requests: bytes, slots: tuple[int, int], memory: int | None, swap: int | None, cpus: int, is_whole: bool
) -> None:
    """This node's part of -L: by the hosts the server wrote down, else by slots; never fewer CPUs than slots."""
    tasks = _with_requests(requests).tasks
    here, total = slots
    found = grant_of(parse_resource_list(""), slots_here=here, slots_total=total, tasks=tasks, node="vm")

    assert (found.memory_bytes, found.memory_swap_bytes, found.cpus) == (memory, swap, cpus)
    assert (found.whole_node, found.memory_from) == (is_whole, "-L memory" if memory else "")


def test_job_file_of_an_exclusive_job() -> None:
    """qsub -n, as mom wrote it; one without has no such element."""
    exclusive = _with_requests(b"", b'<node_exclusive flags="1">1</node_exclusive>').exclusive

    assert (exclusive, parse_jb(JOB_FILE).exclusive) == (True, False)
    assert grant_of(parse_resource_list("nodes=1"), slots_here=1, slots_total=1, exclusive=exclusive).whole_node


def test_job_file_of_requests_that_make_no_sense() -> None:
    """Told, and no request."""
    found = _with_requests(b"<memory.0>lots</memory.0>")

    assert found.tasks == ()
    assert found.wrong.startswith("-L memory: 'lots' is not a size")


def test_requests_a_server_makes_of_a_resource_list_count_once() -> None:
    """With cgroups it writes some for -l as well, whose Resource_List is what counts."""
    found = parse_jb(
        JOB_FILE.replace(
            b"</attributes>",
            b"<req_information><memory.0>1kb</memory.0></req_information><request_version>1</request_version></attributes>",
        )
    )
    assert found.tasks == ()


@pytest.mark.parametrize(
    ("more", "has_more"),
    [
        (b"", False),
        (b"<node_exclusive>1</node_exclusive>", True),
        (b"<node_exclusive>0</node_exclusive>", False),
        (b"<request_version>2</request_version><req_information><memory.0>1kb</memory.0></req_information>", True),
        (b"<Resource_List><other>" + b"x" * 1900 + b"</other></Resource_List>", True),
    ],
    ids=["-l", "-n", "not -n", "-L", "more than mom's buffer"],
)
def test_what_no_prologue_was_told(tmp_path: Path, more: bytes, has_more: bool) -> None:
    """Of a long resource list mom leaves out what does not fit: a memory limit may be among it."""
    file = parse_jb(JOB_FILE.replace(b"</attributes>", more + b"</attributes>"))

    assert LiveJob("30.vm.JB", file, "vm", tmp_path, tmp_path).has_more is has_more


@pytest.mark.parametrize(
    ("exec_host", "slots"), [("alias/0-3", (4, 4)), ("alias/0-3+n2/0", (1, 5)), ("vm/0-1+n2/0", (2, 3))]
)
def test_slots_of_a_host_by_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exec_host: str, slots: tuple[int, int]
) -> None:
    """A job of one host is on this one, whatever the server calls it; of several, the least."""
    monkeypatch.setattr("pbsdock.rm.torque.facts._job", lambda *_, **found: found)
    monkeypatch.setattr("pbsdock.rm.torque.facts.pwd.getpwnam", lambda _: SimpleNamespace(pw_uid=1))
    file = parse_jb(JOB_FILE.replace(b"vm/0+n2/0-2", exec_host.encode()))
    found: Any = LiveJob("30.vm.JB", file, "vm", tmp_path, tmp_path).job({})

    assert (found["slots_here"], found["slots_total"]) == slots
