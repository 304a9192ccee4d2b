"""The rows of ``pbsdock doctor``: verdicts, exit codes, deadlines, and what single checks make of what they see."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pbsdock.admin.doctor import host, neighbours, network, services, site, table, whole
from pbsdock.admin.doctor.report import Finding
from pbsdock.admin.doctor.table import Row, Verdict
from pbsdock.agent.known_nodes import KnownNode
from pbsdock.config.tables import parse
from pbsdock.core.errors import NodeFault
from pbsdock.engine import credentials
from pbsdock.engine.base import EngineError
from pbsdock.rm.torque import settings

_OK, _WARN = table.ok("a", "b", "well"), table.warn("a", "b", "so so", "see to it")
_WRONG, _UNKNOWN = table.wrong("a", "b", "ill", "mend it"), table.unknown("a", "b", "who knows")


@pytest.mark.parametrize(
    ("rows", "code"),
    [([], 0), ([_OK, _UNKNOWN], 0), ([_OK, _WARN], 1), ([_WARN, _WRONG, _OK], 2)],
)
def test_the_exit_code_is_that_of_the_worst(rows: list[Row], code: int) -> None:
    """What cannot be told is not held against the node."""
    assert table.exit_code(rows) == code


def test_the_table_tells_what_helps() -> None:
    """Behind each row that is not well, within the width, and without control characters."""
    told = list(table.lines([_OK, _WARN, table.wrong("p", "step", "x\033[31m " + "word " * 30, "cure")], width=70))

    assert told[0] == "ok           a b     well"
    assert [line.strip() for line in told if "->" in line] == ["-> see to it", "-> cure"]
    assert max(map(len, told)) <= 70
    assert "\033" not in "".join(told)
    assert told[-1] == "1 ok, 1 warn, 1 wrong"
    assert json.loads(table.as_json([_WARN]))[0] == {
        "part": "a", "step": "b", "verdict": "warn", "seen": "so so", "fix": "see to it", "fixable": False,
    }  # fmt: skip


def test_an_older_checks_sentence_is_split_into_what_and_cure() -> None:
    """Its own name stays where it says more than the part's."""
    findings = [
        Finding("packages", "lock", False, "x is missing; run install.sh again"),
        Finding("runc", "version", True, "fine"),
    ]
    rows = list(table.from_findings("packages", findings))

    assert rows[0] == table.wrong("packages", "lock", "x is missing", "run install.sh again")
    assert rows[1] == table.ok("packages", "runc version", "fine")


def test_a_part_that_takes_too_long_or_breaks_keeps_no_other() -> None:
    """What it has found by then is told."""
    over = threading.Event()

    def slow(_subject: Any) -> Iterator[Row]:
        yield _OK
        over.wait(30)

    def broken(_subject: Any) -> Iterator[Row]:
        yield _WARN
        raise KeyError("x")

    def faulty(_subject: Any) -> Iterator[Row]:
        raise NodeFault("x", "the engine is away")
        yield

    began = time.monotonic()
    subject: Any = None
    rows = whole.examine(subject, {"slow": slow, "broken": broken, "faulty": faulty, "good": lambda _: [_WRONG]}, 0.2)
    over.set()

    assert time.monotonic() - began < 5
    assert [(row.part, row.step, row.verdict) for row in rows] == [
        ("a", "b", Verdict.OK),
        ("slow", "time", Verdict.UNKNOWN),
        ("a", "b", Verdict.WARN),
        ("broken", "check", Verdict.UNKNOWN),
        ("faulty", "check", Verdict.UNKNOWN),
        ("a", "b", Verdict.WRONG),
    ]


