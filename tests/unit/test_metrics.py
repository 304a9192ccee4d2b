"""Metrics: what events and the node's state become, for whom, and within which bounds."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from pbsdock.agent.engine_sample import EngineSampler
from pbsdock.agent.gauges import NodeCollector
from pbsdock.agent.monitoring import Monitoring, directory_for
from pbsdock.agent.reconcile import reconcile
from pbsdock.core.errors import NodeFault
from pbsdock.core.facts import Credentials
from pbsdock.core.record import State
from pbsdock.engine.base import ListedImage
from pbsdock.events.register import EVENTS
from pbsdock.events.stream import EventStream
from pbsdock.metrics.endpoint import serve
from pbsdock.metrics.from_events import FROM_EVENTS, Field, updates
from pbsdock.metrics.meters import Meters
from pbsdock.metrics.register import COUNTED, METRICS, PREFIX, PROCESS, READ, sample_names
from pbsdock.metrics.textfile import TextFile
from tests.conftest import ROOT
from tests.support.ports import free_port
from tests.unit.fakes import AWAY, FakeNode, fake_node, known


def _values(meters: Meters) -> dict[str, float]:
    """Samples as a query names them, such as ``jobs_refused_total{code="x"}``; without our prefix."""
    found = {}
    for family in prometheus_text(meters.text()[0].decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[sample.name.removeprefix(PREFIX) + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


# -- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        ("job.refused", {"code": "image-not-found"}, [("jobs_refused", {"code": "image-not-found"}, 1)]),
        ("job.refused", {}, [("jobs_refused", {"code": "unknown"}, 1)]),
        ("job.ready", {"ms": 1500}, [("phase_duration_seconds", {"phase": "prepare"}, 1.5)]),
        ("job.ready", {}, []),
        ("release.done", {"ms": True}, [("releases", {}, 1)]),
        (
            "job.finished",
            {"outcome": "ran", "cpu_seconds": 2.5, "run_s": None},
            [("jobs_finished", {"outcome": "ran"}, 1), ("job_cpu_seconds", {}, 2.5)],
        ),
        (
            "image.pulled",
            {"size_bytes": 7, "ms": 10},
            [
                ("image_pulls", {"result": "pulled"}, 1),
                ("image_pulled_bytes", {}, 7),
                ("phase_duration_seconds", {"phase": "pull"}, 0.01),
            ],
        ),
        (
            "stage.done",
            {"direction": "in", "bytes": 5, "files": 0, "ms": 3000},
            [
                ("staged_bytes", {"direction": "in"}, 5),
                ("staged_files", {"direction": "in"}, 0),
                ("phase_duration_seconds", {"phase": "stage-in"}, 3.0),
            ],
        ),
        ("events.dropped", {"count": 3}, [("events_dropped", {}, 3)]),
        ("engine.back", {}, []),
        ("no.such.event", {"count": -1}, []),
    ],
)
def test_what_an_event_means(event: str, fields: dict[str, Any], expected: list[Any]) -> None:
    """Codes and directions become labels, milliseconds seconds; what is not known is not counted."""
    assert list(updates(event, fields)) == expected


def test_the_table_is_of_registered_events_fields_and_metrics() -> None:
    """A field or event that is renamed would silently stop being counted."""
    wrong = []
    for event, rows in FROM_EVENTS.items():
        for row in rows:
            taken = [value.name for _, value in row.labels if isinstance(value, Field)]
            fields = {*taken, row.amount} - {""}
            wrong += [f"{event} has no {name}" for name in fields - {*EVENTS[event][1], "ms"}]
            if COUNTED[row.metric].labels != tuple(label for label, _ in row.labels):
                wrong.append(f"{event}: {row.metric} has other labels")

    assert wrong == []
    assert set(COUNTED) == {row.metric for rows in FROM_EVENTS.values() for row in rows} | {"events"}


def test_no_label_is_of_a_job_or_user() -> None:
    """Series that grow with jobs or users are what breaks a Prometheus, and tell users of one another."""
    allowed = {"code", "direction", "kind", "level", "outcome", "phase", "result", "state", "store", "version", "why"}
    assert {label for metric in METRICS.values() for label in metric.labels} <= allowed


def test_names_follow_prometheus_rules() -> None:
    """``promtool check metrics`` finds nothing to say."""
    meters = Meters()
    meters.observe("job.refused", "info", {"code": "x"})
    meters.observe("job.ready", "info", {"ms": 1})
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=meters.text()[0], capture_output=True, check=False, timeout=30
    )

    assert (done.returncode, done.stderr, done.stdout) == (0, b"", b"")


def test_values_that_are_known_begin_at_zero() -> None:
    """What Prometheus first sees at 3 has, for it, not increased."""
    found = _values(Meters())

    assert found['jobs_finished_total{outcome="refused"}'] == 0
    assert found['phase_duration_seconds_count{phase="stage-out"}'] == 0
    assert {name for name, metric in COUNTED.items() if metric.known and len(metric.labels) != 1} == set()
    fixed = {(row.metric, value) for rows in FROM_EVENTS.values() for row in rows for _, value in row.labels}
    assert [found for found in fixed if isinstance(found[1], str) and found[1] not in COUNTED[found[0]].known] == []


def test_values_of_a_label_are_bounded() -> None:
    """The sixty-fifth code, and one that is none, are ``other``."""
    meters = Meters()
    meters.observe("job.refused", "info", {"code": 'x"} 1\n'})
    assert _values(meters)['jobs_refused_total{code="other"}'] == 1
    for number in range(70):
        meters.observe("job.refused", "info", {"code": f"code-{number}"})
    found = {name: value for name, value in _values(meters).items() if name.startswith("jobs_refused")}

    assert len(found) == 65
    assert found['jobs_refused_total{code="other"}'] == 7
    assert found['jobs_refused_total{code="code-63"}'] == 1


def test_every_event_is_counted_whatever_becomes_of_its_line(tmp_path: Path) -> None:
    """Limited ones and lines for which there was no room count as well; a mistake in counting is nobody's fault."""
    meters = Meters()
    stream = EventStream(tmp_path / "e", node="n1")
    stream.observer = meters.observe
    for _ in range(30):
        stream.emit("client.refused", level="warning", uid=1000)
    stream._file._open = lambda: None  # type: ignore[method-assign]
    stream._file._fd = os.open("/dev/full", os.O_WRONLY)
    stream.emit("job.planned")
    stream.emit("job.planned")
    found = _values(meters)

    assert len((tmp_path / "e").read_text().splitlines()) == 20
    assert found["client_refusals_total"] == 30
    assert found["jobs_planned_total"] == 2
    assert found["events_dropped_total"] == 2
    assert found['events_total{level="warning"}'] == 32

    def fails(*_: Any) -> None:
        raise LookupError

    stream.observer = fails
    stream.emit("job.planned")


