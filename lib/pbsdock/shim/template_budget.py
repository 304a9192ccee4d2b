"""What a template may cost: steps, output, texts made on the way. Pure."""

from __future__ import annotations

from pbsdock.shim.template_tokens import bad

STEPS = 200_000
OUTPUT_LIMIT = 4 * 1024 * 1024  # characters of all that is printed
MADE_LIMIT = 4 * 1024 * 1024  # characters of all texts made on the way
PAD_LIMIT = 1024  # blanks


class Budget:
    """What is left of steps, of output and of texts made. Raises BadTemplate when one is used up."""

    __slots__ = ("made", "output", "steps")

    def __init__(self) -> None:
        self.steps, self.output, self.made = STEPS, OUTPUT_LIMIT, MADE_LIMIT

    def step(self, count: int = 1) -> None:
        """Take steps."""
        self.steps -= count
        if self.steps < 0:
            raise bad(f"the template takes more than {STEPS} steps; write a simpler one")

    def print(self, text: str) -> None:
        """Print a text."""
        self.output -= len(text)
        if self.output < 0:
            raise bad(f"the output has more than {OUTPUT_LIMIT} characters; choose less with --filter or the template")

    def make(self, text: str) -> str:
        """Make a text on the way."""
        self.made -= len(text)
        if self.made < 0:
            raise bad("the template makes too long texts; write a simpler one")
        return text
