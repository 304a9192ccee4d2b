"""What one user may have of the agent and of its stream: rates, memory, places; all with a clock of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.agent.memory import Heap
from pbsdock.agent.quota import Held, UserQuota, cost
from pbsdock.core.rates import Rates
from pbsdock.events import register as event_names
from pbsdock.events.limits import EventLimits
from pbsdock.events.register import AT_WILL
from pbsdock.events.stream import EventStream
from pbsdock.rm import torque
from pbsdock.rm.torque.live import JobFiles
from tests.conftest import ROOT

_NEVER_LIMITED = (
    "agent.started",
    "agent.stopped",
    "container.",
    "credentials.",
    "job.ended",
    "job.fault",
    "job.finished",
    "job.refused",
    "job.started",
    "node.",
    "orphan.",
    "release.",
    "events.",
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


_VALIDATOR = jsonschema.Draft202012Validator(event_names.schema(strict=True))


def _stream(path: Path, clock: Clock) -> EventStream:
    return EventStream(path, node="n1", strict=True, limits=EventLimits(clock))


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- rates ------------------------------------------------------------------------------------------------------------


def test_a_burst_and_then_so_many_a_second() -> None:
    """A full bucket at first, a steady trickle afterwards, for each key by itself; no more than full after a rest."""
    clock = Clock()
    rates = Rates(clock)

    assert [rates.take("a", 3, 2.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert rates.take("b", 3, 2.0)
    clock.now += 0.5
    assert [rates.take("a", 3, 2.0) for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [rates.take("a", 3, 2.0) for _ in range(4)] == [True] * 3 + [False]


@given(gaps=st.lists(st.floats(min_value=0, max_value=5), max_size=200))
def test_never_more_than_the_rate(gaps: list[float]) -> None:
    """However the askers are timed: at most the burst and what has come in since."""
    clock = Clock()
    rates = Rates(clock)
    granted = 0
    for gap in gaps:
        clock.now += gap
        granted += rates.take("a", 5, 1.5)

    assert granted <= 5 + 1.5 * sum(gaps) + 1e-6


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """Nor does it take."""
    clock = Clock()
    rates = Rates(clock)
    assert rates.take("a", 1, 1.0)
    clock.now -= 500
    assert not rates.take("a", 1, 1.0)
    clock.now += 1
    assert rates.take("a", 1, 1.0)


def test_only_so_many_keys() -> None:
    """A user with 65,536 ids of a namespace does not fill the memory."""
    rates = Rates(Clock(), most=10)
    for number in range(1000):
        rates.take(number, 1, 1.0)

    assert len(rates) == 10


# -- the stream -------------------------------------------------------------------------------------------------------


def test_one_users_lines_are_counted_and_told(tmp_path: Path) -> None:
    """4,050 refusals of one user: some lines, and one a minute later that says how many there were; seq has no gap."""
    clock = Clock()
    stream = _stream(tmp_path / "e", clock)
    for _ in range(4050):
        stream.emit("client.refused", level="warning", uid=1001, reason="too many bytes under way")
    stream.tell_limited()
    burst = AT_WILL["client.refused"][0]
    assert len(_lines(tmp_path / "e")) == burst

    clock.now += 60
    stream.tell_limited()
    stream.tell_limited()
    *_, last = found = _lines(tmp_path / "e")

    assert len(found) == burst + 1
    assert [one["seq"] for one in found] == list(range(1, burst + 2))
    assert {key: last[key] for key in ("event", "level", "of", "who", "count")} == {
        "event": "events.limited",
        "level": "warning",
        "of": "client.refused",
        "who": "1001",
        "count": 4050 - burst,
    }
    for one in found:
        _VALIDATOR.validate(one)


def test_a_limit_is_of_one_user_and_one_kind(tmp_path: Path) -> None:
    """Whoever floods takes no line from others, nor from what is told of their own jobs."""
    stream = _stream(tmp_path / "e", Clock())
    for _ in range(500):
        stream.emit("client.refused", uid=1001)
    stream.emit("client.refused", uid=1002)
    stream.emit("job.signalled", user="mallory", signal="SIGUSR1")
    for _ in range(500):
        stream.emit("job.started", user="mallory", container="c", pid=1)
    found = [(one["event"], one.get("uid")) for one in _lines(tmp_path / "e")]

    assert found.count(("client.refused", 1002)) == 1
    assert found.count(("job.signalled", None)) == 1
    assert found.count(("job.started", None)) == 500


def test_all_users_together(tmp_path: Path) -> None:
    """A user with thousands of ids is many users: what they cause together has a bound too, and is told in a few lines."""
    clock = Clock()
    stream = _stream(tmp_path / "e", clock)
    for number in range(20_000):
        stream.emit("client.refused", uid=100_000 + number)
    clock.now += 60
    stream.tell_limited()
    found = _lines(tmp_path / "e")
    told = [one for one in found if one["event"] == "events.limited"]

    assert len(found) < 3100
    assert sum(int(str(one["count"])) for one in told) + len(found) - len(told) == 20_000
    assert [one["who"] for one in told][-1] == "others"


def test_what_has_no_user_is_never_limited(tmp_path: Path) -> None:
    """The node's own errors are not a user's doing."""
    stream = _stream(tmp_path / "e", Clock())
    for _ in range(100):
        stream.emit("agent.error", where="tick", reason="x")

    assert len(_lines(tmp_path / "e")) == 100


def test_told_at_the_end(tmp_path: Path) -> None:
    """An agent that stops tells what it has counted."""
    stream = _stream(tmp_path / "e", Clock())
    for _ in range(50):
        stream.emit("client.refused", uid=7)
    stream.tell_limited(now=True)

    assert _lines(tmp_path / "e")[-1]["event"] == "events.limited"


def test_what_became_of_jobs_is_no_users_to_drop() -> None:
    """The closed class holds nothing that says what became of a job or of the node's safety."""
    assert set(AT_WILL) <= set(event_names.EVENTS)
    assert [one for one in AT_WILL if one.startswith(_NEVER_LIMITED)] == []
    assert all(burst >= 1 and 0 < a_minute < 60 for burst, a_minute in AT_WILL.values())


