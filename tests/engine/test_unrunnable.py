"""What an image cannot run for its user: status 125, one sentence with the cause, nothing left, the node in service."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import USERS, Instance

pytestmark = pytest.mark.engine

_NAME = f"pbsdock-test-{os.getpid()}/odd"
_HOME = f"/home/{USERS[0]}"


def _elf(machine: int) -> bytes:
    """The header of a program of another machine (elf(5))."""
    return b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHI", 2, machine, 1) + bytes(200)


def _files() -> dict[str, tuple[int, bytes | str | None]]:
    """Path -> mode, and content, a link's target or None for a directory."""
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    return {
        ".": (0o755, None),
        "bin": (0o755, None),
        "bin/busybox": (0o755, busybox),
        "bin/sh": (0o777, "busybox"),
        "bin/cat": (0o777, "busybox"),
        "bin/true": (0o777, "busybox"),
        "usr": (0o755, None),
        "usr/bin": (0o755, None),
        "usr/bin/env": (0o777, "/bin/busybox"),
        "tmp": (0o1777, None),
        "root": (0o700, None),
        "root/tool": (0o777, "/bin/busybox"),
        "bin/plain": (0o755, b"echo plain\n"),
        "bin/empty": (0o755, b""),
        "bin/arm": (0o755, _elf(183)),
        "bin/dynamic": (0o755, Path("/bin/ls").read_bytes()),  # its loader is not here
        "bin/script": (0o755, b"#!/opt/python -u\n"),
        "bin/envscript": (0o755, b"#!/usr/bin/env python9\n"),
        "bin/crlf": (0o755, b"#!/bin/sh\r\n"),
        "bin/closed": (0o700, busybox),
        "bin/text": (0o644, b"#!/bin/sh\n"),
        "bin/dangling": (0o777, "/opt/gone/tool"),
        "bin/around": (0o777, "around"),
        "bin/hidden": (0o777, "/root/tool"),
        "bin/pass": (0o755, b'#!/bin/sh\necho passed $1\nexec "$@"\n'),
    }


def _import(name: str, files: Mapping[str, tuple[int, bytes | str | None]]) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for path, (mode, content) in files.items():
            info = tarfile.TarInfo(path)
            info.mode = mode
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    subprocess.run(["docker", "import", "-", name], input=whole.getvalue(), check=True, capture_output=True)


def _variants() -> Iterator[tuple[str, dict[str, tuple[int, bytes | str | None]]]]:
    files = _files()
    yield "good", files
    yield "bin-closed", {**files, "bin": (0o700, None)}
    yield "root-closed", {**files, ".": (0o700, None)}
    yield "dynamic-shell", {**files, "bin/sh": files["bin/dynamic"]}
    yield "arm-shell", {**files, "bin/sh": files["bin/arm"]}
    yield "script-shell", {**files, "bin/sh": files["bin/script"]}
    yield "text-shell", {**files, "bin/sh": files["bin/text"]}
    yield "directory-shell", {**files, "bin/sh": (0o755, None)}
    yield "dangling-shell", {**files, "bin/sh": files["bin/dangling"]}
    loader = Path("/lib64/ld-linux-x86-64.so.2").resolve().read_bytes()
    libraries = {"lib64": (0o755, None), "lib64/ld-linux-x86-64.so.2": (0o755, loader)}
    yield "no-library", {**files, **libraries, "bin/sh": files["bin/dynamic"]}
    yield "no-shell", {path: file for path, file in files.items() if path != "bin/sh"}


@pytest.fixture(scope="module")
def odd(images: None) -> Iterator[str]:
    """The images, by a name that lacks the tag."""
    made = []
    try:
        for tag, files in _variants():
            made.append(f"{_NAME}:{tag}")
            _import(made[-1], files)
        yield _NAME
    finally:
        subprocess.run(["docker", "rmi", "-f", *made], capture_output=True, check=False)


_SHELL = "; choose a shell it has with qsub -S"
_PATH = "/run/pbsdock/shim:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENTRY = {
    "nosuch": f"there is no program 'nosuch' in its PATH ({_PATH})",
    "/bin/nosuch": "there is no /bin/nosuch; name a program that it has",
    "/bin/sh/x": "there is no /bin/sh/x: /bin/busybox is not a directory; name a program that it has",
    "/opt/x/y": "there is no /opt/x/y (/opt does not exist); name a program that it has",
    "/bin": "/bin is a directory, not a program",
    "/bin/text": "/bin/text is not executable for you (mode 0644); make it so in the image, with chmod a+rx",
    "text": "/bin/text is not executable for you",
    "/bin/closed": "/bin/closed is not executable for you (mode 0700); make it so in the image, with chmod a+rx",
    "/root/tool": "the directory /root on the way to /root/tool is closed to you (mode 0700); open it in the image, with"
    " chmod a+rx",
    "/bin/hidden": "the directory /root on the way to /bin/hidden is closed to you (mode 0700); open it in the image,"
    " with chmod a+rx",
    "/bin/dangling": "there is no /bin/dangling (/opt does not exist); name a program that it has",
    "/bin/plain": "/bin/plain is neither a program nor a script whose first line names its interpreter with '#!' (exec"
    " format error)",
    "/bin/empty": "/bin/empty is an empty file (exec format error)",
    "/bin/arm": "/bin/arm is built for arm64; this node runs x86_64 (exec format error)",
    "/bin/dynamic": "there is no /lib64/ld-linux-x86-64.so.2, the loader that /bin/dynamic needs, (/lib64 does not exist)",
    "/bin/script": "there is no /opt/python, which the '#!' line of /bin/script names, (/opt does not exist)",
    "/bin/envscript": f"there is no program 'python9', which the '#!' line of /bin/envscript names, in its PATH ({_PATH})",
    "/bin/crlf": "the '#!' line of /bin/crlf ends with a carriage return (CRLF), so that '/bin/sh\\r' is looked for",
    "'/bin/nosuch -c'": "there is no /bin/nosuch; name a program that it has",
}


