"""The channel between two nodes that share munge, each with a real munged of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pbsdock.cluster.channel import ChannelError
from pbsdock.cluster.client import ask
from pbsdock.cluster.listener import Listener
from tests.support.munge import Munged, needs_munge, two_and_a_stranger
from tests.unit.test_cluster_channel import HERE, Events, job


@pytest.fixture
def munges(tmp_path: Path) -> Iterator[tuple[Munged, Munged, Munged]]:
    """Two nodes of one cluster, and a stranger."""
    with two_and_a_stranger(tmp_path) as found:
        yield found


@needs_munge
def test_by_munge(munges: tuple[Munged, Munged, Munged]) -> None:
    """Asked and answered; a stranger is not; a munged that is away is told as that, and the next question is answered."""
    node, other, stranger = munges
    events = Events()
    listener = Listener(node.signer, 0, HERE, {"job": job}, events)
    listener.start()
    try:
        for _ in range(3):
            assert ask(other.signer, HERE, listener.port, "job", "7.s", timeout_s=10, x=1)["asked"] == {"x": 1}
        with pytest.raises(ChannelError) as caught:
            ask(stranger.signer, HERE, listener.port, "job", "7.s", timeout_s=10)
        assert caught.value.code == "refused"
        node.stop()
        with pytest.raises(ChannelError) as caught:
            ask(other.signer, HERE, listener.port, "job", "7.s", timeout_s=10)
        assert caught.value.code == "refused"
    finally:
        listener.stop()
    assert "munge says: Error: Invalid credential" in events.reasons()[0]
    assert "munge cannot check a signature" in events.reasons()[1]
