"""What the admin's command asks for beside jobs: the node out of service and back, the configuration read again."""

from __future__ import annotations

import dataclasses
import json

from pbsdock.agent import image_use, logins
from pbsdock.agent.reload import BadFile, reload
from pbsdock.agent.session import Session
from pbsdock.core.errors import BadValue
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.protocol import wire

_PULL_S = 6 * 3600.0


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

    # -- images ------------------------------------------------------------------------------------------------------

    def images(self, _message: wire.Message) -> None:
        """All there are, the least recently used first."""
        cache = self.node.image_cache
        room = cache.room()
        told = {
            "images": [image_use.shown(kept) for kept in cache.listed()],
            "disk_bytes": room[0] if room else None,
            "free_bytes": room[1] if room else None,
        }
        self._answer(told)

    def pull(self, message: wire.Message) -> None:
        """Fetch an image by the site's login, whether the policy allows it to anybody or not."""
        reference = self._reference(message)
        settings = self.node.config.images
        with self.session.kept_waiting(), logins.site_asker(self.node.config.engine.docker_config) as asker:
            image = self.node.images.ensure(
                reference,
                pull="always" if message.number("always") else "missing",
                platform=None,
                inactivity_s=settings.inactivity_s,
                total_s=_PULL_S,
                asker=asker,
            )
        self._answer({"image": reference, "id": image.id, "digest": image.digest, "fetched": image.is_fetched})

    def pin(self, message: wire.Message) -> None:
        """Keep an image, or with *off* no longer; it need not be here yet."""
        reference, is_on = self._reference(message), not message.number("off")
        changed = self.node.image_cache.pin(reference, is_on=is_on)
        if changed:
            self.node.emit("image.pinned" if is_on else "image.unpinned", image=reference)
        self._answer({"image": reference, "changed": changed})

    def prune(self, message: wire.Message) -> None:
        """Remove what may go and was not used for so many seconds."""
        with self.session.kept_waiting():
            done = self.node.image_cache.prune(
                unused_s=float(message.number("unused_s")), is_trial=bool(message.number("dry_run"))
            )
        self._answer(dataclasses.asdict(done))

    @staticmethod
    def _reference(message: wire.Message) -> str:
        """The full one. Raises BadValue."""
        try:
            return parse_image(message.text("image")).canonical
        except BadImage as error:
            raise BadValue(str(error)) from None

    def _answer(self, told: object) -> None:
        self.session.answer(wire.Message("done", json=json.dumps(told)))
