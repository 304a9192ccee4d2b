"""Bad input: one clear sentence on the job's stderr, exit status 125, nothing started, nothing left."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from pbsdock.trial import Trial
from tests.conftest import IMAGE, NO_SHELL_IMAGE, USERS, Instance

pytestmark = pytest.mark.engine

IMAGE_FULL = f"docker.io/{IMAGE}"
HOME = f"/home/{USERS[0]}"

REFUSED = {
    "no image": ("#DOCKER", "STDIN:2:1: #DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'"),
    "two images": (
        f"#DOCKER {IMAGE} other:1",
        f"STDIN:2:{len(IMAGE) + 10}: a second image 'other:1'; line 2 names '{IMAGE}' already and a job has one image",
    ),
    "unknown option": (f"#DOCKER --volum /a:/b {IMAGE}", "STDIN:2:9: unknown option --volum; did you mean --volume?"),
    "privileged": (
        f"#DOCKER --privileged {IMAGE}",
        "STDIN:2:9: --privileged is not available: a job never gets more rights on the node than its user;"
        " ask your site for a device or a mount",
    ),
    "unicode dash": (f"#DOCKER –read-only {IMAGE}", "STDIN:2:9: '–' is not a hyphen; write --read-only"),
    "byte order mark": (
        f"\ufeff#DOCKER {IMAGE}",
        "STDIN:2:1: a UTF-8 byte order mark (the invisible bytes EF BB BF) stands before #DOCKER, which is no directive"
        r" then; remove it, for example with sed -i '2s/^\xEF\xBB\xBF//' SCRIPT",
    ),
    "never pulled": (
        "#DOCKER --pull never pbsdock-test/absent:1",
        "image 'docker.io/pbsdock-test/absent:1' is not on this node and --pull never forbids to fetch it",
    ),
    "mount": (f"#DOCKER -v /etc:/x {IMAGE}", f"STDIN:2:9: /etc cannot be mounted: this site allows paths below {HOME}"),
    "mount that is not there": (
        f"#DOCKER -v $HOME/absent:/x {IMAGE}",
        f"STDIN:2:9: {HOME}/absent cannot be mounted: No such file or directory (looked at as the user)",
    ),
    "network": (
        f"#DOCKER --network bridge {IMAGE}",
        "STDIN:2:9: network 'bridge' is not allowed; use one of host, none",
    ),
    "object store": (f"#DOCKER --s3 bucket {IMAGE}", "STDIN:2:9: --s3: this site has no object store configured"),
    "control character": (
        f"#DOCKER {IMAGE}\x07",
        f"STDIN:2:{len(IMAGE) + 9}: control character '\\x07' is not allowed here",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sentence(instance: Instance, name: str) -> None:
    """The whole sentence, the line it is about, and nothing else."""
    lines, sentence = REFUSED[name]
    done = instance.run(f"#!/bin/sh\n{lines}\necho started\n")

    assert (done.exit_status, done.stdout, done.stderr.decode()) == (125, b"", f"pbsdock: {sentence}\n")
    assert instance.left() == []


DRIVER = f"""#!/bin/sh
echo $PBS_JOBID
cat <<END
#DOCKER {IMAGE}
END
"""


def test_line_after_the_first_command(instance: Instance) -> None:
    """It is no directive: the driver of other jobs runs bare, and one line says so."""
    done = instance.run(DRIVER)

    assert (done.exit_status, done.stdout.decode()) == (0, f"{done.job_id}\n#DOCKER {IMAGE}\n")
    assert done.stderr.decode() == (
        "pbsdock: line 4: a #DOCKER line after the script's first command is no directive, and the job runs without a"
        " container; one that is meant belongs among the comments at the head\n"
    )
    assert instance.left() == []


def test_line_after_the_first_command_of_a_contained_job(instance: Instance) -> None:
    """The driver itself may run in a container."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\necho $FROM_IMAGE\ncat <<END\n#DOCKER --privileged x\nEND\n")

    assert (done.exit_status, done.stdout) == (0, b"yes\n#DOCKER --privileged x\n")
    assert done.stderr.decode() == (
        "pbsdock: line 5: a #DOCKER line after the script's first command is no directive; one that is meant belongs"
        " among the comments at the head\n"
    )


def test_line_after_the_first_command_where_it_is_refused(instance: Instance) -> None:
    """[directive] late = "refuse" is for sites whose users shall not run bare by mistake."""
    instance.configure('[directive]\nlate = "refuse"\n')
    done = instance.run(DRIVER)

    assert (done.exit_status, done.stdout) == (125, b"")
    assert done.stderr.decode() == (
        "pbsdock: STDIN:4:1: this #DOCKER line comes after the first command; move it up among the comments\n"
    )


def test_memory_above_the_node(instance: Instance) -> None:
    """More memory than the node has is refused with both numbers."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n", resources="nodes=1:ppn=1,mem=900tb")

    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert done.stderr.decode().startswith("pbsdock: mem asks for 989560464998400 bytes on ")
    assert done.stderr.decode().endswith(f"; a container may have {have} there\n")


def test_crlf_line_ends_in_the_directive(instance: Instance) -> None:
    """CRLF after the directive is taken for a line end, not for part of the image's name."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\r\necho ran\n")

    assert (done.exit_status, done.stdout) == (0, b"ran\n")


