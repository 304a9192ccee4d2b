"""``docker pull``, and the image of ``docker run``: made present by the site's policy, with the logins a ``#DOCKER``
line would have."""

from __future__ import annotations

from pbsdock.agent import logins
from pbsdock.agent.node import Node
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, out
from pbsdock.core.plan import Plan
from pbsdock.engine.images import Image
from pbsdock.policy.decide import effective
from pbsdock.policy.narrow import to_pull
from pbsdock.shim.commands import Pull


def fetched(node: Node, plan: Plan, *, tells: bool = True) -> Image:
    """The image of *plan*; *tells* as :meth:`pbsdock.engine.images.Images.ensure` has it. Raises Refusal, NodeFault,
    EngineError."""
    settings = effective(node.config, plan).images
    with logins.asker(node.config.engine.docker_config, settings, plan) as asker:
        return node.images.ensure(
            plan.image,
            pull=plan.pull,
            platform=plan.platform,
            inactivity_s=settings.inactivity_s,
            total_s=settings.total_s,
            max_bytes=settings.max_bytes,
            asker=asker,
            tells=tells,
        )


def pull(at: Context, asked: Pull) -> Steps:
    """Fetch it, as Docker does: also where it is here. Raises Refusal, NodeFault."""
    node = at.node
    plan = to_pull(at.job, asked.image, asked.platform, node.config, node.host())
    if not asked.quiet:
        yield out(f"{asked.image.tag or asked.image.digest}: Pulling from {asked.image.repository}\n")
    image = fetched(node, plan)
    if not asked.quiet:
        digest = (image.digest or "").rpartition("@")[2]
        yield out(f"Digest: {digest}\nStatus: Image is up to date for {asked.image_text}\n")
    yield out(f"{plan.image}\n")
    return 0
