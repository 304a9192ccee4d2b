"""The sentence that says why a job went as it did: each of them whole."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from pbsdock.agent import cause
from pbsdock.agent.cause import ADVICE, Cause, cause_of, duration, of_all
from pbsdock.core.facts import Exit, Usage
from pbsdock.core.record import Refused
from pbsdock.core.story import Story
from pbsdock.core.trail import Fault, Phase
from pbsdock.rm.torque.words import WORDS
from tests.conftest import ROOT
from tests.unit.stories import MIB, story, unstarted

_TERM = (Phase(name="signal", at=1013.0, note="SIGTERM"),)


def _running(**changes: Any) -> Story:
    given = {"state": "running", "removed_for": "", "over_from": "", "ended_at": None, "told_at": 1014.0}
    return story(None, **{**given, **changes})


CASES: dict[str, tuple[Story, str, str]] = {
    "well": (story(0), "well", "the job ended well"),
    "refused": (
        unstarted(refusal=Refused(code="network-not-allowed", sentence="x:2:9: network 'b' is not allowed.")),
        "network-not-allowed",
        "the job was refused: x:2:9: network 'b' is not allowed; correct it and submit the job again",
    ),
    "refused, with advice": (
        unstarted(refusal=Refused(code="image-not-found", sentence="image 'x' is not to be had")),
        "image-not-found",
        "the job was refused: image 'x' is not to be had; check the image's name in the #DOCKER line for a slip",
    ),
    "queued again": (
        unstarted(removed_for="prologue-failed", fault=Fault(code="engine-unreachable", sentence="the engine is away")),
        "engine-unreachable",
        "this node could not prepare the job, and it was queued again: the engine is away; nothing of yours is to be"
        " changed",
    ),
    "start failed, the user's": (
        unstarted(fault=Fault(code="no-such-program", sentence="there is no /x", blame="user")),
        "no-such-program",
        "the job was not started: there is no /x; name a program that the image has",
    ),
    "start failed, the node's": (
        unstarted(fault=Fault(code="container-mismatch", sentence="it is another")),
        "container-mismatch",
        "the job was not started, for a fault of this node: it is another; submit it again and tell the site",
    ),
    "preparing": (
        unstarted(state="preparing", removed_for=""),
        "preparing",
        "the node prepares the job: its image comes, or its directories are looked up",
    ),
    "ready": (
        unstarted(state="ready", removed_for=""),
        "ready",
        "the job is ready, and waits for its start or for what is staged in",
    ),
    "staging": (
        story(0, state="staging", removed_for=""),
        "staging",
        "the container is over, and its results are being copied to the object store",
    ),
    "running": (_running(), "running", "the job has been running for 12 s of the 1 min it may, and meets no limit"),
    "running without a walltime": (
        _running(walltime_s=None),
        "running",
        "the job has been running for 12 s, and meets no limit",
    ),
    "running into its processes": (
        _running(used=Usage(pids_hit=True)),
        "running",
        "the job has been running for 12 s of the 1 min it may; it has as many processes and threads as it may, 4096,"
        " and forks beyond that fail",
    ),
    "running into its memory": (
        _running(used=Usage(memory_peak_bytes=199 * MIB)),
        "running",
        "the job has been running for 12 s of the 1 min it may; its memory has been all but full; ask for more with"
        " qsub -l mem=SIZE next time",
    ),
    "ready on a sister": (
        unstarted(state="ready", removed_for="", mother="n1"),
        "ready",
        "the node is ready, and no task of the job has come to it yet",
    ),
    "nothing came to a sister": (unstarted(mother="n1"), "no-task", "no task of the job came to this node"),
    "over on a sister": (
        story(None, mother="n1"),
        "tasks-over",
        "the job's tasks on this node are over, and none of them met a limit",
    ),
    "full memory on a sister": (
        story(None, mother="n1", used=Usage(limit_hit=True)),
        "tasks-over",
        "the job's tasks on this node are over; their memory was full at times, be it with what was read from files,"
        " and none was killed for it",
    ),
    "processes on a sister": (
        story(None, mother="n1", used=Usage(pids_hit=True)),
        "too-many-processes",
        "the job had as many processes and threads as it may, 4096, and forks beyond that failed; let it start fewer,"
        " such as by OMP_NUM_THREADS, or ask the site for more (limits.pids)",
    ),
    "shm on a sister": (
        story(None, mother="n1", shm_peak_bytes=100 * MIB),
        "shm-full",
        "/dev/shm was full, with 100 MiB; ask for more with --shm-size SIZE in the #DOCKER line",
    ),
    "agent killed while preparing": (
        unstarted(removed_for="agent-restarted", over_from="preparing"),
        "agent-restarted",
        "the agent of this node was ended while it prepared the job; nothing is to be changed: either the job was"
        " prepared again, or submit it again",
    ),
    "node restarted": (
        story(None, removed_for="other-boot", over_from="running", exit_status=None),
        "node-restarted",
        "the node was restarted while the job was there; submit it again, or let it be queued again by itself with"
        " qsub -r y",
    ),
    "prologue killed": (
        unstarted(removed_for="prologue-gone"),
        "prologue-ended",
        "the job's prologue was ended before the job was ready; ask the site whether its image takes longer to come"
        " than a prologue may",
    ),
    "never started": (
        unstarted(),
        "not-started",
        "the job was prepared and never started: it was ended before that, by qdel for example; if it was not, tell the"
        " site that its run hook may not be installed",
    ),
    "out of memory": (
        story(137, used=Usage(oom_at="job", memory_peak_bytes=200 * MIB, oom_kills=1)),
        "out-of-memory",
        "a process was killed at the job's memory limit of 200 MiB (its peak was 200 MiB); ask for more with"
        " qsub -l mem=SIZE",
    ),
    "out of memory, by the engine's word alone": (
        story(1, exit=Exit(code=1, oom=True, at=1014.0, sentences=("out of memory: …",))),
        "out-of-memory",
        "a process was killed at the job's memory limit of 200 MiB; ask for more with qsub -l mem=SIZE",
    ),
    "out of the container's memory": (
        story(137, used=Usage(oom_at="container", memory_peak_bytes=20 * MIB)),
        "container-out-of-memory",
        "a process was killed at a memory limit of the container's own (its peak was 20 MiB); ask the site who sets that"
        " limit",
    ),
    "out of the node's memory": (
        story(137, used=Usage(oom_at="node")),
        "node-out-of-memory",
        "a process was killed because the memory of the whole node was exhausted; ask for what the job needs with"
        " qsub -l mem=SIZE, so that it gets a node with room",
    ),
    "walltime": (
        story(143, ended_at=1063.0, exit_status=271),
        "walltime",
        "the job was ended at its walltime: it ran for 1 min 1 s of the 1 min it asked for; ask for more with"
        " qsub -l walltime=HH:MM:SS",
    ),
    "walltime, of which the start took a little": (
        story(143, ended_at=1061.6, exit_status=271),
        "walltime",
        "the job was ended at its walltime: it ran for 1 min of the 1 min it asked for; ask for more with"
        " qsub -l walltime=HH:MM:SS",
    ),
    "too many processes": (
        story(2, used=Usage(pids_hit=True)),
        "too-many-processes",
        "the job had as many processes and threads as it may, 4096, and forks beyond that failed; let it start fewer,"
        " such as by OMP_NUM_THREADS, or ask the site for more (limits.pids)",
    ),
    "a full /dev/shm": (
        story(1, shm_peak_bytes=100 * MIB),
        "shm-full",
        "/dev/shm was full, with 100 MiB; ask for more with --shm-size SIZE in the #DOCKER line",
    ),
    "a bus error": (
        story(135, shm_peak_bytes=5),
        "bus-error",
        "a program ended by a bus error (SIGBUS), as it does when /dev/shm, here with 100 MiB, is full; ask for more"
        " with --shm-size SIZE in the #DOCKER line",
    ),
    "what the user was told": (
        story(255, exit=Exit(code=255, at=1014.0, sentences=("the container ended while the engine was away.",))),
        "told",
        "the container ended while the engine was away",
    ),
    "results that were kept": (
        story(1, exit=Exit(code=1, at=1014.0, sentences=("results lie in /home/alice/x",)), kept=("/home/alice/x",)),
        "results-kept",
        "results lie in /home/alice/x",
    ),
    "deleted": (
        story(143, exit_status=271),
        "ended-by-signal",
        "the job was ended by SIGTERM after 12 s, before its walltime: by qdel, an operator or the scheduler; ask them"
        " if it was not you",
    ),
    "deleted, taken away by the epilogue": (
        story(None, exit_status=265),
        "ended-by-signal",
        "the job was ended by SIGKILL after 12 s, before its walltime: by qdel, an operator or the scheduler; ask them"
        " if it was not you",
    ),
    "ended through its run hook": (
        story(143, phases=_TERM, exit_status=143),
        "ended-by-signal",
        "the job was ended by SIGTERM after 12 s, before its walltime: by qdel, an operator or the scheduler; ask them"
        " if it was not you",
    ),
    "deleted, without a walltime": (
        story(143, walltime_s=None, exit_status=271),
        "ended-by-signal",
        "the job was ended by SIGTERM after 12 s: by qdel, an operator or the scheduler; ask them if it was not you",
    ),
    "crashed": (
        story(139),
        "crashed",
        "a program of the job crashed (SIGSEGV), and no limit of the job's is known to be behind it; look at what it"
        " wrote last, and whether it suits this node's processor",
    ),
    "killed": (
        story(137),
        "killed",
        "a program of the job was killed (SIGKILL), and as far as the kernel tells not for memory; look whether the"
        " job's own script or tools do that",
    ),
    "no such command": (
        story(127),
        "command-not-found",
        "a command was not found in the image (exit status 127); install it there, name an image that has it, or give"
        " its path",
    ),
    "no program": (
        story(126),
        "command-not-run",
        "a command could not be run (exit status 126): make it executable, or name an image that it is built for",
    ),
    "its own exit status": (
        story(3),
        "exit-status",
        "the job's own script ended with exit status 3, and no limit was met; look at the last lines of its error"
        " output",
    ),
    "its own exit status, with a full memory": (
        story(3, used=Usage(limit_hit=True)),
        "memory-full",
        "the job's own script ended with exit status 3, and its memory was full at times, be it with what was read from"
        " files; if its error output speaks of memory, ask for more with qsub -l mem=SIZE",
    ),
    "nobody knows": (
        story(None, exit_status=None),
        "unknown",
        "nobody has seen how the job ended; submit it again",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sentence(name: str) -> None:
    """The code and the whole sentence."""
    given, code, sentence = CASES[name]
    found = cause_of(given, WORDS)

    assert (found.code, found.sentence) == (code, sentence)


def test_every_sentence_is_tested() -> None:
    """Each code that the module can give, but those that come from refusals and faults."""
    tree = ast.parse((ROOT / "lib/pbsdock/agent/cause.py").read_text())
    named = {
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Cause"
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    named |= {code for code, _said in cause._TAKEN.values()}

    assert len(named) > 15
    assert named - {code for _story, code, _sentence in CASES.values()} == set()


@pytest.mark.parametrize("code", sorted(ADVICE))
def test_what_to_do_about_a_refusal(code: str) -> None:
    """One sentence, whose last part is the advice; the code is one that the library gives."""
    refused = unstarted(refusal=Refused(code=code, sentence="s"))
    library = (ROOT / "lib/pbsdock").rglob("*.py")

    assert cause_of(refused, WORDS).sentence == f"the job was refused: s; {ADVICE[code]}"
    assert any(f'"{code}"' in path.read_text() for path in library if path.name != "cause.py")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (story(0, used=Usage(pids_hit=True)), "well"),
        (story(0, ended_at=1063.0), "well"),
        (story(143, ended_at=1063.0, used=Usage(oom_at="job"), exit_status=271), "out-of-memory"),
        (story(None, mother="n1", used=Usage(oom_kills=1, limit_hit=True)), "out-of-memory"),
        (story(None, mother="n1", used=Usage(oom_kills=1, limit_hit=False)), "node-out-of-memory"),
        (story(0, removed_for="other-boot", over_from="ended"), "well"),
        (story(0, walltime_s=None, ended_at=9000.0, exit_status=271), "ended-by-signal"),
        (story(1, phases=_TERM, exit_status=1), "exit-status"),
        (story(3, fault=Fault(code="x", sentence="of an earlier start")), "exit-status"),
        (story(200), "exit-status"),
        (story(0, used=Usage(limit_hit=True)), "well"),
        (story(127, used=Usage(limit_hit=True)), "command-not-found"),
        (story(2, limits=None, used=None), "exit-status"),
    ],
)
def test_what_comes_first(given: Story, code: str) -> None:
    """A limit that was met and did no harm is no cause, and memory comes before the signal that ended the rest."""
    assert cause_of(given, WORDS).code == code


@pytest.mark.parametrize(
    ("own", "others", "code", "sentence"),
    [
        ("exit-status", [("n2", "tasks-over"), ("n3", "out-of-memory")], "out-of-memory", "on n3: out-of-memory!"),
        ("killed", [("n2", "shm-full"), ("n3", "shm-full")], "shm-full", "on n2 and 1 more: shm-full!"),
        ("exit-status", [("n2", "image-not-found"), ("n3", "killed")], "image-not-found", "on n2: image-not-found!"),
        ("exit-status", [("n2", "tasks-over"), ("n3", "no-task"), ("n4", "unknown")], "exit-status", "exit-status!"),
        ("exit-status", [], "exit-status", "exit-status!"),
        ("well", [("n2", "out-of-memory")], "well", "well!"),
        ("walltime", [("n2", "out-of-memory")], "walltime", "walltime!"),
    ],
)
def test_the_cause_of_a_job_on_several_nodes(own: str, others: list[tuple[str, str]], code: str, sentence: str) -> None:
    """Another node's, by name, where the asked one's own explains nothing; never in place of what does."""
    found = of_all(
        Cause(code=own, sentence=f"{own}!"), [(name, Cause(code=told, sentence=f"{told}!")) for name, told in others]
    )

    assert (found.code, found.sentence) == (code, sentence)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (3.0, "3 s"),
        (9.96, "10.0 s"),
        (12.4, "12 s"),
        (59.6, "1 min"),
        (185.0, "3 min 5 s"),
        (7800.0, "2 h 10 min"),
        (7200.0, "2 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    """As a person says them."""
    assert duration(seconds) == said