# -- memory -----------------------------------------------------------------------------------------------------------


def test_held_until_it_is_given_back() -> None:
    """A share of memory for each user and one for all; what does not fit waits until something is given back."""
    quota = UserQuota(1024, 4 << 20)
    first, second, other, root = (Held(quota, uid) for uid in (7, 7, 8, 0))
    assert first.grow(40 << 20)  # the largest there is, alone
    assert root.grow(600 << 20)
    root.release()
    assert not second.grow(1 << 20)
    assert not other.grow(10 << 20)  # no room in all
    assert other.grow(200 << 10)  # an ordinary one is let in beside the others' large ones
    first.release()
    assert second.grow(12 << 20)
    assert not Held(quota, 7).grow(1 << 20)
    assert other.grow(10 << 20)


def test_a_signal_gets_through() -> None:
    """However much of a user's is under way: a short message, as those that end a job, waits for nothing."""
    quota = UserQuota(1024, 4 << 20)
    all_of_it, signal = Held(quota, 7), Held(quota, 7)
    assert all_of_it.grow(48 << 20)
    assert signal.grow(cost(60, 0))
    assert signal.grow(cost(60, 6))


@given(parts=st.lists(st.binary(min_size=0, max_size=50), min_size=1, max_size=30))
def test_growing_counts_once(parts: list[bytes]) -> None:
    """What was held before is part of what is held after."""
    quota = UserQuota(1024, 4 << 20)
    held = Held(quota, 7)
    for part in parts:
        held.grow(len(part))
    assert held.size == max(len(one) for one in parts)
    assert quota._held[7] == held.size
    held.release()
    assert quota._held[7] == 0


def test_the_cost_of_many_small_fields() -> None:
    """What decoding takes is no more than what is counted, for few large fields and for many empty ones."""
    import tracemalloc

    from pbsdock.protocol import wire

    for value, count in ((b"", 100_000), (b"x", 50_000), (b"y" * 4000, 500)):
        payload = wire.encode(wire.Message("start", env=[value] * count))[4:]
        tracemalloc.start()
        message = wire.decode(payload)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert message.raw("env")
        assert peak + len(payload) < 1.25 * cost(len(payload), payload.count(b"\0") + 1), (value[:1], peak)


def test_connections_at_a_rate() -> None:
    """Who reconnects faster than anybody needs is hung up on, whatever they had open; a wide job's tasks get in."""
    clock = Clock()
    quota = UserQuota(1024, 4 << 20, clock)
    assert all(quota.enter(7) for _ in range(257))
    for _ in range(257):
        quota.leave(7)
    granted = 0
    for _ in range(5000):
        if quota.enter(7):
            granted += 1
            quota.leave(7)
    assert granted == 1000 - 257
    assert quota.enter(8)
    assert all(quota.enter(0) for _ in range(5000))
    for _ in range(5000):
        quota.leave(0)
    clock.now += 1
    assert sum(quota.enter(7) for _ in range(100)) == 50


def test_memory_is_given_back_when_it_is_worth_it() -> None:
    """Not for every small answer."""
    heap = Heap()
    heap.freed(1000)
    assert not heap.tidy()
    heap.started()
    assert heap.tidy()
    assert not heap.tidy()
    heap.freed(64 << 20)
    assert heap.tidy()
    assert not heap.tidy()