# -- the node's state -------------------------------------------------------------------------------------------------


def _with_images(node: FakeNode) -> None:
    """Two, the larger of which pbsdock has pulled."""
    node.image_cache.before("b:1", None, {})
    for name, size in (("a", 100), ("b", 200)):
        image = ListedImage(id=f"sha256:{name}", tags=(f"{name}:1",), digests=(), size_bytes=size)
        node.engine.listed_images.append(image)
    node.image_cache.after("b:1", "sha256:b")
    node.image_cache.pin("docker.io/library/c:1", is_on=True)


def test_gauges_of_a_node(tmp_path: Path) -> None:
    """Jobs by state, credentials, the door, the reaper, the engine; all that is in the register, nothing else."""
    store = "[s3.ceph]\nendpoint='https://s3.example.org'\nidentity='/etc/x'\nallow=['*']\n"
    node = fake_node(tmp_path, store)
    known(node, State.RUNNING)
    known(node, State.READY).note(credentials=Credentials())
    reconcile(node)
    node._info = replace(node.engine.info(), root_dir="/")
    _with_images(node)
    sampler = EngineSampler(node)
    sampler.look()
    meters = Meters()
    meters.registry.register(NodeCollector(node, sampler, lambda: (3, 2, 1)))
    found = _values(meters)

    assert found['jobs{state="running"}'] == found['jobs{state="ready"}'] == 1
    assert found['jobs{state="releasing"}'] == 0
    assert (found["connections"], found["requests_running"], found["requests_queued"]) == (3, 2, 1)
    assert found["engine_up"] == 1
    assert found["engine_circuit_open"] == 0
    assert found["engine_ping_seconds"] > 0
    assert (found["images"], found["images_bytes"]) == (2, 300)
    assert (found["image_cache_images"], found["image_cache_bytes"], found["image_cache_pinned"]) == (1, 200, 1)
    assert (found["image_pulls_running"], found["image_pulls_waiting"]) == (0, 0)
    assert found['reaper_passes_total{result="done"}'] == 1
    assert time.time() - found["reaper_last_pass_timestamp_seconds"] < 60
    assert found["node_in_service"] == 1
    assert 'credentials_live{store="ceph"}' in found
    families = {family.name for family in prometheus_text(meters.text()[0].decode())}
    assert families == {PREFIX + name for name in METRICS}


