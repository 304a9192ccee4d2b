"""``pbsdock why``: what a job's owner is told of it, while it runs and when it is over."""

from __future__ import annotations

import json
import pwd
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.conftest import IMAGE, USERS, Instance, wait_until

_SITE = """\
[images]
deny = ["docker.io/library/evil"]

[limits]
pids = 24
"""


def _as(user: str) -> dict[str, Any]:
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _why(instance: Instance, job: str, user: str = USERS[0]) -> dict[str, Any]:
    done = instance.command("why", "--json", job, **_as(user))
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextmanager
def _empty_registry() -> Iterator[str]:
    """Says of every image that it has none such."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            is_root = self.path == "/v2/"
            self.send_response(200 if is_root else 404)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(0 if is_root else len(body)))
            self.end_headers()
            if not is_root and self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_jobs_that_are_over(instance: Instance) -> None:
    """Each with its cause, by name and in the sentence that says what to change; told to its owner and to root alone."""
    instance.configure(_SITE)
    well = instance.run(f"#!/bin/sh\n#DOCKER --shm-size 1mb {IMAGE}\necho\n").job_id
    # A size that is asked for also sets RLIMIT_DATA, at which nobody is killed; /dev/shm is charged to the cgroup alone.
    hungry = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\ndd if=/dev/zero of=/dev/shm/x bs=1M count=14\ntail /dev/zero\nexit $?\n",
        resources="nodes=1:ppn=1,mem=16mb",
    ).job_id
    busy = instance.run(
        f"#!/bin/sh\n#DOCKER {IMAGE}\nfor i in 1 2 3 4 5 6 7 8 9 0 a b c d e f g h i j k l m n; do sleep 1 & done\nwait; exit 1\n"
    ).job_id
    refused = instance.run("#!/bin/sh\n#DOCKER evil\n").job_id
    with _empty_registry() as registry:
        absent = instance.run(f"#!/bin/sh\n#DOCKER {registry}/x/y:1\n").job_id
    late = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 60\n", resources="nodes=1:ppn=1,walltime=00:00:01").job_id
    told = {job: _why(instance, job) for job in (well, hungry, busy, refused, absent, late)}

    assert told[well]["cause"]["code"] == "well"
    assert told[well]["asked"] == f"#DOCKER --shm-size 1mb {IMAGE}"
    assert {phase["name"] for phase in told[well]["phases"]} >= {"image", "cgroup", "prologue", "start", "release"}
    assert (told[well]["exit_status"], told[well]["outcome"], told[well]["earlier"]) == (0, "ran", [])
    assert told[well]["used"]["memory_peak_bytes"] > 0

    assert told[hungry]["cause"]["code"] == "out-of-memory"
    assert "at the job's memory limit of 16 MiB" in told[hungry]["cause"]["sentence"]
    assert told[hungry]["limits"]["memory_bytes"] == 16 << 20

    assert told[busy]["cause"]["code"] == "too-many-processes"
    assert {"what": "pids", "value": "24", "rule": "limits.pids", "line": 5} in told[busy]["decided"]

    assert (told[refused]["outcome"], told[refused]["cause"]["code"]) == ("refused", "image-not-allowed")
    assert [(each["rule"], each["line"]) for each in told[refused]["decided"]] == [("images.deny", 2)]

    assert (told[absent]["outcome"], told[absent]["cause"]["code"]) == ("refused", "image-tag-not-found")

    assert told[late]["cause"]["code"] == "walltime"
    assert "qsub -l walltime=" in told[late]["cause"]["sentence"]

    _are_told_to_nobody_else(instance, hungry)


def _are_told_to_nobody_else(instance: Instance, job: str) -> None:
    bob = instance.command("why", job, **_as(USERS[1]))
    nobody = instance.command("why", "999999.vm", **_as(USERS[1]))
    assert (bob.returncode, bob.stdout) == (1, "")
    assert bob.stderr.replace(job, "999999.vm") == nobody.stderr

    screen = instance.command("why", job.split(".", 1)[0])
    assert screen.returncode == 0
    assert len(screen.stdout.splitlines()) <= 26
    assert "memory   [####################] 100 %" in screen.stdout

    files = list((instance.state_dir / "history").rglob("*.json"))
    assert files
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in files} == {(0, 0o600)}


def test_a_job_that_is_watched(instance: Instance) -> None:
    """A line a second, on through another agent, and the whole at its end."""
    job = instance.begin(f"#!/bin/sh\n#DOCKER {IMAGE}\nsleep 2.5\n", resources="nodes=1:ppn=1,mem=64mb")
    command = [str(instance.root / "opt/pbsdock/bin/pbsdock"), "why", "--watch", job.job_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **_as(USERS[0])) as watch:
        assert watch.stdout is not None
        row = watch.stdout.readline()
        while " of 64 MiB" not in row:
            row = watch.stdout.readline()
        instance.kill_agent()
        instance.start_agent()
        outcome = job.finish(job.wait())
        rest = watch.stdout.read()

    assert (outcome.exit_status, watch.returncode) == (0, 0)
    assert "pids " in row
    assert rest.splitlines()[-1] == "why       the job ended well"
    wait_until("it is remembered", lambda: _why(instance, job.job_id)["state"] == "over")
    told = _why(instance, job.job_id)
    assert {"prologue", "start", "release"} <= {phase["name"] for phase in told["phases"]}