def test_what_requests_can_do_without_is_not_loaded() -> None:
    """The engine's client works without it, and says nothing."""
    code = (
        "import sys; from pbsdock.agent.memory import leave_out_unused; leave_out_unused(); import docker, requests;"
        "found = requests.Response(); found._content = 'é'.encode(); assert found.text == 'é';"
        "assert not any(name.startswith('charset_normalizer.') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- mom's files ------------------------------------------------------------------------------------------------------


def _job_file(directory: Path, name: str, job_id: str, **other: str) -> Path:
    path = directory / name
    fields = "".join(f"<{key}>{value}</{key}>" for key, value in other.items())
    path.write_text(f"<job><jobid>{job_id}</jobid>{fields}<attributes><euser>alice</euser></attributes></job>")
    return path


def _files(directory: Path, **options: int) -> JobFiles:
    import os

    return JobFiles(directory, owner=os.getuid(), **options)


@pytest.mark.parametrize(
    ("job", "name"),
    [
        ("7.vm", "7.vm.JB"),
        ("16[0].vm", "16-0.vm.JB"),
        ("16-3.vm", "16-3.vm.JB"),
        ("7.vm", "7.vn.JB"),  # the server found a file of that name and counted the last byte up
        ("7.vm", "7.vm15003.JB"),  # several moms on one host
        (f"7.{'h' * 80}", f"7.{'h' * 59}.JB"),
        (f"7[12].{'h' * 80}", f"7-12.{'h' * 56}.JB"),
        (f"7.{'h' * 80}", f"7.{'h' * 58}i.JB"),
    ],
)
def test_found_by_the_names_it_can_have(tmp_path: Path, job: str, name: str) -> None:
    """As Torque's server makes them from the id, whatever else is there; and each file is read once."""
    for number in range(300):
        _job_file(tmp_path, f"{1000 + number}.vm.JB", f"{1000 + number}.vm")
    _job_file(tmp_path, name, job)
    files = _files(tmp_path)
    for _ in range(3):
        found = files.find(torque.parse_job_id(job))
        assert found is not None
        assert (found[0], found[1].job_id.text) == (name, job)
    assert files.parsed == 1


def test_what_is_not_there_costs_no_parsing(tmp_path: Path) -> None:
    """Fifty questions a second for a job that does not exist list and parse nothing; one that comes is seen at once."""
    for number in range(300):
        _job_file(tmp_path, f"{1000 + number}.vm.JB", f"{1000 + number}.vm")
    files = _files(tmp_path)
    assert [files.find(torque.parse_job_id("7.vm")) for _ in range(50)] == [None] * 50
    assert files.parsed == 0
    _job_file(tmp_path, "7.vn.JB", "7.vm")
    assert files.find(torque.parse_job_id("7.vm")) is not None


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Mom replaces it by another; a file that was cut short while it was written is not the last word."""
    path = tmp_path / "7.vm.JB"
    path.write_text("<job><jobid>7.v")
    files = _files(tmp_path)
    assert files.find(torque.parse_job_id("7.vm")) is None
    _job_file(tmp_path, "new", "7.vm").rename(path)
    assert files.find(torque.parse_job_id("7.vm")) is not None
    path.unlink()
    assert files.find(torque.parse_job_id("7.vm")) is None


def test_only_moms_plain_files(tmp_path: Path) -> None:
    """No link, no pipe, nobody else's, nothing larger than a .JB gets."""
    import os

    job = torque.parse_job_id("7.vm")
    path = tmp_path / "7.vm.JB"
    _job_file(tmp_path, "elsewhere", "7.vm")
    path.symlink_to(tmp_path / "elsewhere")
    assert _files(tmp_path).find(job) is None
    path.unlink()
    os.mkfifo(path)
    assert _files(tmp_path).find(job) is None
    path.unlink()
    _job_file(tmp_path, "7.vm.JB", "7.vm", Variable_List="x" * 5000)
    assert _files(tmp_path, limit=4096).find(job) is None
    assert JobFiles(tmp_path, owner=os.getuid() + 1).find(job) is None
    assert _files(tmp_path).find(job) is not None


def test_what_is_kept_has_a_bound(tmp_path: Path) -> None:
    """Of large files only the last ones stay parsed."""
    for number in range(20):
        _job_file(tmp_path, f"{number}.vm.JB", f"{number}.vm", Variable_List="x" * 1000)
    files = _files(tmp_path, kept=5000)
    for number in range(20):
        assert files.find(torque.parse_job_id(f"{number}.vm")) is not None

    assert 1 <= len(files._read) <= 5


def test_the_manual_names_the_limits() -> None:
    """Whoever misses lines finds why."""
    manual = (ROOT / "docs/events.md").read_text()
    assert [one for one in AT_WILL if f"`{one}` {AT_WILL[one][0]} and {AT_WILL[one][1]:g}" not in manual] == []
