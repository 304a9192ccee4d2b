"""What is read of a resource manager's cgroup of version 2, on a fake tree of plain files; no kernel takes part."""

from __future__ import annotations

from pathlib import Path

from pbsdock.core.facts import Level, Usage
from pbsdock.host.cgroup import managers

TASK = "system.slice/vm_slurmstepd.scope/job_7/step_batch/user/task_0"
OWN = Usage(memory_peak_bytes=1, cpu_seconds=0.1, io_read_bytes=5, io_write_bytes=6, pids_peak=1, limit_hit=False)
FILES = {
    "memory.peak": "5000\n",
    "memory.current": "4000\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "cpu.stat": "usage_usec 1500000\n",
    "pids.peak": "7\n",
    "pids.max": "40\n",
    "pids.current": "3\n",
    "pids.events": "max 0\n",
}


def _tree(top: Path, **changed: str) -> Path:
    (top / TASK).mkdir(parents=True)
    (top / "cgroup.controllers").write_text("cpu memory pids\n")
    for name, text in {**FILES, **{name.replace("_", ".", 1): text for name, text in changed.items()}}.items():
        (top / TASK / name).write_text(text)
    return top


def test_all_is_the_managers_fake_tree(tmp_path: Path) -> None:
    """Nothing stays in the cgroup that the container was moved out of."""
    sysfs = _tree(tmp_path)
    used = managers.counted(OWN, TASK, sysfs)
    assert (used.memory_peak_bytes, used.cpu_seconds, used.pids_peak, used.pids_hit) == (5000, 1.5, 7, False)
    assert (used.io_read_bytes, used.io_write_bytes) == (None, None)
    assert (used.oom_kills, used.limit_hit, used.oom_at) == (0, False, None)
    assert managers.level(Level(memory_bytes=1, pids=1), TASK, sysfs) == Level(memory_bytes=4000, pids=3)


def test_what_was_killed_was_at_the_jobs_limit_fake_tree(tmp_path: Path) -> None:
    """Which the manager has set above: the task's own count has kills, and no limit that was met."""
    sysfs = _tree(tmp_path, memory_events="max 0\noom 0\noom_kill 1\n", pids_events="max 2\n")
    used = managers.counted(OWN, TASK, sysfs)
    assert (used.oom_kills, used.limit_hit, used.oom_at, used.pids_hit) == (1, True, "job", True)


def test_what_is_gone_is_not_known_fake_tree(tmp_path: Path) -> None:
    """slurmstepd removes the cgroup with its step."""
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    assert managers.counted(OWN, TASK, tmp_path) == Usage()
    assert managers.level(Level(memory_bytes=1, pids=1), TASK, tmp_path).memory_bytes is None
