"""How a run hook lets Torque count its container's processes as the job's: by Torque's own tools."""

from __future__ import annotations

import os

_SIGKILL = 9


class Adoption:
    """Torque's tools for a container's session, run in order. ``done``: Torque counts the session."""

    def __init__(self, job_id: str, hook: str) -> None:
        self.done = False
        self._job_id = job_id
        self._hook = hook
        self._tools: list[list[str]] = []
        self._pid: int | None = None

    def plan(self, tool: str, pid: int, task: str) -> None:
        """Note how Torque is to adopt the session of process *pid* by *tool*, behind a task that takes a place in mom's
        task file.

        Mom files an adopted task under its number modulo 900000000, which is the number of the newest task it has
        started (task_save, adoptSession in its mom_comm.c). That of a job with one task is the job's own shell: a mom
        that is restarted would no longer know it, and the job would stay in state R for ever (observed).
        """
        if not tool or pid <= 0:
            return
        starter = tool[: tool.rfind("/") + 1] + "pbsdsh"
        if self._hook and not task and os.access(starter, os.X_OK):
            self._tools.append([starter, "-n", "0", self._hook])
        self._tools.append([tool, "-j", self._job_id, "-a", str(pid)])

    @property
    def is_due(self) -> bool:
        """Whether a tool is to be run and none runs."""
        return bool(self._tools) and self._pid is None

    def run_next(self) -> bool:
        """Start the next tool; False if it cannot be started, and then no other will be."""
        argv = self._tools.pop(0)
        null = os.open(os.devnull, os.O_RDWR)
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        environment = {key: value for key, value in os.environ.items() if key.startswith("PBS_") or key == "PATH"}
        try:
            self._pid = os.posix_spawn(
                argv[0], argv, environment, file_actions=actions, setsigdef=range(1, 32), setsigmask=()
            )
        except OSError:
            self._tools.clear()
            return False
        finally:
            os.close(null)
        return True

    def reap(self) -> int | None:
        """The exit code of the last tool, if it has ended just now."""
        if self._pid is None:
            return None
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return None
        self._pid = None
        if self._tools:
            return None  # the relay's loop goes on with the next one
        self.done = status == 0
        return os.waitstatus_to_exitcode(status)

    def forget(self) -> None:
        """Run no further tool."""
        self._tools.clear()

    def stop(self) -> None:
        """Kill the tool that runs: there is nothing to count any more."""
        if self._pid is not None:
            os.kill(self._pid, _SIGKILL)
            os.waitpid(self._pid, 0)
