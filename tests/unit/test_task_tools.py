"""What containers of a job of several nodes are given to start commands on the others, on a node of fakes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pbsdock.agent import task_tools
from pbsdock.core.record import Record, State
from pbsdock.rm.base import ClientTool
from tests.unit.fakes import FakeNode, fake_node, known
from tests.unit.test_policy import _plan

_PLAN = replace(_plan("alpine:3"), image="alpine:3", network="host")
_BIN = "/run/pbsdock/tools/bin"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    """One with a tm-agent, and a pbsdsh with one library."""
    made = fake_node(tmp_path)
    agent = task_tools.program(made.paths)
    agent.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/true", agent)
    agent.chmod(0o755)
    tool = ClientTool(program="/bin/false", loader="/bin/true", libraries=(("libx.so.1", "/bin/cat"),))
    monkeypatch.setattr(made.rm, "task_client", lambda: (tool, ""))
    return made


def _record(node: FakeNode, *, nodes: int = 2, network: str = "host", **facts: object) -> Record:
    plan = replace(_PLAN, network=network)
    return known(node, State.READY, plan=plan, nodes=nodes, first_process=True, **facts)  # type: ignore[arg-type]


def test_a_directory_of_roots_own(node: FakeNode) -> None:
    """Made once; programs for all to run and nobody to change."""
    (((source, target),), _account) = task_tools.provide(node, _record(node))

    assert target == "/run/pbsdock/tools"
    found = {str(path.relative_to(source)): path for path in Path(source).rglob("*") if path.is_file()}
    assert set(found) == {"bin/tm-agent", "bin/pbsdsh", "libexec/pbsdsh", "lib/loader", "lib/libx.so.1"}
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o555}
    inode = Path(source).stat().st_ino
    assert task_tools.provide(node, _record(node)) == ([(source, target)], "")
    assert Path(source).stat().st_ino == inode


def test_only_for_several_nodes(node: FakeNode) -> None:
    """A job of one node pays nothing."""
    record = _record(node, nodes=1)

    assert task_tools.provide(node, record) == ([], "")
    assert task_tools.environment(node, record, {"PATH": "/bin"}) == {"PATH": "/bin"}


def test_another_version_is_another_directory(node: FakeNode) -> None:
    """A job that runs keeps what it has; what no job has is removed."""
    ((old,), _account) = task_tools.provide(node, _record(node))
    running = _record(node, own_files=(old,))
    agent = task_tools.program(node.paths)
    shutil.copy("/bin/cat", agent)

    ((new,), _account) = task_tools.provide(node, _record(node))

    assert new != old
    assert Path(old[0]).is_dir()
    running.note(own_files=())
    task_tools.provide(node, _record(node))
    assert not Path(old[0]).exists()
    assert Path(new[0]).is_dir()


@pytest.mark.parametrize("lacking", ["", "library"])
def test_without_a_client(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """None here, or with a library that others than root can change: an event says so, tm-agent is there all the same."""
    (tmp_path / "libx.so.1").touch(mode=0o666)
    (tmp_path / "libx.so.1").chmod(0o666)
    tool = ClientTool(program="/bin/false", libraries=(("libx.so.1", str(tmp_path / "libx.so.1")),))
    monkeypatch.setattr(
        node.rm, "task_client", lambda: (tool, "") if lacking else (None, "pbsdsh is not beside pbs_mom")
    )
    said: list[str] = []
    monkeypatch.setattr(node, "emit", lambda event, *_, **fields: said.append(f"{event}: {fields.get('reason')}"))

    (((source, _target),), _account) = task_tools.provide(node, _record(node))

    assert not (Path(source) / "libexec").exists()
    assert (Path(source) / "bin/tm-agent").exists()
    assert [line for line in said if line.startswith("tools.lacking: ")]
    assert ("is writable by others" in said[-1]) == bool(lacking)


def test_the_environment_of_the_first_node(node: FakeNode) -> None:
    """In front on PATH; defaults, but for what the job, the image or the script has chosen."""
    tools = (("/x", task_tools.TARGET), ("/y", task_tools.HOSTS))
    own = {"PATH": "/opt/mpi/bin:/bin", "PBS_NODEFILE": "/aux/7", "HYDRA_LAUNCHER": "ssh"}
    record = _record(node, own_files=tools, mpi_own=("OMPI_MCA_btl_tcp_if_include",))

    found = task_tools.environment(node, record, own)

    assert found["PATH"] == f"{_BIN}:/opt/mpi/bin:/bin"
    assert found["OMPI_MCA_plm_rsh_agent"] == f"{_BIN}/tm-agent"
    assert found["OMPI_MCA_orte_default_hostfile"] == task_tools.HOSTS
    assert found["HYDRA_LAUNCHER"] == "ssh"
    assert "HYDRA_LAUNCHER_EXEC" not in found
    assert "OMPI_MCA_btl_tcp_if_exclude" not in found


@pytest.mark.parametrize(("network", "own"), [("bridge", {"PBS_NODEFILE": "/aux/7"}), ("host", {})])
def test_where_no_launcher_runs(node: FakeNode, network: str, own: dict[str, str]) -> None:
    """On another network, and on a sister, which has no node file: nothing that could be in a launcher's way."""
    record = _record(node, network=network, own_files=(("/x", task_tools.TARGET), ("/y", task_tools.HOSTS)))

    assert task_tools.environment(node, record, own) == own | {"PATH": f"{_BIN}:{task_tools.USUAL_PATH}"}