def _refused(instance: Instance, script: str, sentence: str, **options: str) -> None:
    done = instance.run(script, **options)

    assert done.stderr.decode() == f"pbsdock: {sentence}\n"
    assert (done.exit_status, done.stdout, done.node_down) == (125, b"", None)
    assert instance.left() == []
    assert not (instance.run_dir / "unhealthy").exists()


@pytest.mark.parametrize("entrypoint", ENTRY)
def test_entrypoint(instance: Instance, odd: str, entrypoint: str) -> None:
    """Each cause by its own name, although execve(2) has one error for several of them."""
    script = f"#!/bin/sh\n#DOCKER --entrypoint {entrypoint} {odd}:good\necho started\n"

    _refused(instance, script, f"image 'docker.io/{odd}:good': the entry point: {ENTRY[entrypoint]}")


SHELLS = {
    "bin-closed": "the directory /bin on the way to /bin/sh is closed to you (mode 0700); open it in the image, with chmod"
    " a+rx",
    "dynamic-shell": "there is no /lib64/ld-linux-x86-64.so.2, the loader that /bin/sh needs, (/lib64 does not exist)",
    "arm-shell": "/bin/sh is built for arm64; this node runs x86_64 (exec format error)",
    "script-shell": "there is no /opt/python, which the '#!' line of /bin/sh names, (/opt does not exist)",
    "text-shell": "/bin/sh is not executable for you (mode 0644); make it so in the image, with chmod a+rx",
    "directory-shell": "/bin/sh is a directory, not a program",
    "dangling-shell": "there is no /bin/sh (/opt does not exist)",
}


@pytest.mark.parametrize("tag", SHELLS)
def test_shell(instance: Instance, odd: str, tag: str) -> None:
    """The shell of the image, which every job begins with."""
    script = f"#!/bin/sh\n#DOCKER {odd}:{tag}\necho started\n"

    _refused(instance, script, f"image 'docker.io/{odd}:{tag}': {SHELLS[tag]}{_SHELL}")


def test_no_shell(instance: Instance, odd: str) -> None:
    """Nothing of that name at all."""
    script = f"#!/bin/sh\n#DOCKER {odd}:no-shell\necho started\n"

    _refused(instance, script, f"image 'docker.io/{odd}:no-shell' has no /bin/sh that can be run{_SHELL}")


def test_shell_without_a_library(instance: Instance, odd: str) -> None:
    """It has started and is over: its loader's own words are the cause, at worst alone, as the shell's own end."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {odd}:no-library\necho started\n")

    assert (done.stdout, done.node_down) == (b"", None)
    assert instance.left() == []
    said = done.stderr.decode()
    if done.exit_status == 127:  # it was over a moment after the agent had looked
        assert "error while loading shared" in said
        return
    assert done.exit_status == 125
    assert said.startswith(
        f"pbsdock: image 'docker.io/{odd}:no-library': /bin/sh cannot be run; it says: /bin/sh: error while loading shared"
    )
    assert said.endswith(f"{_SHELL}\n")
    assert len(said.splitlines()) == 1


SHELL_PATHS = {
    "/bin/bash": " has no /bin/bash that can be run",
    "/root/bash": ": the directory /root on the way to /root/bash is closed to you (mode 0700); open it in the image,"
    " with chmod a+rx",
    "/bin/text": ": /bin/text is not executable for you (mode 0644); make it so in the image, with chmod a+rx",
    "/bin": ": /bin is a directory, not a program",
    "/bin/dangling": ": there is no /bin/dangling (/opt does not exist)",
}


@pytest.mark.parametrize("shell", SHELL_PATHS)
def test_chosen_shell(instance: Instance, odd: str, shell: str) -> None:
    """The job's own shell."""
    script = f"#!/bin/sh\n#DOCKER {odd}:good\necho started\n"

    _refused(instance, script, f"image 'docker.io/{odd}:good'{SHELL_PATHS[shell]}{_SHELL}", shell=shell)


