"""The seccomp profile: the engine's own, and the calls that numactl, UCX and Open MPI make besides. Nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from pbsdock.engine.docker.seccomp import ADDED, profile
from tests.conftest import HOST_IMAGE, IMAGE, Instance

# x86-64's numbers (asm/unistd_64.h), each with arguments that do no harm; EPERM is what the filter answers.
_CALLS = {
    "get_mempolicy": (239, 0, 0, 0, 0, 0),
    "set_mempolicy": (238, 0, 0, 0),
    "mbind": (237, 0, 0, 0, 0, 0, 0),
    "move_pages": (279, 0, 0, 0, 0, 0, 0),
    "migrate_pages": (256, 0, 0, 0, 0),
    "process_vm_readv": (310, "self", 0, 0, 0, 0, 0),
    "process_vm_writev": (311, "self", 0, 0, 0, 0, 0),
    "keyctl": (250, 0, 0, 0, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "userfaultfd": (323, 0),
    "unshare": (272, 0x10000000),
    "setns": (308, -1, 0x10000000),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "open_by_handle_at": (304, -1, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0),
    "ptrace": (101, 0x4206, 0, 0, 0),
}
_PROBE = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
for name, (number, *arguments) in CALLS.items():
    ctypes.set_errno(0)
    libc.syscall(number, *[os.getpid() if one == "self" else one for one in arguments])
    print(name, errno.errorcode.get(ctypes.get_errno(), "fine"))
"""


@pytest.fixture
def site(instance: Instance) -> Iterator[Instance]:
    """With the host's Python for its jobs."""
    good = instance.config.read_text()
    instance.configure('[mounts]\nallow = ["/usr:ro"]\n')
    yield instance
    instance.configure(good)


def _refused(instance: Instance) -> set[str]:
    """The calls that a job is refused."""
    script = f"#!/bin/sh\n#DOCKER -v /usr:/usr:ro {HOST_IMAGE}\n/usr/bin/python3 - <<'END'\nCALLS = {_CALLS!r}\n{_PROBE}\nEND\n"
    done = instance.run(script)
    answers = dict(line.split() for line in done.stdout.decode().splitlines())
    assert set(answers) == set(_CALLS), done.stderr
    return {name for name, answer in answers.items() if answer == "EPERM"}


_SHUT = {"keyctl", "add_key", "bpf", "mount", "umount2", "userfaultfd", "unshare", "setns", "perf_event_open"}
_SHUT |= {"open_by_handle_at", "kexec_load", "init_module"}
_NUMA = {"get_mempolicy", "set_mempolicy", "mbind", "move_pages", "migrate_pages"}


@pytest.mark.threat(5)
def test_what_the_filter_refuses(site: Instance) -> None:
    """By default memory policy and copying between processes are let through, and what opens the host is not."""
    refused = _refused(site)

    assert refused & (_NUMA | {"process_vm_readv", "process_vm_writev"}) == set()
    assert refused >= _SHUT


def test_the_engines_own_filter(site: Instance) -> None:
    """A site may want that; and a profile of its own, which here allows everything but one call."""
    site.configure('[mounts]\nallow = ["/usr:ro"]\n[security]\nseccomp = "engine"\n')
    assert _refused(site) >= _SHUT | _NUMA

    own = site.config.parent / "seccomp.json"
    rules = [{"names": ["migrate_pages"], "action": "SCMP_ACT_ERRNO"}]
    own.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    site.configure(f'[mounts]\nallow = ["/usr:ro"]\n[security]\nseccomp = "{own}"\n')
    refused = _refused(site)
    assert "migrate_pages" in refused
    assert "mbind" not in refused

    own.write_text("no JSON")
    done = site.command("config")
    assert done.returncode != 0
    assert f"security.seccomp: {own} is no profile that can be read" in done.stderr + done.stdout


def test_the_rest_is_as_the_engine_has_it(images: None) -> None:
    """Rule by rule, as this engine hands both to runc."""
    client = docker.from_env()
    version = client.version()["Version"]
    try:
        engines, ours = (_handed_over(client, options) for options in ([], [f"seccomp={profile(version)}"]))
    finally:
        client.close()

    assert {key: engines[key] for key in ("defaultAction", "architectures")} == {
        key: ours[key] for key in ("defaultAction", "architectures")
    }
    added = {(name, "SCMP_ACT_ALLOW", "[]") for name in ADDED}
    assert _rules(ours) - _rules(engines) == added - _rules(engines)
    assert {name for name, *_ in added & _rules(engines)} in (set(), {"process_vm_readv", "process_vm_writev"})
    assert _rules(engines) - _rules(ours) == set()


def _handed_over(client: Any, options: list[str]) -> dict[str, Any]:
    container = client.containers.run(
        IMAGE, ["sleep", "60"], detach=True, cap_drop=["ALL"], security_opt=["no-new-privileges", *options]
    )
    try:
        bundles = [*Path("/run").glob(f"**/moby/{container.id}/config.json")]
        assert len(bundles) == 1
        found: dict[str, Any] = json.loads(bundles[0].read_text())["linux"]["seccomp"]
        return found
    finally:
        container.remove(force=True)


def _rules(seccomp: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {
        (name, rule["action"], json.dumps(rule.get("args") or [], sort_keys=True))
        for rule in seccomp["syscalls"]
        for name in rule["names"]
    }
