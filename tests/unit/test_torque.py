"""Torque's words: job ids, sizes, times, nodes requests, argument vectors, .JB files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.torque import (
    BadValue,
    parse_duration,
    parse_epilogue_argv,
    parse_jb,
    parse_job_id,
    parse_nodes,
    parse_prologue_argv,
    parse_resource_list,
    parse_size,
    slots_on,
)  # fmt: skip


@pytest.mark.parametrize(("text", "number", "index", "parent", "safe"), [
    ("12.vm", 12, None, False, "12.vm"),
    ("12", 12, None, False, "12"),
    ("16[0].vm", 16, 0, False, "16-0.vm"),
    ("16[].vm", 16, None, True, "16-.vm"),
    ("16-3.srv.example.org", 16, 3, False, "16-3.srv.example.org"),
])  # fmt: skip
def test_job_id(text: str, number: int, index: int | None, parent: bool, safe: str) -> None:
    """Every form of a job id, and its name as mom's files have it."""
    found = parse_job_id(text)

    assert (found.number, found.array_index, found.array_parent, found.safe) == (number, index, parent, safe)


@pytest.mark.parametrize("text", ["", "x", "../1.vm", "1.vm/..", "1[", "1[a].vm", "1.vm\n", "1 .vm", "-1.vm", "1.-x",
                                  "١.vm", "1[1][2].vm", "*"])  # fmt: skip
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


@pytest.mark.parametrize(("text", "size"), [
    ("100", 100), ("100b", 100), ("1kb", 1024), ("200mb", 200 << 20), ("3GB", 3 << 30), ("1tb", 1 << 40),
    ("2w", 16), ("1kw", 8192), ("1mw", 8 << 20), ("4k", 4096), ("0", 0),
])  # fmt: skip
def test_size(text: str, size: int) -> None:
    """Every unit, words of eight bytes included."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "mb", "1.5gb", "-1", "1xb", "1 gb x", "0x10"])
def test_no_size(text: str) -> None:
    """What is no size is told with what one looks like."""
    with pytest.raises(BadValue) as caught:
        parse_size(text)

    assert str(caught.value) == (
        f"{text!r} is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw"
    )


@pytest.mark.parametrize(("text", "seconds"), [
    ("90", 90), ("01:30", 90), ("01:00:00", 3600), ("2:00:00:01", 172801), ("10.5", 10),
])  # fmt: skip
def test_duration(text: str, seconds: int) -> None:
    """Seconds and clock forms."""
    assert parse_duration(text) == seconds


def test_nodes() -> None:
    """Counts, names, ppn, gpus and properties."""
    found = parse_nodes("2:ppn=4:gpus=1+3:bigmem+host7:ppn=2")

    assert [(one.count, one.name, one.ppn, one.gpus, one.properties) for one in found] == [
        (2, None, 4, 1, ()), (3, None, 1, 0, ("bigmem",)), (1, "host7", 2, 0, ()),
    ]  # fmt: skip


def test_real_resource_list() -> None:
    """The list a prologue was seen to get."""
    found = parse_resource_list(
        "nodes=1:ppn=2,mem=200mb,pmem=100mb,vmem=300mb,walltime=00:05:00,neednodes=1:ppn=2"
    )

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


def test_job_file() -> None:
    """A .JB's facts; entities are refused."""
    data = (
        b"<job><jobid>7.vm</jobid><attributes><Job_Name>x</Job_Name><euser>alice</euser><exec_host>vm/0+n2/0-2"
        b"</exec_host><Resource_List><mem>1gb</mem><nodes>1:ppn=2</nodes></Resource_List>"
        b"<Variable_List>PBS_O_WORKDIR=/home/a\\,b,X=1</Variable_List></attributes>"
        b"<execution_uid>2001</execution_uid></job>"
    )
    found = parse_jb(data)

    assert (found.user, found.uid, found.resources.mem) == ("alice", 2001, 1 << 30)
    assert dict(found.variables) == {"PBS_O_WORKDIR": "/home/a,b", "X": "1"}
    assert slots_on(found.exec_host, "n2.example.org") == (3, 4)
    with pytest.raises(BadValue):
        parse_jb(b'<!DOCTYPE x [<!ENTITY a "b">]><job/>')


@given(st.text(max_size=60))
def test_parsers_raise_nothing_else(text: str) -> None:
    """Whatever comes, the answer is a value or BadValue."""
    for parse in (parse_job_id, parse_size, parse_duration, parse_nodes, parse_resource_list):
        try:
            parse(text)
        except BadValue:
            continue


@given(st.integers(0, 10**6), st.sampled_from(["", "b", "kb", "mb", "gb", "w", "kw"]))
def test_sizes_scale(count: int, unit: str) -> None:
    """A size is linear in its count."""
    assert parse_size(f"{count}{unit}") == count * parse_size(f"1{unit}")


@given(st.integers(0, 10**9), st.one_of(st.none(), st.integers(0, 99999)), st.from_regex(r"[a-z][a-z0-9.]{0,30}",
                                                                                       fullmatch=True))  # fmt: skip
def test_job_ids_round_trip(number: int, index: int | None, server: str) -> None:
    """An id is what it was made of, and its file name is no path."""
    text = f"{number}{'' if index is None else f'[{index}]'}.{server}"
    found = parse_job_id(text)

    assert (found.number, found.array_index, found.server, found.text) == (number, index, server, text)
    assert "/" not in found.safe
