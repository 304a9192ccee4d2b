"""What the admin's command asks for beside jobs: the node out of service and back, the configuration read again."""

from __future__ import annotations

import dataclasses
import json

from pbsdock.agent.reload import BadFile, reload
from pbsdock.agent.session import Session
from pbsdock.protocol import wire


class AdminRequests:
    """One method a request; they raise what :meth:`pbsdock.agent.session.Session.handle` tells the client."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.node = session.node

    def drain(self, message: wire.Message) -> None:
        """No new container jobs from now on."""
        drained = self.node.drain.set(message.text("reason"))
        self.node.emit("node.drained", reason=drained.reason, since=int(drained.since))
        self._answer({"drained": drained.to_dict(), "jobs": len(self.node.jobs.records())})

    def undrain(self, _message: wire.Message) -> None:
        """Take jobs again."""
        before = self.node.drain.clear()
        if before is not None:
            self.node.emit("node.undrained", since=int(before.since))
        self._answer({"was_drained": before is not None})

    def reload(self, _message: wire.Message) -> None:
        """Read the site's file again."""
        try:
            self._answer(dataclasses.asdict(reload(self.node)))
        except BadFile as error:
            self.session.answer(wire.Message("refused", code="bad-configuration", sentence=str(error)))

    def config(self, _message: wire.Message) -> None:
        """What is in force."""
        self._answer(dataclasses.asdict(self.node.config))

    def _answer(self, told: object) -> None:
        self.session.answer(wire.Message("done", json=json.dumps(told)))