def test_gauges_while_the_engine_is_away(tmp_path: Path) -> None:
    """Down, and what was known of it before stays; nobody who reads waits for it. The reaper's pass is a blocked one."""
    node = fake_node(tmp_path)
    _with_images(node)
    sampler = EngineSampler(node)
    sampler.look()
    before = sampler.last
    node.engine.down_because = "it hangs"
    sampler.look()
    reconcile(node)
    node.paths.unhealthy.parent.mkdir(parents=True, exist_ok=True)
    node.paths.unhealthy.write_text("x\n")
    meters = Meters()
    meters.registry.register(NodeCollector(node, sampler, lambda: (0, 0, 0)))
    found = _values(meters)

    assert not sampler.last.is_up
    assert sampler.last.images == before.images == 2
    assert found["engine_up"] == 0
    assert found["engine_circuit_open"] == 1
    assert found["node_in_service"] == 0
    assert found['reaper_passes_total{result="blocked"}'] == 1
    assert found["reaper_last_pass_timestamp_seconds"] == 0


def test_what_the_engine_does_not_answer_is_left_out(tmp_path: Path) -> None:
    """An engine without a list of images still has a ping."""
    node = fake_node(tmp_path)
    node.engine.fails |= {"images": AWAY, "info": NodeFault("engine-error", "x")}
    sampler = EngineSampler(node)
    sampler.look()

    assert sampler.last.is_up
    assert (sampler.last.images, sampler.last.disk_size) == (None, None)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    """Readable by everybody; a link in its place is replaced and not followed; nothing else is left."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "p.prom").symlink_to(tmp_path / "victim")
    file = TextFile(tmp_path, "p")
    file.write(b"a 1\n")
    file.write(b"a 2\n")

    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "p.prom").read_bytes() == b"a 2\n"
    assert (tmp_path / "p.prom").lstat().st_mode == 0o100644
    assert {path.name for path in tmp_path.iterdir()} == {"p.prom", "victim"}
    file.remove()
    file.remove()
    assert not (tmp_path / "p.prom").exists()


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves neither half a file nor a temporary one."""
    file = TextFile(tmp_path, "p")
    file.write(b"a 1\n")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pbsdock.metrics.textfile.os.fchmod", full)
    with pytest.raises(OSError, match="No space"):
        file.write(b"a 2\n")

    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("p.prom", b"a 1\n")]


def test_a_link_for_the_directory_is_not_followed(tmp_path: Path) -> None:
    """Whoever owns what is above could lead root's writing elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "d").symlink_to("elsewhere")
    with pytest.raises(NotADirectoryError):
        TextFile(tmp_path / "d", "p").write(b"a 1\n")


def test_nothing_is_counted_before_anybody_wants_it(tmp_path: Path) -> None:
    """A node without node_exporter loads nothing; from the moment its directory exists there is a file, until the end."""
    node = fake_node(tmp_path, f"[metrics]\ndirectory = '{tmp_path}/te'\n")
    monitoring = Monitoring(node)
    assert monitoring._meters is None
    assert getattr(node.events, "observer", None) is None

    (tmp_path / "te").mkdir()
    monitoring._turn()
    text = (tmp_path / f"te/{node.paths.instance}.prom").read_text()
    assert "\npbsdock_engine_up 1.0\n" in text
    assert "_created" not in text
    monitoring.stop()
    assert list((tmp_path / "te").iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "run_dir", "directory"),
    [
        ("auto", "/run/pbsdock", "/var/lib/prometheus/node-exporter"),
        ("auto", "/srv/second/run/pbsdock", ""),
        ("/srv/textfiles", "/srv/second/run/pbsdock", "/srv/textfiles"),
        ("", "/run/pbsdock", ""),
    ],
)
def test_a_second_instance_does_not_write_beside_the_hosts_own(
    tmp_path: Path, setting: str, run_dir: str, directory: str
) -> None:
    """node_exporter gives out neither of two equal series."""
    paths = replace(fake_node(tmp_path).paths, run_dir=Path(run_dir))
    assert directory_for(setting, paths) == directory


def test_a_directory_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """One event, until something else is wrong."""
    node = fake_node(tmp_path, f"[metrics]\ndirectory = '{tmp_path}/te'\n")
    (tmp_path / "real").mkdir()
    (tmp_path / "te").symlink_to("real")
    monitoring = Monitoring(node)
    monitoring._turn()
    monitoring._turn()

    told = [fields["reason"] for name, fields in node.events.told if name == "agent.error"]
    assert told == [f"{tmp_path}/te: Not a directory"]


# -- the endpoint -----------------------------------------------------------------------------------------------------


@contextmanager
def _serving(listen: str, group: str = "") -> Iterator[list[str]]:
    asked: list[str] = []

    def text(accept: str) -> tuple[bytes, str]:
        asked.append(accept)
        return Meters().text(accept)

    server = serve(listen, group, text)
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def _get(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    connection.close()
    return found


def test_scrapes(tmp_path: Path) -> None:
    """The text format, or OpenMetrics for whoever asks for it, each made once a second at most; nothing else is there."""
    port = free_port()
    with _serving(f"127.0.0.1:{port}") as asked:
        status, kind, text = _get(port)
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert {family.name for family in prometheus_text(text)} == {PREFIX + name for name in (*COUNTED, *PROCESS)}
        status, kind, text = _get(port, Accept="application/openmetrics-text; version=1.0.0")
        assert (status, kind.split(";")[0]) == (200, "application/openmetrics-text")
        assert {family.name for family in open_metrics(text)} == {PREFIX + name for name in (*COUNTED, *PROCESS)}
        _get(port)
        assert len(asked) == 2
        assert _get(port, "/")[0] == 404


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"x" * 9000, id="too much"),
        pytest.param(b"GET /metrics\r\n\r\n", id="no version"),
        pytest.param(b"\r\n\r\n", id="nothing"),
        pytest.param(b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", id="too many headers"),
    ],
)
def test_what_is_no_request_is_hung_up_on(said: bytes) -> None:
    """Without a word; the next one is answered."""
    port = free_port()
    with _serving(f"127.0.0.1:{port}"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(said)
            began = time.monotonic()
            try:
                answer = client.recv(100)
            except ConnectionResetError:
                answer = b""
        assert answer == b""
        assert time.monotonic() - began < 3  # not only when its time is over
        assert _get(port)[0] == 200


def test_a_slow_client_has_seconds_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each byte."""
    monkeypatch.setattr("pbsdock.metrics.endpoint._REQUEST_S", 0.5)
    port = free_port()
    with _serving(f"127.0.0.1:{port}"), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.settimeout(0.1)
        began, answer = time.monotonic(), b"?"
        while answer and time.monotonic() - began < 20:
            try:
                client.sendall(b"G")
                answer = client.recv(1)
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.3 < time.monotonic() - began < 10


