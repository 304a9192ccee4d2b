"""What mkdocs calls while it builds the site (mkdocs.yml, ``hooks``).

Pages that are not in ``docs/`` are taken from where they are, so that nothing is written twice; and Markdown is made to
mean what it means on GitHub, by which the pages are written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("mkdocs.hooks.pages")  # a warning of it is an error, as of mkdocs itself
# Page of the site -> the file of the repository.
ELSEWHERE = {
    "about.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
    "first-process.md": "init/README.md",
}
# A link's target as written in the repository -> the same on the site.
_TARGETS = {"examples": "examples.md", "examples/": "examples.md", "init/": "first-process.md", "LICENSE": "#"}
_TARGETS |= {file: page for page, file in ELSEWHERE.items()}
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
_LIST = re.compile(r"(?:[-*]|\d+\.) ")
# What a reader sees where Python-Markdown has not taken for a table, a list or a fence what GitHub does.
_NOT_UNDERSTOOD = re.compile(r"<p>(?:(?!</p>).)*?(?:\|\s*-{3}|\n[-*] |```)", re.DOTALL)

_FETCHED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^>]*>|class="mermaid"')


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of elsewhere."""
    for page, name in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    files.append(File.generated(config, "examples.md", content="\n".join(_examples())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has them, and blank lines where Python-Markdown needs them."""
    base = Path(ELSEWHERE.get(page.file.src_uri, "docs/page.md")).parent
    return "\n".join(_spaced(_LINK.sub(lambda found: _target(base, found[1]), markdown).splitlines()))


def on_post_page(output: str, page: Any, **_: Any) -> None:
    """Warn of what a browser would fetch from elsewhere. The theme's program does so for Mermaid's diagrams."""
    if found := _FETCHED.search(output):
        LOG.warning("%s: not from here: %s", page.file.src_uri, found[0])


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """Warn of what came out as plain text."""
    outside = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)
    if found := _NOT_UNDERSTOOD.search(outside):
        LOG.warning("%s: neither table, list nor code: %r", page.file.src_uri, found[0][-80:])


def _examples() -> Iterator[str]:
    yield "# Examples"
    for path in sorted((ROOT / "examples").glob("*.sh")):
        yield f"\n## {path.name}\n```sh\n{path.read_text()}```"


def _target(base: Path, written: str) -> str:
    """*written* in a file of the repository's directory *base*."""
    parts: list[str] = []
    for part in (base / written).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    path = "/".join(parts)
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return _TARGETS.get(path, _TARGETS.get(f"{path}/", written))


def _spaced(lines: list[str]) -> Iterator[str]:
    """A blank line between a list, a table or a fence and the paragraph or fence that is right before it."""
    inside = False  # of a fence
    before = ""
    for line in lines:
        fence = line.startswith("```")
        begins = (
            (fence and not inside)
            or (line.startswith("|") and not before.startswith("|"))
            or (_LIST.match(line) and not _LIST.match(before) and not before.startswith(" "))
        )
        after_fence = before == "```" and not inside
        if (begins and not inside and before.strip()) or (after_fence and line.strip()):
            yield ""
        inside ^= fence
        yield line
        before = line