def test_nul_bytes(instance: Instance) -> None:
    """NUL bytes in the script do not hide a directive."""
    done = instance.run(b"#!/bin/sh\n# \0\n#DOCKER --privileged x\ntrue\n")

    assert done.exit_status == 125
    assert done.stderr.startswith(b"pbsdock: STDIN:3:9: --privileged")


def test_long_script(instance: Instance) -> None:
    """A script of 100 MB is refused by its size."""
    body = f"#!/bin/sh\n#DOCKER {IMAGE}\n".encode() + b"#" * (100 << 20) + b"\n"
    done = instance.run(body)

    assert done.stderr.decode() == (
        f"pbsdock: the job script has {len(body)} bytes; a script with #DOCKER may have 16777216\n"
    )


def test_script_that_is_a_link(instance: Instance, tmp_path: Path) -> None:
    """A script that is a symbolic link is never followed by root."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n"))
    trial.prepare_files()
    real = tmp_path / "script"
    real.write_bytes(trial.script_path.read_bytes())
    trial.script_path.unlink()
    trial.script_path.symlink_to(real)
    assert trial.prologue() == 0
    record = [one for one in instance.events(trial.job_id) if one["event"] == "job.refused"]
    trial.finish(125)

    assert [one["code"] for one in record] == ["script-unreadable"]


def test_image_without_a_shell(instance: Instance) -> None:
    """An image in which nothing can be run is told by name."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {NO_SHELL_IMAGE}\ntrue\n")

    assert done.stderr.decode() == (
        f"pbsdock: image 'docker.io/{NO_SHELL_IMAGE}' has no /bin/sh that can be run; choose a shell it has with"
        " qsub -S\n"
    )


def test_image_without_the_scripts_interpreter(instance: Instance) -> None:
    """What the shell would call "not found" is the interpreter, not the script."""
    done = instance.run(f"#!/usr/bin/no-such-thing -x\n#DOCKER {IMAGE}\nprint(1)\n")

    assert done.exit_status == 125
    assert done.stderr.decode() == (
        f"pbsdock: image 'docker.io/{IMAGE}' has no /usr/bin/no-such-thing, which the script's first line names\n"
    )


def test_image_of_another_architecture(instance: Instance) -> None:
    """An image for another processor is told, not run into 'exec format error'."""
    subprocess.run(["docker", "load"], input=_archive("pbsdock-test/arm:1", "arm64"), check=True, capture_output=True)
    try:
        done = instance.run("#!/bin/sh\n#DOCKER pbsdock-test/arm:1\ntrue\n")
    finally:
        subprocess.run(["docker", "rmi", "pbsdock-test/arm:1"], check=True, capture_output=True)

    assert done.stderr.decode() == (
        "pbsdock: image 'docker.io/pbsdock-test/arm:1' is built for arm64; this node runs amd64\n"
    )


def _archive(name: str, architecture: str) -> bytes:
    """A docker-archive with one empty layer, built for *architecture*."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w"):
        pass
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {},
        "history": [],
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for member, data in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return whole.getvalue()


def test_bypassed_prologue(instance: Instance) -> None:
    """A script with a directive whose prologue did not run (qsub -T) is not run bare."""
    trial = Trial(instance.request(f"#!/bin/sh\n#DOCKER {IMAGE}\necho started\n"))
    trial.prepare_files()
    trial.start()
    done = trial.finish(trial.wait())

    assert done.stdout == b""
    assert done.exit_status == 125
    assert done.stderr.decode() == (
        "pbsdock: the script has a #DOCKER line but the prologue did not prepare its container; nothing was started\n"
    )


def test_symlink_out_of_the_allowed_path(instance: Instance) -> None:
    """A link in the home directory does not open what it points to."""
    link = Path(HOME) / "way-out"
    link.unlink(missing_ok=True)
    link.symlink_to("/etc")
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER -v $HOME/way-out:/x {IMAGE}\nls /x\n")
    finally:
        link.unlink()

    assert done.stderr.decode() == (
        f"pbsdock: STDIN:2:9: {HOME}/way-out (really /etc) cannot be mounted: this site allows paths below {HOME}\n"
    )


def test_bad_configuration_is_the_nodes_fault(instance: Instance) -> None:
    """A typo in the configuration requeues the job, takes the node down with the sentence, and heals with the file."""
    good = instance.config.read_text()
    instance.configure("[images]\nalow = ['x']\n")
    try:
        done = instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n")
    finally:
        instance.configure(good)
        (instance.run_dir / "unhealthy").unlink(missing_ok=True)

    assert done.exit_status == -14
    assert done.node_down is not None
    assert done.node_down.startswith("ERROR pbsdock: the configuration is not usable: ")
    assert "alow" in done.node_down
    assert b"does not start, the job is queued again: the configuration is not usable" in done.stderr
    assert done.seconds["prologue"] < 15
