"""T6: what a directive can be made to say: nothing of it reaches a shell, a command line or a second option."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import IMAGE, Instance

pytestmark = pytest.mark.engine
_CANARY = "/tmp/pbsdock-injected"  # inside a container this is the container's own
LINES = {
    "an option behind the image": f"{IMAGE} --privileged",
    "end of options": f"-- --privileged {IMAGE}",
    "command substitution": f"{IMAGE}$(touch {_CANARY})",
    "backquotes": f"-e A=`touch {_CANARY}` `touch {_CANARY}`",
    "a second command": f"{IMAGE}; touch {_CANARY}",
    "a pipe": f"{IMAGE}|sh",
    "unclosed quote": f'-e A="x {IMAGE}',
    "a quoted option": f'"--privileged" {IMAGE}',
    "an option in a value": f"-e --privileged {IMAGE}",
    "an option as a value": f"--workdir --privileged {IMAGE}",
    "a dash that is none": f"\u2013\u2013privileged {IMAGE}",
    "a fullwidth dash": f"\uff0d\uff0dprivileged {IMAGE}",
    "right to left": f"\u202e{IMAGE}",
    "a zero-width space": f"--net\u200bwork host {IMAGE}",
    "a newline spelled out": f"{IMAGE}\\n#DOCKER --privileged",
    "a carriage return inside": f"{IMAGE}\r--privileged",
    "a vertical tab": f"{IMAGE}\v--privileged",
    "a backspace": f"--privileged\b\b\b\b {IMAGE}",
    "a nul": f"{IMAGE}\0--privileged",
    "an abbreviation": f"--priv {IMAGE}",
    "the same twice": f"--workdir /a --workdir /b {IMAGE}",
    "an image that is a path": "/etc/passwd",
    "an image that climbs": "../../../x",
    "an image with a query": "busybox?x=1",
    "an image with a fragment": "busybox#y",
    "an image with a percent": "busybox%2f..%2f..",
    "an image with a user": "user:pass@registry.example.org/x",
    "a long line": "-e A=" + "x" * 70000 + f" {IMAGE}",
    "many options": "-e A=1 " * 9000 + IMAGE,
    "a variable that is none": f"-v $PATH:/x {IMAGE}",
    "a variable with a default": f"-v ${{HOME:-/}}:/x {IMAGE}",
    "a glob": f"-v /home/*:/x {IMAGE}",
    "a tilde": f"-v ~root:/x {IMAGE}",
    "three colons": f"-v $HOME:/x:rw:/y {IMAGE}",
    "a relabel": f"-v $HOME:/x:Z {IMAGE}",
    "a propagation": f"-v $HOME:/x:shared {IMAGE}",
    "a variable's name": f"-e 'A\nB=1' {IMAGE}",
    "an empty name": f"-e =x {IMAGE}",
    "tmpfs with options": f"--tmpfs /t:exec,suid,dev {IMAGE}",
    "a negative size": f"--shm-size -1 {IMAGE}",
    "an endless size": f"--shm-size 99999999999999999999g {IMAGE}",
}


@pytest.mark.parametrize("name", LINES)
def test_line_is_refused(instance: Instance, name: str) -> None:
    """Printable lines about places in the script, exit 125, nothing started and nothing of it executed."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {LINES[name]}\necho started\n")

    assert (done.exit_status, done.stdout) == (125, b""), done.stderr
    said = done.stderr.decode().removeprefix("pbsdock: ").split("\n")
    assert said.pop() == ""
    assert [
        line for line in said if not (line.startswith("STDIN:2:") and line.isprintable() and len(line) < 1000)
    ] == []
    assert not Path(_CANARY).exists()


@pytest.mark.parametrize("value", ["a b", "'", '"', "\\", "--privileged", "; id", "*", "~", "%s%n"])
def test_values_arrive_as_they_are(instance: Instance, value: str) -> None:
    """A quoted value is one value to the end: no shell, ours or the container's, looks at it again."""
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    done = instance.run(f"#!/bin/sh\n#DOCKER -e A={quoted} {IMAGE}\nprintf '%s' \"$A\"; ls /tmp\n")

    assert done.stdout.decode() == value, done.stderr


def test_names_of_jobs_and_queues_are_data(instance: Instance) -> None:
    """qsub -N and -q are arguments of root's hooks: whatever they hold stays an argument."""
    name = "$(touch /tmp/pbsdock-injected);`id`\n--privileged"
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho ran\n", name=name, queue="';id;'")

    assert (done.exit_status, done.stdout) == (0, b"ran\n"), done.stderr
    assert not Path(_CANARY).exists()
