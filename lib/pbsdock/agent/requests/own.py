"""Whose job a request is about."""

from __future__ import annotations

from pbsdock.agent.runs import Run
from pbsdock.agent.session import Session
from pbsdock.core.errors import BadValue, Refusal
from pbsdock.core.record import Record
from pbsdock.protocol import wire


class OwnRequests:
    """What all requests about a job of the peer's own have in common."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.node = session.node

    def _own(self, message: wire.Message) -> Record | None:
        """The newest record of the job asked about, if it is the peer's own."""
        try:
            job_id = self.node.rm.job_id(message.text("job"))
        except BadValue as error:
            raise Refusal("bad-job-id", str(error)) from None
        record = self.node.jobs.newest(job_id)
        if record is not None and record.uid != self.session.peer.uid:
            self.node.emit("client.refused", record, level="warning", uid=self.session.peer.uid, op=message.op)
            raise Refusal("not-your-job", f"job {job_id} belongs to another user")
        return record

    def _mine(self, message: wire.Message) -> Run:
        record = self._own(message)
        task = message.text("task")
        if record is not None and task and (found := self.node.jobs.run(f"{record.incarnation}/{task}")) is not None:
            return found
        running = self.node.jobs.run(task or record.incarnation) if record else None
        if running is None or record is None or running.record.incarnation != record.incarnation:
            raise Refusal("not-running", f"job {message.text('job')} has nothing running here")
        return running
