"""``pbsdock why`` on the screen, and what it costs to get there."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pbsdock.admin.cli import parser_for
from pbsdock.admin.why import command, view
from pbsdock.core.facts import Exit, Level, Usage
from pbsdock.core.record import Refused
from pbsdock.core.story import to_json
from pbsdock.core.trail import Decision, Phase
from pbsdock.protocol import wire
from tests.conftest import ROOT
from tests.unit.stories import MIB, story, unstarted

_DECIDED = (
    Decision(what="image", value="docker.io/library/busybox:1", rule="images.allow", line=12),
    Decision(what="memory", value="200 MiB", rule="qsub -l mem"),
    Decision(what="pids", value="4096", rule="limits.pids"),
)
_PHASES = (
    Phase(name="image", at=1000.2, ms=1800.0, note="pulled"),
    Phase(name="prologue", at=1000.1, ms=1900.0),
    Phase(name="start", at=1002.0, ms=90.0),
    Phase(name="signal", at=1013.0, note="SIGTERM"),
    Phase(name="release", at=1014.1, ms=30.0, note="epilogue"),
)
_USED = Usage(
    memory_peak_bytes=200 * MIB, cpu_seconds=12.0, io_read_bytes=3 * MIB, io_write_bytes=0, pids_peak=12, oom_at="job"
)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times on the screen are local ones."""
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _told(given: Any, code: str = "well", sentence: str = "the job ended well", **more: Any) -> dict[str, Any]:
    head = {"cause": {"code": code, "sentence": sentence}, "manager": "Torque", "config": "pbsdock.toml", "earlier": []}
    return {**json.loads(json.dumps(to_json(given))), **head, **more}


def test_the_whole_screen() -> None:
    """A job that was killed for memory."""
    given = story(
        137,
        asked="#DOCKER --shm-size 100mb\n#DOCKER busybox:1",
        decided=_DECIDED,
        phases=_PHASES,
        used=_USED,
        shm_peak_bytes=MIB,
        image_digest="sha256:abc",
        exit=Exit(code=137, oom=True, at=1014.0, sentences=("out of memory: a process was killed",)),
    )
    earlier = [{"created_at": 900.0, "outcome": "queued again", "cause": {"sentence": "the engine was away " * 9}}]
    lines = view.screen(_told(given, "out-of-memory", "it had no memory left; ask for more", earlier=earlier))

    assert lines == [
        "job 7.vm of alice on n1, 1970-01-01: failed",
        "asked     #DOCKER --shm-size 100mb",
        "          #DOCKER busybox:1",
        "decided   image docker.io/library/busybox:1 (images.allow, pbsdock.toml:12); memory 200 MiB (qsub -l",
        "          mem); pids 4096 (limits.pids, default)",
        "image     docker.io/library/busybox:1",
        "          sha256:abc, pulled in 1.80 s",
        "when      00:16:40  prologue           1.90 s",
        "          00:16:40    image            1.80 s  pulled",
        "          00:16:42  run: start         0.09 s",
        "          00:16:42  run: the job       12.0 s",
        "          00:16:53    signal                   SIGTERM",
        "          00:16:54  epilogue           0.03 s",
        "used      memory   [####################] 100 % peak 200 MiB of 200 MiB",
        "          cpu      [##########----------]  50 % mean 1.00 of 2 CPUs (12.0 s)",
        "          pids     [#-------------------]   0 % peak 12 of 4096",
        "          shm      [#-------------------]   1 % peak 1 MiB of 100 MiB",
        "          disk                                 read 3 MiB, wrote 0 B",
        "          walltime [####----------------]  20 % 12.0 s of 1:00 min",
        "ended     00:16:54, exit status 137, Torque recorded 137",
        "          told: out of memory: a process was killed",
        "why       it had no memory left; ask for more",
        "earlier   00:15:00  queued again: the engine was away the engine was away the engine was away the e…",
    ]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("changes", "word"),
    [({}, "ended well"), ({"exit_status": None}, "ended well"), ({"exit_status": 271}, "failed")],
)
def test_how_it_ended(changes: dict[str, Any], word: str) -> None:
    """By the exit status that counts, whatever else there is to be told."""
    head = view.screen(_told(story(0, **changes), "told", "its output was cut off"))[0]

    assert head == f"job 7.vm of alice on n1, 1970-01-01: {word}"


def test_a_job_whose_end_nobody_saw() -> None:
    """It has not ended well as far as anybody knows."""
    assert view.screen(_told(story(None, exit_status=None)))[0].endswith(": failed")


def test_a_refused_job() -> None:
    """What there is of it: the rule with its line, and no empty heading."""
    refused = Decision(what="refused by", value="image-not-allowed", rule="images.deny", line=6)
    given = unstarted(
        refusal=Refused(code="x", sentence="s"),
        decided=(refused,),
        asked="#DOCKER evil",
        image="",
        limits=None,
        used=None,
    )

    assert view.screen(_told(given, "image-not-allowed", "the job was refused")) == [
        "job 7.vm of alice on n1, 1970-01-01: refused",
        "asked     #DOCKER evil",
        "decided   refused by images.deny (pbsdock.toml:6)",
        "why       the job was refused",
    ]


