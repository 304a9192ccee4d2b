"""Errors that end a hook, by who can fix them."""

from __future__ import annotations

from enum import Enum


class Blame(Enum):
    """Who can fix it; decides where the sentence goes and what Torque is told."""

    USER = "user"
    NODE = "node"


class HookError(Exception):
    """Ends a job's way through the hooks.

    ``str()`` is the one sentence a person reads; ``code`` is stable and meant for machines; ``facts`` go to the
    event stream field by field.
    """

    blame = Blame.NODE

    def __init__(self, code: str, sentence: str, **facts: str | int | float) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.facts = facts


class Refusal(HookError):
    """The user's fault: recorded, told on the job's stderr, exit status 125, nothing started."""

    blame = Blame.USER


class NodeFault(HookError):
    """The node's fault: the job is requeued and the node goes out of service until it is healthy again."""

    blame = Blame.NODE


class BadValue(ValueError):
    """A value that is not written as its format has it; ``str()`` names it and says what is allowed."""
