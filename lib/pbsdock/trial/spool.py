"""The files mom makes for a job, with its owners and modes, and what becomes of them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from xml.sax.saxutils import escape

from pbsdock.trial.environment import variable_list
from pbsdock.trial.nodes import exec_host
from pbsdock.trial.request import Job


class Spool:
    """The files of one job below mom_priv and beside it."""

    def __init__(self, mom_priv: Path, job: Job, *, join: bool = False) -> None:
        self.mom_priv = mom_priv
        self.job = job
        top, prefix = mom_priv.parent, job.id.file_prefix
        self.script = mom_priv / "jobs" / f"{prefix}.SC"
        self.job_file = mom_priv / "jobs" / f"{prefix}.JB"
        self.task_file = mom_priv / "jobs" / f"{prefix}.TK"
        self.out = top / "spool" / f"{prefix}.OU"
        self.err = self.out if join else top / "spool" / f"{prefix}.ER"
        self.nodefile = top / "aux" / job.id.text
        self.start_time = int(time.time())

    def make(self, script: bytes | None) -> None:
        """Make what exists before the prologue: all but .JB and .TK; an interactive job has no script."""
        for directory, mode in ((self.script.parent, 0o751), (self.out.parent, 0o1777), (self.nodefile.parent, 0o755)):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        self.start_time = int(time.time())
        lines = [f"{node.node}\n" * node.slots for node in self.job.placement]
        self._write(self.nodefile, "".join(lines).encode(), 0o644, owner=False)
        for path in (self.out, self.err):
            self._write(path, b"", 0o600)
        if script is not None:
            self._write(self.script, script, 0o700)
        if self.job.tmp:
            self.job.tmp.parent.mkdir(parents=True, exist_ok=True)
            self.job.tmp.mkdir(exist_ok=True)
            self.job.tmp.chmod(0o755)
            os.chown(self.job.tmp, self.job.entry.pw_uid, self.job.entry.pw_gid)

    def _write(self, path: Path, data: bytes, mode: int, *, owner: bool = True) -> None:
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            if owner:
                os.fchown(file.fileno(), self.job.entry.pw_uid, self.job.entry.pw_gid)

    def record(self, session: int | None, exit_status: int = 0) -> None:
        """Write .JB and .TK, as mom does once the prologue is over. Appears whole: others read it at any time."""
        new = self.job_file.with_suffix(".JB.new")
        self._write(new, job_file(self.job, session, exit_status, self.start_time).encode(), 0o644, owner=False)
        new.rename(self.job_file)
        self._write(self.task_file, b"", 0o600, owner=False)

    def output(self) -> tuple[bytes, bytes]:
        """What the user would get as .o and .e files."""
        return self.out.read_bytes(), self.err.read_bytes()

    def remove(self) -> None:
        """Remove everything; the job is over."""
        for path in (self.job_file, self.task_file, self.script, self.out, self.err, self.nodefile):
            path.unlink(missing_ok=True)
        if self.job.tmp:
            shutil.rmtree(self.job.tmp, ignore_errors=True)


def _attribute(name: str, value: str, flags: int = 1) -> str:
    return f'    <{name} flags="{flags}">{escape(value)}</{name}>\n'


def job_file(job: Job, session: int | None, exit_status: int, start_time: int, node: int = 0) -> str:
    """A .JB: elements, their order and flags as mom wrote them (observed). *node* is ``nodeid``, 1 ... on a sister.

    Variables are joined by commas that nothing escapes, and none is left if one holds a control character (observed).
    """
    pairs = [f"{name}={value}" for name, value in variable_list(job).items()]
    joined = "" if any(ord(letter) < 32 for pair in pairs for letter in pair) else ",".join(pairs)
    resources = "".join(f'      <{key} flags="3">{escape(value)}</{key}>\n' for key, value in job.resources.raw)
    attributes = [
        _attribute("Job_Name", job.name),
        _attribute("Job_Owner", f"{job.entry.pw_name}@{job.host}"),
        _attribute("job_state", "T"),
        _attribute("queue", job.queue),
        _attribute("server", job.host),
        _attribute("Checkpoint", "u"),
        _attribute("exec_host", exec_host(job.placement)),
        _attribute("exec_port", "+".join("15003" for _ in job.placement)),
        _attribute("interactive", "15099") if job.interactive else "",
        _attribute("Join_Path", "n"),
        _attribute("Keep_Files", "n"),
        _attribute("mtime", str(start_time)),
        f"    <Resource_List>\n{resources}    </Resource_List>\n",
        _attribute("session_id", str(session), 9) if session is not None else "",
        _attribute("Variable_List", joined),
        _attribute("euser", job.entry.pw_name),
        _attribute("egroup", job.group, 5),
        _attribute("hashname", job.id.file_prefix),
        _attribute("cookie", job.cookie),
        _attribute("start_time", str(start_time)),
        _attribute("fault_tolerant", "0"),
        _attribute("job_radix", "0"),
        _attribute("request_version", "1"),
    ]
    text = (
        '<?xml version="1.0"?>\n<job>\n  <version>131842</version>\n  <state>4</state>\n  <substate>42</substate>\n'
        f"  <server_flags>65569</server_flags>\n  <start_time>{start_time}</start_time>\n"
        f"  <jobid>{escape(job.id.text)}</jobid>\n  <fileprefix>{escape(job.id.file_prefix)}</fileprefix>\n  <queue/>\n"
        "  <destination_queue/>\n  <record_type>3</record_type>\n  <svr_addr>0</svr_addr>\n"
        f"  <exit_status>{exit_status}</exit_status>\n  <execution_uid>{job.entry.pw_uid}</execution_uid>\n"
        f"  <execution_gid>{job.entry.pw_gid}</execution_gid>\n  <attributes>\n{''.join(attributes)}  </attributes>\n"
        "  <socket_stdout>-1</socket_stdout>\n  <socket_stderr>-1</socket_stderr>\n  <taskid>2</taskid>\n"
        f"  <nodeid>{node}</nodeid>\n</job>"
    )
    return text.encode("utf-8", "replace").decode()