def test_an_older_agents_answer() -> None:
    """Fields are only added, and so may be missing."""
    assert view.screen({"version": 1, "job": "7.vm"}) == ["job 7.vm of None on None, 1970-01-01:"]


def test_nothing_reaches_the_terminal_as_a_command() -> None:
    """Whatever a user wrote into a script, or a registry into its answer."""
    given = story(1, asked="#DOCKER \x1b[2J", image="x\n\x07", phases=(Phase(name="\x1b]0;x", at=1.0, note="\r"),))
    text = "\n".join(view.screen(_told(given, "x", "a\x1b[31mb")))

    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_colours_of_the_cause() -> None:
    """Red where something went wrong, on a terminal alone."""
    assert view.screen(_told(story(1), "exit-status", "bad"), colour=True)[-1] == "\033[31mwhy       bad\033[0m"
    assert view.screen(_told(story(0)), colour=True)[-1] == "\033[1mwhy       the job ended well\033[0m"


def test_a_long_way_is_cut() -> None:
    """One screen."""
    phases = tuple(Phase(name=f"n{number}", at=float(number)) for number in range(40))
    lines = view.screen(_told(story(0, phases=phases, asked="\n".join(["#DOCKER x"] * 9))))

    assert any("… and 29 more" in line for line in lines)
    assert any("… and 5 lines more" in line for line in lines)


@pytest.mark.parametrize(
    ("part", "whole", "drawn"),
    [(0, 10, 0), (0.001, 10, 1), (5, 10, 10), (9.99, 10, 19), (10, 10, 20), (11, 10, 20)],
)
def test_bars(part: float, whole: float, drawn: int) -> None:
    """What is more than nothing is seen, and only what is full is full."""
    assert view.bar(part, whole) == f"[{'#' * drawn}{'-' * (20 - drawn)}]"


@pytest.mark.parametrize(("cpuset", "count"), [("", 0), ("3", 1), ("0-3,8", 5)])
def test_cpus_of_a_set(cpuset: str, count: int) -> None:
    """The kernel's list."""
    assert view.cpus_in(cpuset) == count


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.044, "0.04 s"), (12.34, "12.3 s"), (185, "3:05 min"), (7800, "2:10:00 h")]
)
def test_spans(seconds: float, said: str) -> None:
    """As a clock has them."""
    assert view.span(seconds) == said


# -- live ---------------------------------------------------------------------------------------------------------------


def _running(at: float, cpu: float, **changes: Any) -> dict[str, Any]:
    given = story(
        None,
        state="running",
        told_at=at,
        ended_at=None,
        removed_for="",
        used=Usage(cpu_seconds=cpu, io_read_bytes=int(cpu * MIB), io_write_bytes=0),
        now=Level(memory_bytes=50 * MIB, pids=12, shm_bytes=0),
        **changes,
    )
    return _told(given, "running", "the job has been running for 3 s")


def test_a_line_a_second() -> None:
    """What it has, and how fast it is; the first line has no speed yet."""
    first, second = _running(1003.0, 1.0), _running(1005.0, 4.0)

    assert view.live_row(first, None) == "00:16:43  memory 50 MiB of 200 MiB  shm 0 B of 100 MiB  pids 12 of 4096"
    assert view.live_row(second, first).endswith("  cpu 1.50 CPUs  read 1.5 MiB/s  written 0 B/s")


def test_bars_of_a_second() -> None:
    """The same, one line each."""
    assert view.live_rows(_running(1005.0, 4.0), _running(1003.0, 1.0)) == [
        "00:16:45  7.vm running",
        "memory   [#####---------------]  25 % 50 MiB of 200 MiB",
        "shm      [--------------------]   0 % 0 B of 100 MiB",
        "pids     [#-------------------]   0 % 12 of 4096",
        "cpu      [###############-----]  75 % 1.50 CPUs",
        "read                                 1.5 MiB/s",
        "written                              0 B/s",
    ]


def test_no_speed_over_a_restart() -> None:
    """Another incarnation begins anew, and a clock may go back."""
    first = _running(1003.0, 1.0)

    assert view.rates(_running(1005.0, 0.0, incarnation="x"), first) == []
    assert view.rates(_running(1001.0, 2.0), first) == []


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _follow(answers: list[Mapping[str, Any]], out: io.StringIO, **options: Any) -> Mapping[str, Any]:
    asked = iter(answers)
    return command.follow(lambda _live: next(asked), out=out, pause=lambda _s: None, as_json=False, **options)


def _course() -> list[Mapping[str, Any]]:
    ready = _told(unstarted(state="ready", removed_for=""), "ready", "the job is ready")
    over = _told(story(0))
    return [ready, ready, _running(1003.0, 1.0), _running(1004.0, 2.0), over, over]