@pytest.mark.parametrize("shell", ["/bin/dynamic", "/bin/script"])
def test_chosen_shell_that_cannot_run(instance: Instance, odd: str, shell: str) -> None:
    """It is there, and what it needs is not."""
    script = f"#!/bin/sh\n#DOCKER {odd}:good\necho started\n"

    _refused(instance, script, f"image 'docker.io/{odd}:good': {ENTRY[shell]}{_SHELL}", shell=shell)


FIRST_LINES = {
    "#!/usr/bin/env python9": " has no program python9 in its PATH, which the script's first line names",
    "#!/usr/bin/env -S python9 -u": " has no program python9 in its PATH, which the script's first line names",
    "#!/opt/python": " has no /opt/python, which the script's first line names",
    "#!/bin/text": ": /bin/text is not executable for you (mode 0644); make it so in the image, with chmod a+rx (which"
    " the script's first line names)",
    "#! /root/tool x": ": the directory /root on the way to /root/tool is closed to you (mode 0700); open it in the"
    " image, with chmod a+rx (which the script's first line names)",
}


@pytest.mark.parametrize("line", FIRST_LINES)
def test_interpreter(instance: Instance, odd: str, line: str) -> None:
    """The script's own, before its shell calls it "not found"."""
    script = f"{line}\n#DOCKER {odd}:good\necho started\n"

    _refused(instance, script, f"image 'docker.io/{odd}:good'{FIRST_LINES[line]}")


def test_interpreter_with_a_carriage_return(instance: Instance, odd: str) -> None:
    """A script whose lines all end with CRLF."""
    sentence = (
        "the script's first line ends with a carriage return (CRLF), so that '/bin/sh\\r' is looked for as its interpreter;"
        " remove them with sed -i 's/\\r$//' SCRIPT"
    )

    _refused(instance, f"#!/bin/sh\r\n#DOCKER {odd}:good\r\necho started\r\n", sentence)


@pytest.mark.parametrize("directory", ["/root", "/root/x"])
def test_closed_work_directory(instance: Instance, odd: str, directory: str) -> None:
    """A directory of the image that its user may not be in."""
    script = f"#!/bin/sh\n#DOCKER -w {directory} {odd}:good\necho started\n"

    _refused(
        instance,
        script,
        f"image 'docker.io/{odd}:good': the work directory {directory} is closed to you; choose one that you may enter with"
        " --workdir, or mount one there with --volume",
    )


def test_work_directory_that_is_a_file(instance: Instance, odd: str) -> None:
    """The engine would make a directory, and cannot."""
    script = f"#!/bin/sh\n#DOCKER -w /bin/busybox {odd}:good\necho started\n"

    _refused(
        instance,
        script,
        f"image 'docker.io/{odd}:good': the work directory /bin/busybox is no directory; choose another with --workdir",
    )


WORKS = {
    "--entrypoint 'sh -c'": "",
    "--entrypoint '/bin/sh -ec'": "",
    "--entrypoint sh": "",
    "--entrypoint /bin/sh": "",
    "--entrypoint env": "",
    "--entrypoint '/usr/bin/env A=b'": "",
    "--entrypoint /bin/pass": "passed /bin/sh\n",
    "--entrypoint '/bin/pass /usr/bin/env'": "passed /usr/bin/env\n",
    "--entrypoint ''": "",
    "-w /tmp": "",
    "-w /made/by/the/engine": "",
}


@pytest.mark.parametrize("options", WORKS)
def test_near_misses(instance: Instance, odd: str, options: str) -> None:
    """What can be run is, also an entry point in several words, or one that is a shell."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {options} {odd}:good\necho started; umask\nexit 3\n")

    assert (done.stdout.decode(), done.stderr) == (f"{WORKS[options]}started\n0077\n", b"")
    assert done.exit_status == 3


@pytest.mark.parametrize("line", ["#!/usr/bin/env sh", "", "# no interpreter", "#!/bin/sh -e"])
def test_near_misses_of_first_lines(instance: Instance, odd: str, line: str) -> None:
    """Whatever a shell takes."""
    done = instance.run(f"{line}\n#DOCKER {odd}:good\necho started\n")

    assert (done.exit_status, done.stdout, done.stderr) == (0, b"started\n", b"")


def test_entrypoint_that_is_a_link_to_itself(instance: Instance, odd: str) -> None:
    """Walked as the kernel would."""
    script = f"#!/bin/sh\n#DOCKER --entrypoint /bin/around {odd}:good\necho started\n"
    why = "/bin/around leads through too many symbolic links; name a program that it has"

    _refused(instance, script, f"image 'docker.io/{odd}:good': the entry point: {why}")


def test_entrypoint_in_a_mount(instance: Instance, odd: str) -> None:
    """The user's own files are not looked through: what the kernel says is told."""
    path = Path(_HOME) / "entry"
    path.write_text("#!/bin/sh\n")
    try:
        script = f"#!/bin/sh\n#DOCKER --entrypoint {path} {odd}:good\necho started\n"
        _refused(instance, script, f"image 'docker.io/{odd}:good': {path} cannot be run: Permission denied")
    finally:
        path.unlink()
