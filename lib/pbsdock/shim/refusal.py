"""How a command line is turned down, and the sizes beyond which none is read. Pure."""

from __future__ import annotations

from pbsdock.core.errors import Refusal

USAGE = 125  # what Docker's client ends with for a wrong option, whatever the command
FAILED = 1  # ... and for a wrong number of arguments, an unknown command, and most else


class ShimRefusal(Refusal):
    """A command line that is not carried out; ``status`` is the client's exit status, as Docker's own has it.

    ``code`` is ``docker-usage`` for what Docker itself would not take, ``docker-not-offered`` for what it would.
    """

    def __init__(self, sentence: str, status: int = USAGE, *, code: str = "docker-usage") -> None:
        super().__init__(code, sentence)
        self.status = status


def not_offered(what: str, why: str, status: int = USAGE) -> ShimRefusal:
    """The refusal of something Docker has and a job does not."""
    return ShimRefusal(f"{what} is not available in a job: {why}", status, code="docker-not-offered")