def test_followed_to_its_end() -> None:
    """Before it runs what it waits for, once; then a line a second; the end is told whole."""
    out = io.StringIO()

    assert _follow(_course(), out)["cause"]["code"] == "well"
    assert [line.split("  ")[0] for line in out.getvalue().splitlines()] == ["the job is ready", "00:16:43", "00:16:44"]


def test_followed_on_a_terminal() -> None:
    """Drawn over what was drawn before."""
    out = _Terminal()
    _follow(_course(), out)

    assert out.getvalue().count("\033[5A") == 0
    assert "\033[4A" in out.getvalue()
    assert "cpu      [" in out.getvalue()


def test_followed_as_json() -> None:
    """An object a line."""
    out, asked = io.StringIO(), iter(_course())
    command.follow(lambda _live: next(asked), as_json=True, out=out, pause=lambda _s: None)

    assert [json.loads(line)["state"] for line in out.getvalue().splitlines()] == [
        "ready",
        "ready",
        "running",
        "running",
    ]


# -- the command ----------------------------------------------------------------------------------------------------------


class _Agent(threading.Thread):
    """Answers one message a connection with what it is given, and hangs up."""

    def __init__(self, path: Path, answers: list[wire.Message]) -> None:
        super().__init__(daemon=True)
        self.answers = answers
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()

    def run(self) -> None:
        for answer in self.answers:
            with self.listener.accept()[0] as client:
                client.recv(4096)
                client.sendall(wire.encode(answer))


def _run(path: Path, answers: list[wire.Message], **options: Any) -> tuple[int, str]:
    _Agent(path, answers).start()
    out = io.StringIO()
    given = {"as_json": False, "watch": False, **options}
    return command.run(str(path), "7", out=out, **given), out.getvalue()


def test_the_command(tmp_path: Path) -> None:
    """Exit code 0 and the screen, or the object."""
    answer = wire.Message("why", json=json.dumps(_told(story(0))))
    assert _run(tmp_path / "a", [answer])[0] == 0
    code, text = _run(tmp_path / "b", [answer], as_json=True)

    assert (code, json.loads(text)) == (0, _told(story(0)))


@pytest.mark.parametrize(("code", "status"), [("no-such-job", 1), ("bad-job-id", 2), ("too-often", 1)])
def test_a_refused_question(tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, status: int) -> None:
    """Its sentence, and 2 for what is no job id."""
    answer = wire.Message("refused", code=code, sentence="why not")

    assert _run(tmp_path / "a", [answer]) == (status, "")
    assert capsys.readouterr().err == "pbsdock: why not\n"


def test_no_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence."""
    assert command.run(str(tmp_path / "none"), "7", as_json=False, watch=False, out=io.StringIO()) == 1
    assert "the agent does not answer" in capsys.readouterr().err


def test_an_agent_that_is_killed_while_a_job_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is asked: here every answer is by another connection."""
    monkeypatch.setattr(command, "_PERIOD_S", 0.0)
    answers = [wire.Message("why", json=json.dumps(told)) for told in _course()]
    code, text = _run(tmp_path / "a", answers, watch=True)

    assert code == 0
    assert text.splitlines()[-1] == "why       the job ended well"


@pytest.mark.parametrize("verb", ["why", "ps"])
def test_what_the_command_imports(tmp_path: Path, verb: str) -> None:
    """Somebody waits for it: no library of the agent's, no trial, no installer."""
    places = {name: str(tmp_path) for name in ("python", "lib", "state_dir", "log_dir", "config", "mom_priv", "prefix")}
    (tmp_path / "paths.json").write_text(
        json.dumps({**places, "home": str(tmp_path), "run_dir": str(tmp_path), "instance": "x"})
    )
    code = "import sys\nfrom pbsdock.admin.cli import main\nmain(sys.argv[1:])\nprint(*sys.modules)"
    arguments = ["--paths", str(tmp_path / "paths.json"), verb, *(["7"] if verb == "why" else [])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib")},
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()} | set(done.stdout.split())
    heavy = {"docker", "structlog", "botocore", "boto3", "requests", "psutil", "cgroupspy", "jeepney", "ssl", "email"}

    assert "does not answer" in done.stderr
    assert loaded & heavy == set()
    assert (
        loaded & {"pbsdock.trial", "pbsdock.agent", "pbsdock.engine", "pbsdock.config", "pbsdock.admin.setup"} == set()
    )


def test_every_option_is_there_for_who_reads_all_of_them() -> None:
    """What is left out for speed is left out of no help text."""
    assert "--bare" in _options(parser_for(), "try")
    assert "--bare" in _options(parser_for(["try", "--help"]), "try")
    assert "--bare" not in _options(parser_for(["why", "7"]), "try")
    assert {"--json", "--watch"} <= _options(parser_for(["why", "7"]), "why")


def _options(parser: Any, verb: str) -> set[str]:
    (verbs,) = (action for action in parser._actions if action.choices)
    return {option for action in verbs.choices[verb]._actions for option in action.option_strings}
