"""What Docker's JSON means, and what the agent makes of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.engine.base import ContainerState, EventKind, ExecState, Failure
from pbsdock.engine.docker import answers

_LABELS = {"pbsdock.incarnation": "i1"}


def _said(action: str, **attributes: str) -> dict[str, object]:
    return {"Action": action, "Actor": {"ID": "c1", "Attributes": _LABELS | attributes}, "timeNano": 1500000000}


_EVENTS = (
    (_said("die", exitCode="3"), EventKind.CONTAINER_DIED, "", 3),
    (_said("oom"), EventKind.OUT_OF_MEMORY, "", None),
    (_said("exec_die", execID="e1", exitCode="0"), EventKind.EXEC_DIED, "e1", 0),
    (_said("die", exitCode="-1"), EventKind.CONTAINER_DIED, "", None),
)


@given(st.integers(1, 400))
def test_events_are_taken_apart_at_any_boundary(size: int) -> None:
    """However the stream is cut; what nobody asked for, blank lines and a line's beginning are no events."""
    lines = [json.dumps(said) for said, *_ in _EVENTS]
    data = "\n".join([lines[0], "", json.dumps(_said("start")), *lines[1:], lines[0][:9]]).encode()
    found = list(answers.events(data[at : at + size] for at in range(0, len(data), size)))

    assert [(event.kind, event.exec_id, event.exit_code) for event in found] == [tuple(rest) for _, *rest in _EVENTS]
    assert {(event.container_id, event.labels["pbsdock.incarnation"], event.at) for event in found} == {
        ("c1", "i1", 1.5)
    }


def test_an_event_that_is_no_json() -> None:
    """The one before it is told."""
    found = answers.events([json.dumps(_said("oom")).encode() + b"\nno json\n"])

    assert next(found).kind is EventKind.OUT_OF_MEMORY
    with pytest.raises(ValueError, match="Expecting value"):
        next(found)


def test_times_of_the_engine() -> None:
    """Nanoseconds, none at all, and the year 1."""
    assert answers.moment("1970-01-02T00:00:00.250000001Z") == pytest.approx(86400.25)
    assert answers.moment("1970-01-02T00:00:00Z") == 86400.0
    assert [answers.moment(text) for text in ("0001-01-01T00:00:00Z", None, "", "soon")] == [None] * 4


def test_how_a_container_ended() -> None:
    """The engine's "never" is no time, and what it does not say is nothing."""
    state = {"Running": False, "Pid": 0, "ExitCode": 137, "OOMKilled": True, "Error": "e"}
    times = {"StartedAt": "1970-01-02T00:00:00.5Z", "FinishedAt": "0001-01-01T00:00:00Z"}

    assert answers.container_state({"State": state | times}) == ContainerState(
        exit_code=137, out_of_memory=True, started_at=86400.5, error="e"
    )
    assert answers.container_state({"State": {"Running": True, "Pid": 7}}) == ContainerState(is_running=True, pid=7)
    assert answers.container_state({}) == ContainerState()


def test_an_exec_that_runs_has_no_exit_code() -> None:
    """Which is not the exit code 0."""
    found = [answers.exec_state({"ContainerID": "c", "Running": code is None, "ExitCode": code}) for code in (None, 0)]
    assert found == [
        ExecState(container_id="c", is_running=True, pid=0, exit_code=None),
        ExecState(container_id="c", is_running=False, pid=0, exit_code=0),
    ]


@pytest.mark.parametrize(("said", "version"), [({"CgroupVersion": "2"}, 2), ({"CgroupVersion": "1"}, 1), ({}, 1)])
def test_cgroup_version(said: dict[str, str], version: int) -> None:
    """An engine that says nothing of a version is older than 20.10 and knows version 1 only."""
    assert answers.capabilities(said).cgroup_version == version


def test_an_image_that_was_built_here_has_no_digest() -> None:
    """The engine then says null."""
    assert answers.image_facts({"Id": "sha256:1", "RepoDigests": None}).digests == ()


@pytest.mark.parametrize(
    ("doing", "status", "text", "failure"),
    [
        ("start", 400, 'exec: "/bin/sh": stat /bin/sh: no such file or directory: unknown', Failure.NO_PROGRAM),
        ("start", 400, "create failed: executable file `/bin/sh` not found in $PATH: No such", Failure.NO_PROGRAM),
        ("exec start", 400, "exec failed: chdir `/gone`: No such file or directory", Failure.NO_DIRECTORY),
        ("exec start", 400, "exec failed: open executable: Operation not permitted", Failure.NO_PROGRAM),
        ("start", 400, "create failed: mount `/a` to `b`: Not a directory", Failure.OTHER),
        ("start", 400, "error mounting /a: no such file or directory", Failure.OTHER),
        ("exec start", 400, 'exec: "/mount/tool": permission denied', Failure.NO_PROGRAM),
        ("create", 400, "no such file or directory", Failure.OTHER),
        ("create", 404, "No such image: sha256:1", Failure.IMAGE_GONE),
        ("start", 404, "network lab not found", Failure.NO_NETWORK),
        ("start", 400, 'chdir to cwd ("/root") set in config.json failed: permission denied', Failure.NO_DIRECTORY),
        ("start", 400, 'exec: "/bin/chdir to": stat /bin/chdir to: no such file or directory', Failure.NO_PROGRAM),
        ("start", 400, 'exec: "/bin/sh/x": not a directory: unknown: Are you trying to mount a', Failure.NO_PROGRAM),
        ("create", 500, "Cannot mkdir: /bin/sh is not a directory", Failure.NO_DIRECTORY),
        ("start", 500, "no space left on device", Failure.OTHER),
        ("start", 500, 'could not select device driver "nvidia" with capabilities: [[gpu]]', Failure.NO_GPUS),
        ("create", 400, "failed to discover GPU vendor from CDI: no known GPU vendor found", Failure.NO_GPUS),
        (
            "start",
            500,
            "error running hook: nvidia-container-cli: initialization error: nvml error",
            Failure.GPUS_FAILED,
        ),
        ("start", 400, 'exec: "nvidia-container-cli": executable file not found', Failure.NO_PROGRAM),
    ],
)
def test_why_the_engine_refused(doing: str, status: int, text: str, failure: Failure) -> None:
    """A program is only missing where one was to be started, and a mount's missing target is not one."""
    assert answers.failure(doing, status, text) is failure


def test_an_error_of_something_between_us_and_the_engine() -> None:
    """Its own words are told where the answer is not the engine's."""
    assert answers.message(b'{"message": "no"}') == "no"
    assert answers.message(b" <h1>Bad Gateway</h1>\n") == "<h1>Bad Gateway</h1>"
