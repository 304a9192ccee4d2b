"""What belongs to Docker stays in its room: everybody else speaks of containers in the terms of every engine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.core.plan import Limits
from pbsdock.engine.base import ContainerSpec
from pbsdock.engine.docker.host_config import DEFAULTED, SET, create_body
from tests.conftest import ROOT

LIBRARY = ROOT / "lib/pbsdock"
ROOM = "engine/docker/"
SHIM = "shim/"  # speaks as Docker's client does, whatever the engine, and so asks none

# file -> what of Docker's it may name, and why
ALLOWED: dict[str, tuple[set[str], str]] = {
    "engine/make.py": ({"pbsdock.engine.docker"}, "chooses the engine"),
    "engine/images.py": ({"Architecture"}, "asks the SDK's client for it, as pulls do for the rest"),
    "engine/pulls.py": (
        {"docker.errors", "progressDetail"},
        "a pull is a conversation with the SDK's client, down to its socket",
    ),
    "engine/registry.py": ({"docker.errors"}, "asks registries through the SDK's client"),
    "engine/credentials.py": ({"docker", "docker.errors"}, "whose login counts where is the SDK's to know"),
    "config/sections.py": ({"docker"}, "what jobs call the command they are given"),
    "admin/setup/host.py": ({"docker", "CgroupDriver"}, "asks the engine's own command, with no library installed yet"),
    "admin/setup/build.py": ({"docker"}, "tries whether every library can be imported"),
    "trial/namespaces.py": ({"docker"}, "gives each emulated node an engine, by the engine's own programs"),
    "host/cgroup/bus.py": ({"State"}, "systemd's property of a job"),
}

_SPEC = ContainerSpec(
    image_id="",
    argv=(),
    entrypoint=(),
    environment=(),
    uid=0,
    gid=0,
    groups=(),
    workdir="",
    tty=False,
    labels={},
    mounts=(),
    tmpfs=(),
    network="",
    limits=Limits(memory_bytes=None, memory_swap_bytes=None, cpu_millis=None, cpuset=None, pids=1, shm_bytes=1),
    cgroup_parent="",
    devices=(),
    gpus=(),
    rlimits={},
    oom_score_adj=0,
    read_only_root=False,
    sysctls={},
)
# Of the container-create body, and of the answers to the calls that are made (the Engine API reference, 1.41), less what
# is also said by others: Config, Error, Action.
FIELDS = (
    SET
    | DEFAULTED
    | set(create_body(_SPEC))
    | {"State", "Running", "Pid", "ExitCode", "OOMKilled", "StartedAt", "FinishedAt", "Status", "RootFS"}
    | {"ContainerID", "ExecIDs", "RepoDigests", "RepoTags", "Architecture", "Created", "Names", "Detach"}
    | {"CgroupDriver", "CgroupVersion", "DockerRootDir", "SecurityOptions", "LiveRestoreEnabled", "ServerVersion"}
    | {"Components", "Actor", "Attributes", "execID", "exitCode", "exec_die", "timeNano", "progressDetail"}
)
# Those no other program has, also within a longer text such as a template of `docker inspect`.
_DISTINCT = re.compile(
    r"\b(HostConfig|OOMKilled|RepoDigests|CgroupDriver|CgroupVersion|DockerRootDir|SecurityOptions|LiveRestoreEnabled"
    r"|ServerVersion|ContainerID|CgroupParent|exec_die)\b"
)


def names_of_docker(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of what is Docker's in a module: imports, keys and programs, but not what prose says."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # "from pbsdock.engine import docker" too
            found = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            text = node.value
            yield from ((node.lineno, name) for name in _DISTINCT.findall(text) if name != text)
            if text in FIELDS or text == "docker":
                yield node.lineno, text
            if re.search(r"^import .*\bdocker\b", text):
                yield node.lineno, "docker"
            continue
        else:
            continue
        for name in found:
            if name.startswith("pbsdock.engine.docker"):
                yield node.lineno, "pbsdock.engine.docker"
            elif name.split(".")[0] == "docker":
                yield node.lineno, name if name in ("docker", "docker.errors") else "docker"


def _modules() -> list[Path]:
    rooms = (LIBRARY / ROOM, LIBRARY / SHIM)
    return sorted(path for path in LIBRARY.rglob("*.py") if not any(path.is_relative_to(room) for room in rooms))


@pytest.mark.parametrize("path", _modules(), ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_names_of_docker_stay_in_its_room(path: Path) -> None:
    """Another engine is another package beside Docker's, and nothing else changes."""
    allowed, _why = ALLOWED.get(path.relative_to(LIBRARY).as_posix(), (set(), ""))

    assert [f"{path}:{line}: {name}" for line, name in names_of_docker(path.read_text()) if name not in allowed] == []


def test_the_shim_imports_no_engine() -> None:
    """Its names are those of a command line and its output; it is pure."""
    for path in (LIBRARY / SHIM).glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert [
            name
            for _, name in names_of_docker(
                "\n".join(line.removesuffix("(") + ("a" if line.endswith("(") else "") for line in lines)
            )
        ] == [], path
        assert not any("subprocess" in line or "socket" in line or " os" in line for line in lines), path


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_needed(name: str) -> None:
    """An exception that is over is taken away again."""
    assert {found for _, found in names_of_docker((LIBRARY / name).read_text())} == ALLOWED[name][0]


def test_the_room_is_full_of_them() -> None:
    """Else this would find nothing anywhere."""
    found = {name for path in (LIBRARY / ROOM).glob("*.py") for _, name in names_of_docker(path.read_text())}
    assert {"docker", "docker.errors", "HostConfig", "State", "DockerRootDir", "RepoDigests", "Labels"} <= found


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("import docker", ["docker"]),
        ("import docker.errors as errors", ["docker.errors"]),
        ("from docker.errors import APIError", ["docker.errors", "docker"]),
        ("from pbsdock.engine.docker.api import Engine", ["pbsdock.engine.docker"] * 2),
        ("from pbsdock.engine import docker", ["pbsdock.engine.docker"]),
        ('found["State"]', ["State"]),
        ('found.get("State", {})', ["State"]),
        ('run(["docker", "info", "-f", "{{.CgroupDriver}}"])', ["docker", "CgroupDriver"]),
        ('f"{name}.{{HostConfig}}"', ["HostConfig"]),
        ('"""The HostConfig of docker."""', []),
        ('print("the Docker engine does not answer")', []),
    ],
)
def test_what_counts(line: str, names: list[str]) -> None:
    """Every way to name one; sentences may speak of Docker."""
    assert sorted(name for _, name in names_of_docker(line)) == sorted(names)
