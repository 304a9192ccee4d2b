"""Limits that a program only meets as errors of its own: the user is told which it was."""

from __future__ import annotations

import shutil
import socket

import pytest

from tests.conftest import IMAGE, Instance


def test_a_full_dev_shm(instance: Instance) -> None:
    """With its size, and how to ask for more."""
    done = instance.run(
        f"#!/bin/sh\n#DOCKER --shm-size 4mb {IMAGE}\ndd if=/dev/zero of=/dev/shm/x bs=1M count=8 || {{ sleep 2.5; exit 1; }}\n",
        resources="nodes=1:ppn=1,mem=64mb",
    )

    assert done.exit_status == 1
    assert b"/dev/shm was full: it has 4 MiB in this job; ask for more with --shm-size SIZE" in done.stderr


def test_as_many_processes_as_a_job_may_have(instance: Instance) -> None:
    """What the shell calls a resource that is temporarily unavailable."""
    good = instance.config.read_text()
    instance.configure("[limits]\npids = 24\n")
    try:
        done = instance.run(
            f"#!/bin/sh\n#DOCKER {IMAGE}\nfor i in 1 2 3 4 5 6 7 8 9 0 a b c d e f g h i j k l m n o p; do sleep 3 & done\nwait; exit 1\n"
        )
    finally:
        instance.configure(good)

    assert done.exit_status != 0
    assert b"the job had 24 processes and threads, as many as it may at this site" in done.stderr


@pytest.mark.skipif(
    any(shutil.which(f"nvidia-container-{program}") for program in ("runtime-hook", "toolkit", "cli")),
    reason="this engine can give GPUs",
)
def test_gpus_that_the_engine_cannot_give(instance: Instance) -> None:
    """What was granted and what the node lacks, in words of ours; the node stays in service."""
    good = instance.config.read_text()
    instance.configure("[devices]\ngpus = true\n")
    gpus = instance.mom_priv.parent / "aux/777.vmgpu"
    gpus.parent.mkdir(exist_ok=True)
    gpus.write_text(f"{socket.gethostname()}-gpu0\n{socket.gethostname()}-gpu3\n")
    try:
        script = f"#!/bin/sh\n#DOCKER --gpus all {IMAGE}\necho no\n"
        done = instance.run(script, job_id="777.vm", resources="nodes=1:ppn=1:gpus=2")
    finally:
        gpus.unlink()
        instance.configure(good)

    assert (done.exit_status, done.stdout, done.node_down) == (125, b"", None)
    assert done.stderr.decode() == (
        f"pbsdock: --gpus: the job was granted GPU 0, 3 of {socket.gethostname()}, but the Docker engine there can give a"
        " container none: it lacks NVIDIA's container toolkit; leave --gpus out, or tell the site\n"
    )
    assert instance.left() == []