def test_a_busy_hosts_start_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole; a little is left in any case."""
    ticks = os.sysconf("SC_CLK_TCK")
    for took, left in ((0.2, 4.5), (2.0, 2.7), (9.0, 1.5)):
        monkeypatch.setattr(whole, "uptime", lambda took=took: 1000.0 + took)
        monkeypatch.setattr(whole, "start_time", lambda _pid: 1000 * ticks)
        assert whole.time_left() == pytest.approx(left)


# -- single checks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mom", "own", "verdict"),
    [
        ("", "", Verdict.OK),
        ("$prologalarm 600\n", "", Verdict.OK),
        ("$prologalarm 200\n", "", Verdict.WRONG),
        ("$prologalarm 200\n", "[prologue]\nalarm_s = 190\n", Verdict.OK),
        ("", "[prologue]\nalarm_s = 900\n", Verdict.WRONG),
        ("$prologalarm soon\n", "", Verdict.WRONG),
    ],
)
def test_moms_alarm_against_ours(mom: str, own: str, verdict: Verdict) -> None:
    """A prologue that thinks it has longer than mom gives it is killed in the middle of a pull."""
    assert site.alarm(mom, parse(own)).verdict is verdict


@pytest.mark.parametrize(
    ("answer", "heeds"),
    [
        ((0, "set server down_on_error = True\n", ""), True),
        ((0, "set server down_on_error = False\n", ""), False),
        ((0, "set server scheduling = True\n", ""), False),
        ((1, "", "qmgr: cannot connect"), None),
    ],
)
def test_what_the_server_says(tmp_path: Path, answer: tuple[int, str, str], heeds: bool | None) -> None:
    """In qmgr's own form."""
    (tmp_path / "qmgr").write_text("#!/bin/sh\n")
    (tmp_path / "qmgr").chmod(0o755)

    assert settings.heeds_errors(str(tmp_path), lambda _command: answer)[0] is heeds
    assert settings.heeds_errors(str(tmp_path / "nowhere"))[0] is None


@pytest.mark.parametrize(
    ("patterns", "logins", "names"),
    [
        (["*"], [], ["docker.io"]),
        (["docker.io/library/*", "ghcr.io/x/*"], [], ["docker.io", "ghcr.io"]),
        (["*.example.org/*"], ["reg.example.org:5000"], ["reg.example.org:5000"]),
        (["ghcr.io/*", "sha256:" + "0" * 64], ["ghcr.io"], ["ghcr.io"]),
    ],
)
def test_which_registries_are_asked(patterns: list[str], logins: list[str], names: list[str]) -> None:
    """Those that can be named."""
    assert network.named(patterns, logins) == names


def test_registries_of_a_config_json() -> None:
    """By host, whatever the key has around it."""
    auth = "dTpw"
    text = json.dumps(
        {
            "auths": {
                "https://index.docker.io/v1/": {"auth": auth},
                "reg:5000": {"auth": auth},
                "https://g.io/v2": {"auth": auth},
            }
        }
    )
    assert credentials.parse(text.encode(), with_helpers=True).registries() == ("docker.io", "reg:5000", "g.io")


def test_a_registry_that_answers_and_one_that_does_not() -> None:
    """Any answer will do, also that a login is wanted."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.handle_request, daemon=True).start()
        assert network.unreachable(f"127.0.0.1:{listening.server_port}") == ""
    assert "does not answer" in network.unreachable(f"127.0.0.1:{listening.server_port}")


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, Verdict.OK),
        (EngineError(401, "unauthorized: incorrect username or password"), Verdict.WRONG),
        (EngineError(500, "Get https://r/v2/: denied"), Verdict.WRONG),
        (EngineError(500, "dial tcp: no such host"), Verdict.WARN),
        (NodeFault("engine-unreachable", "x"), Verdict.UNKNOWN),
    ],
)
def test_the_sites_login(error: Exception | None, verdict: Verdict) -> None:
    """The engine tries it."""

    def check_login(_registry: str, _login: Any) -> None:
        if error is not None:
            raise error

    subject: Any = SimpleNamespace(engine=SimpleNamespace(check_login=check_login))
    assert network._logged_in(subject, "r", {"username": "u"}).verdict is verdict


@pytest.mark.parametrize(("release", "verdict"), [("4.18.0-553.el8", Verdict.WRONG), ("6.1.0-13-amd64", Verdict.OK)])
def test_kernels(release: str, verdict: Verdict) -> None:
    """Older ones cannot resolve mounts safely."""
    assert [row.verdict for row in host.kernel(release)] == [verdict]


@pytest.mark.parametrize(
    ("step", "free", "verdict"),
    [
        ("state", 50, Verdict.OK),
        ("state", 5, Verdict.WARN),
        ("state", 0, Verdict.WRONG),
        ("images", 0.1, Verdict.WRONG),
    ],
)
def test_room(step: str, free: float, verdict: Verdict) -> None:
    """In percent of 100 GiB; images need more than records do."""
    found: Any = SimpleNamespace(f_files=0, f_favail=0)

    assert host.room(step, Path("/x"), 100 << 30, int(free * (1 << 30)), found).verdict is verdict


def test_a_mode_is_mended_and_nothing_else(tmp_path: Path) -> None:
    """Of a file of root's that is there; what a link points to is left alone."""
    file, link = tmp_path / "hook", tmp_path / "link"
    file.write_text("x")
    file.chmod(0o777)
    link.symlink_to(file)
    mend = site._mode_mend(f"{file} has mode 777; it must be 755".rpartition("; ")[0])
    exact = site._mode_mend(f"{file} has mode 777; it must be 750")

    assert site._mode_mend(f"{link} has mode 777") is None
    assert site._mode_mend(f"{tmp_path}/none has mode 777") is None
    assert site._mode_mend("something else is wrong") is None
    assert mend is not None
    mend.act()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o755
    assert exact is not None
    exact.act()
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o750