def test_whoever_asks_too_often_is_hung_up_on() -> None:
    """Twenty at once, then a few a second."""
    port = free_port()
    with _serving(f"127.0.0.1:{port}"):
        answers = []
        began = time.monotonic()
        for _ in range(50):
            try:
                answers.append(_get(port)[0])
            except (http.client.HTTPException, ConnectionError):
                answers.append(0)

        took = time.monotonic() - began

    assert answers[:20] == [200] * 20
    assert answers.count(200) <= 21 + 5 * took


def test_a_unix_socket_is_for_root_and_a_group(tmp_path: Path) -> None:
    """0660, in place of what a dead agent left."""
    path = tmp_path / "metrics.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with _serving(str(path), "adm"):
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_uid) == (0o660, 0)
        assert [one.name for one in tmp_path.iterdir()] == ["metrics.sock"]
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\npbsdock_jobs_planned_total 0.0\n" in answer


@pytest.mark.parametrize(
    ("more", "reason"),
    [("socket_group = 'no-such-group'\n", "there is no group 'no-such-group'"), ("", "Is a directory")],
)
def test_an_endpoint_that_cannot_be_had_is_told(tmp_path: Path, more: str, reason: str) -> None:
    """Jobs run on without it."""
    (tmp_path / "taken").mkdir()
    node = fake_node(tmp_path, f"[metrics]\ndirectory = ''\nlisten = '{tmp_path}/taken'\n{more}")
    Monitoring(node)._listen(node.config.metrics.listen, node.config.metrics.socket_group)

    told = [fields["reason"] for name, fields in node.events.told if name == "agent.error"]
    assert told == [f"no metrics at {tmp_path}/taken: {reason}"]
    assert not list(tmp_path.glob("taken.*"))


# -- documents --------------------------------------------------------------------------------------------------------


def test_the_manual_has_every_metric() -> None:
    """docs/monitoring.md has the register's rows, and no others."""
    rows = "".join(
        f"| `{PREFIX}{name}{'_total' if metric.kind == 'counter' else ''}` | {metric.kind} |"
        f" {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |\n"
        for name, metric in METRICS.items()
    )
    assert f"|---|---|---|---|\n{rows}\n" in (ROOT / "docs/monitoring.md").read_text()


def test_samples_of_each_kind() -> None:
    """As Prometheus has them."""
    assert sample_names("jobs_planned") == ("pbsdock_jobs_planned_total",)
    assert sample_names("jobs") == ("pbsdock_jobs",)
    assert sample_names("job_run_seconds")[0] == "pbsdock_job_run_seconds_bucket"
    assert set(READ) | set(COUNTED) | set(PROCESS) == set(METRICS)
