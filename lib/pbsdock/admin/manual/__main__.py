"""``python -m pbsdock.admin.manual DIRECTORY VERSION``: write all of it below DIRECTORY, as below ``/usr/share``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pbsdock.admin.cli import parser_for
from pbsdock.admin.manual.completion import completion
from pbsdock.admin.manual.pages import SECTION, pages


def texts(version: str) -> dict[str, str]:
    """Path below ``/usr/share`` -> text."""
    parser = parser_for()
    made = {f"man/man{SECTION}/{name}": text for name, text in pages(parser, version).items()}
    made[f"bash-completion/completions/{parser.prog}"] = completion(parser, "bash")
    made[f"zsh/site-functions/_{parser.prog}"] = completion(parser, "zsh")
    return made


def main(argv: Sequence[str]) -> int:
    """Returns the exit code. Raises OSError."""
    directory, version = argv
    for name, text in texts(version).items():
        path = Path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