def test_the_run_hook_in_c(tmp_path: Path) -> None:
    """It is there and root's alone, or each job has an interpreter."""
    program = tmp_path / "pbsdock/init/pbsdock-run"
    program.parent.mkdir(parents=True)
    assert site.run_hook(tmp_path).verdict is Verdict.WARN
    program.touch()
    program.chmod(0o755)
    assert site.run_hook(tmp_path).verdict is Verdict.OK
    program.chmod(0o777)
    assert site.run_hook(tmp_path).verdict is Verdict.WARN


def test_a_nodes_key_and_port(tmp_path: Path) -> None:
    """A key that others can read is wrong; a port that nobody listens on is to be seen to."""
    key = tmp_path / "cluster.key"
    paths = SimpleNamespace(config=tmp_path / "pbsdock.toml", state_dir=tmp_path)

    def verdicts(text: str) -> list[Verdict]:
        subject: Any = SimpleNamespace(config=parse(text), paths=paths)
        return [row.verdict for row in neighbours.examine(subject)]

    auto = "[nodes]\nsign_with = 'key'\n"
    assert verdicts(auto) == [Verdict.WRONG]
    key.write_text("0" * 64 + "\n")
    key.chmod(0o644)
    assert verdicts(auto) == [Verdict.WRONG]
    key.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        used = listening.getsockname()[1]
        found = verdicts(f"{auto}port = {used}\n")
    if found[0] is Verdict.WRONG:  # the directory of the tests is others' to change
        pytest.skip("the key's directory is not root's alone")
    assert found == [Verdict.OK] * 4
    assert verdicts(f"{auto}port = {used}\n") == [Verdict.OK, Verdict.WARN, Verdict.OK, Verdict.OK]
    assert verdicts(f"{auto}port = 0\n") == [Verdict.OK]


def _known(**versions: str) -> dict[str, KnownNode]:
    return {name: KnownNode(version=version, at=1000.0) for name, version in versions.items()}


@pytest.mark.parametrize(
    ("known", "verdict", "words"),
    [
        ({}, Verdict.OK, "no other node's agent has been heard"),
        (
            _known(n2="0.2.0", n3="0.2.0"),
            Verdict.OK,
            "2 other nodes heard, all 0.2.0 as this one, the last 10 hours ago",
        ),
        (
            _known(n2="0.2.0", n3="0.1.7", n4="0.1.7"),
            Verdict.WARN,
            "this node has 0.2.0, others when heard last (10 hours ago): n3, n4: 0.1.7",
        ),
        (_known(n2="0.3.0"), Verdict.WARN, "n2: 0.3.0"),
        (_known(n2="0.0.9"), Verdict.WRONG, "n2: 0.0.9"),
        (_known(n2="1.2.0"), Verdict.WRONG, "n2: 1.2.0"),
        (_known(n2="0.4.0", n3="0.2.0"), Verdict.WRONG, "n2: 0.4.0"),
        (_known(n2=""), Verdict.WARN, "n2: a version that it did not tell"),
    ],
)
def test_other_nodes_versions(known: dict[str, KnownNode], verdict: Verdict, words: str) -> None:
    """One release apart is an upgrade under way; more may not understand each other."""
    row = neighbours.versions(known, "0.2.0", 1000.0 + 36000.0)

    assert (row.verdict, row.step) == (verdict, "versions")
    assert words in row.seen
    assert bool(row.fix) is (verdict is not Verdict.OK)


