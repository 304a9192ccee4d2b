"""``docker pull``: an image made present by the site's policy, with the logins a ``#DOCKER`` line would have."""

from __future__ import annotations

from pbsdock.agent import logins
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, out
from pbsdock.policy.decide import effective
from pbsdock.policy.narrow import to_pull
from pbsdock.shim.commands import Pull


def pull(at: Context, asked: Pull) -> Steps:
    """Fetch it, as Docker does: also where it is here. Raises Refusal, NodeFault."""
    node = at.node
    plan = to_pull(at.job, asked.image, node.config, node.host())
    settings = effective(node.config, plan).images
    reference = plan.image
    if not asked.quiet:
        yield out(f"{asked.image.tag or asked.image.digest}: Pulling from {asked.image.repository}\n")
    with logins.asker(node.config.engine.docker_config, settings, plan) as asker:
        image = node.images.ensure(
            reference,
            pull="always",
            platform=asked.platform,
            inactivity_s=settings.inactivity_s,
            total_s=settings.total_s,
            max_bytes=settings.max_bytes,
            asker=asker,
        )
    if not asked.quiet:
        digest = (image.digest or "").rpartition("@")[2]
        yield out(f"Digest: {digest}\nStatus: Image is up to date for {asked.image_text}\n")
    yield out(f"{reference}\n")
    return 0