@pytest.mark.parametrize(
    ("ahead", "verdict"), [(None, Verdict.OK), (89.0, Verdict.OK), (-91.0, Verdict.WARN), (500.0, Verdict.WARN)]
)
def test_other_nodes_clocks(ahead: float | None, verdict: Verdict) -> None:
    """A tenth of what is allowed between two nodes is time to see to it."""
    row = neighbours.clocks({"n2": KnownNode(version="1", at=0.0, ahead_s=ahead)}, 900.0)

    assert row.verdict is verdict
    assert (ahead is not None and f"n2 by {ahead:+.0f} s" in row.seen) is (verdict is Verdict.WARN)


def test_an_agent_of_another_version_than_the_installed_one() -> None:
    """It is to be ended; jobs do not mind."""
    assert site.running_version("0.2.0", "0.2.0").verdict is Verdict.OK
    assert site.running_version("0.1.0", "0.2.0").verdict is Verdict.WARN
    assert "tells no version, installed is 0.2.0" in site.running_version("", "0.2.0").seen


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("#!/bin/sh\nexit 125\n", Verdict.OK),
        ("#!/bin/sh\nexit 126\n", Verdict.WRONG),
        ("#!/no/such/loader\n", Verdict.WRONG),
        ("\x7fELF of another machine", Verdict.WRONG),
    ],
)
def test_a_first_process_that_cannot_be_run(tmp_path: Path, text: str, verdict: Verdict) -> None:
    """As on a file system mounted noexec, or with a build of another machine's."""
    program = tmp_path / "pbsdock/init/pbsdock-init"
    program.parent.mkdir(parents=True)
    program.write_text(text)
    program.chmod(0o755)
    subject: Any = SimpleNamespace(paths=SimpleNamespace(lib=tmp_path), config=parse(""))

    assert site.starter(subject).verdict is verdict


@pytest.mark.parametrize(
    ("swaps", "file", "verdict"),
    [
        ("Filename\n", "", Verdict.OK),
        ("Filename\n/dev/vdb\n", "", Verdict.WARN),
        ("Filename\n/dev/vdb\n", "memory/memory.memsw.limit_in_bytes", Verdict.OK),
        ("Filename\n/dev/vdb\n", "system.slice/memory.swap.max", Verdict.OK),
        (None, "", Verdict.UNKNOWN),
    ],
)
def test_swap_fake_tree(tmp_path: Path, swaps: str | None, file: str, verdict: Verdict) -> None:
    """A node with swap that cgroups do not count has jobs that go on beyond their memory."""
    if swaps is not None:
        (tmp_path / "swaps").write_text(swaps)
    if file:
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()

    assert host.swap(tmp_path / "swaps", tmp_path).verdict is verdict


def test_what_the_agent_offers_beside_its_socket(tmp_path: Path) -> None:
    """A file that is not written any more, and addresses where nobody listens, are to be seen to."""
    paths: Any = SimpleNamespace(run_dir=tmp_path / "run", instance="main")

    def verdicts(text: str) -> list[tuple[str, Verdict]]:
        subject: Any = SimpleNamespace(config=parse(text), paths=paths)
        return [(row.step, row.verdict) for row in services.examine(subject)]

    directory = f"[metrics]\ndirectory = '{tmp_path}'\n"
    file = tmp_path / "main.prom"
    assert verdicts("") == []
    assert verdicts(f"[metrics]\ndirectory = '{tmp_path}/none'\n") == [("metrics file", Verdict.WARN)]
    assert verdicts(directory) == [("metrics file", Verdict.WARN)]
    file.touch()
    assert verdicts(directory) == [("metrics file", Verdict.OK)]
    os.utime(file, (1, 1))
    assert verdicts(directory) == [("metrics file", Verdict.WARN)]

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listen = f"[metrics]\ndirectory = ''\nlisten = '127.0.0.1:{listening.getsockname()[1]}'\n"
        assert verdicts(listen) == [("metrics endpoint", Verdict.OK)]
    assert verdicts(listen) == [("metrics endpoint", Verdict.WARN)]
    unix = f"[metrics]\ndirectory = ''\nlisten = '{tmp_path}/m.sock'\n"
    assert verdicts(unix) == [("metrics endpoint", Verdict.WARN)]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/m.sock")
        listening.listen()
        assert verdicts(unix) == [("metrics endpoint", Verdict.OK)]
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    assert services.listened("sessions port", f"127.0.0.1:{number}").verdict is Verdict.WARN
