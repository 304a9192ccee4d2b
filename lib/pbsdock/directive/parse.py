"""The ``#DOCKER`` directive: a small grammar in comment lines of a job script's header. Pure.

All errors of a script are reported at once, each as ``script:LINE:COLUMN: sentence``. Nothing here is ever given to a
shell or to Docker's command line; only five variables expand, and only after the policy knows the job. A script costs
time and memory by its directive's size, not by its own: no list of its lines is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from pbsdock.directive.draft import Draft
from pbsdock.directive.options import LINE_LIMIT, read_line
from pbsdock.directive.tokens import VARIABLE
from pbsdock.directive.types import Directive, DirectiveError, Problem, TmpfsOption, Volume
from pbsdock.directive.values import VALUE_LIMIT
from pbsdock.rm.base import Words

__all__ = [
    "LINE_LIMIT",
    "SCRIPT_LIMIT",
    "VALUE_LIMIT",
    "Directive",
    "DirectiveError",
    "Problem",
    "TmpfsOption",
    "TooLong",
    "Volume",
    "directive_lines",
    "directive_text",
    "expand",
    "late_line",
    "late_sentence",
    "parse_options",
    "parse_script",
]

SCRIPT_LIMIT = 16 * 1024 * 1024  # bytes
DIRECTIVE_LINES = 256
DIRECTIVE_LIMIT = 64 * 1024  # bytes of all #DOCKER lines
EXPANDED_LIMIT = 256 * 1024  # characters of all values in which variables expand: a short $NAME may be a long text
_SHOWN_LIMIT, _SHOWN_LINES = 2000, 16  # of what is shown to a person: bytes, lines
_NEAR_MISSES = 1000  # comments looked at for a misspelled directive
_WORD = b"#DOCKER"
# The word in any case at the start of a line, then a blank of any kind (a no-break space is told) or the end.
_MARK = re.compile(rb"^#docker(?=[\s\x00]|\xc2\xa0|$)", re.IGNORECASE | re.MULTILINE)
# Lines with UTF-8's byte order mark, which neither the kernel nor a shell takes for nothing.
_HIDDEN = re.compile(rb"^\xef\xbb\xbf(?=[#\s]|$)", re.MULTILINE)
_HIDDEN_DIRECTIVE = re.compile(rb"^\xef\xbb\xbf#DOCKER(?=\s|$)", re.MULTILINE)
_LATE = re.compile(rb"^#DOCKER(?=[\s\x00]|\xc2\xa0|$)", re.MULTILINE)
# What is hidden behind a byte order mark is told, and so ends no head.
_COMMAND = re.compile(rb"^(?:\xef\xbb\xbf(?=[#\s]))?+[ \t\r\v\f]*+[^#\s]", re.MULTILINE)
_OPTION = re.compile(rb"--?[A-Za-z]")
_PLAIN_DOLLAR = re.compile(rf"\$\$|{VARIABLE.pattern}")


def parse_script(
    data: bytes, words: Words, filename: str = "script", *, refuses_late: bool = False
) -> Directive | None:
    """Parse a whole job script; None if it has no ``#DOCKER`` line at its head, among the comments.

    Raises DirectiveError.
    *words* are those of the resource manager that runs the job; *refuses_late*: whether a ``#DOCKER`` line after the
    first command is an error, instead of no directive.
    """
    draft = Draft(filename, words)
    if len(data) > SCRIPT_LIMIT:
        draft.wrong(1, 1, f"the script has {len(data)} bytes; at most {SCRIPT_LIMIT} are taken")
        raise DirectiveError(filename, draft.problems)
    header = _header(data)
    number, seen, first, count, size, misses = 1, 0, 0, 0, 0, 0
    for mark in _MARK.finditer(data, 0, header):
        if mark.group() != _WORD:
            misses += 1
            if misses > _NEAR_MISSES:
                continue
        number += data.count(b"\n", seen, mark.start())
        seen = mark.start()
        line = _line_at(data, seen)
        if mark.group() != _WORD:
            if _is_near_miss(line[len(_WORD) :]):
                draft.unreadable(number, 1, "did you mean #DOCKER? a directive is written in capital letters")
        else:
            first, count, size = first or number, count + 1, size + len(line)
            if size > DIRECTIVE_LIMIT:
                said = f"the #DOCKER lines up to this one have {size} bytes; at most {DIRECTIVE_LIMIT} are taken"
                draft.unreadable(number, 1, said)
                break
            if count > DIRECTIVE_LINES:
                draft.unreadable(number, 1, f"a script has at most {DIRECTIVE_LINES} #DOCKER lines")
            else:
                read_line(draft, line, number, len(_WORD))
        if draft.is_full or count > DIRECTIVE_LINES:
            break
    _tell_byte_order_marks(draft, data, header, has_directive=bool(first))
    if refuses_late and (late := late_line(data)):
        draft.unreadable(late, 1, "this #DOCKER line comes after the first command; move it up among the comments")
    if not first and not draft.problems:
        return None
    return _finish(draft, first, "#DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'")


def _header(data: bytes) -> int:
    """Where the comments at the head end: at the first line that is neither blank nor a comment."""
    command = _COMMAND.search(data)
    return command.start() if command else len(data)


def directive_text(data: bytes) -> str:
    """The ``#DOCKER`` lines at the head as written, right or wrong, for a person to read: as much as fits."""
    found: list[str] = []
    size = 0
    for mark in _MARK.finditer(data, 0, _header(data)):
        line = _line_at(data, mark.start())[:_SHOWN_LIMIT]
        size += len(line)
        if size > _SHOWN_LIMIT or len(found) == _SHOWN_LINES:
            found.append("…")
            break
        found.append(line.decode("utf-8", "replace"))
    return "\n".join(found)


def directive_lines(data: bytes) -> str:
    """The ``#DOCKER`` lines at the head, whole: what another node reads as a script to come to the same."""
    marks = (mark for mark in _MARK.finditer(data, 0, _header(data)) if mark.group() == _WORD)
    return "".join(f"{_line_at(data, mark.start()).decode('utf-8', 'surrogateescape')}\n" for mark in marks)


def late_line(data: bytes) -> int:
    """The number of the first ``#DOCKER`` line after the first command, which is no directive; 0 if there is none."""
    mark = _LATE.search(data, _header(data))
    return 0 if mark is None else data.count(b"\n", 0, mark.start()) + 1


def late_sentence(line: int, *, contained: bool = False) -> str:
    """What is said of such a line where it is let be; *contained*: the script has a directive as well."""
    so = "" if contained else ", and the job runs without a container"
    return (
        f"line {line}: a #DOCKER line after the script's first command is no directive{so}; one that is meant belongs"
        " among the comments at the head"
    )


def _tell_byte_order_marks(draft: Draft, data: bytes, header: int, *, has_directive: bool) -> None:
    """Tell what no editor shows and what keeps a line of the head from being read as what it looks like."""
    if not has_directive and not _HIDDEN_DIRECTIVE.search(data, 0, header):
        return
    for mark in _HIDDEN.finditer(data, 0, header):
        number = data.count(b"\n", 0, mark.start()) + 1
        rest = data[mark.end() : mark.end() + len(_WORD)]
        hidden = "'#!', which names no interpreter then" if rest[:2] == b"#!" else "this line's first character"
        hidden = "#DOCKER, which is no directive then" if rest == _WORD else hidden
        draft.unreadable(
            number,
            1,
            f"a UTF-8 byte order mark (the invisible bytes EF BB BF) stands before {hidden}; remove it, for example"
            f" with sed -i '{number}s/^\\xEF\\xBB\\xBF//' SCRIPT",
        )
        if draft.is_full:
            return


def _line_at(data: bytes, start: int) -> bytes:
    end = data.find(b"\n", start)
    return data[start : end if end >= 0 else len(data)].removesuffix(b"\r")


def _is_near_miss(rest: bytes) -> bool:
    """Whether a comment like ``#docker busybox`` could be a directive: one word or an option, not a sentence."""
    words = rest[:LINE_LIMIT].split()
    options = [word for word in words if _OPTION.match(word)]
    return bool(options) or len(words) == 1


def parse_options(text: str, words: Words, filename: str = "PBSDOCK") -> Directive:
    """Parse a directive's text without a script: ``PBSDOCK='IMAGE options'``. Raises DirectiveError."""
    draft = Draft(filename, words)
    # A lone surrogate, Python's way to keep bytes that are not UTF-8, is then told as such bytes are in a script.
    read_line(draft, text.encode("utf-8", "surrogatepass"), 1, 0)
    return _finish(draft, 1, "no image is named; write '[options] IMAGE[:TAG]'")


def _finish(draft: Draft, first: int, no_image: str) -> Directive:
    if draft.image is None and not draft.unsure:
        draft.wrong(first, 1, no_image)
    if draft.problems or draft.image is None or draft.reference is None:
        raise DirectiveError(draft.filename, draft.problems)
    pull = draft.single.get("pull")
    return Directive(
        image=draft.reference,
        image_text=draft.image.text,
        line=draft.image.line,
        column=draft.image.column,
        filename=draft.filename,
        volumes=tuple(draft.volumes),
        workdir=draft.single.get("workdir"),
        env=tuple(draft.env.items()),
        entrypoint=draft.single.get("entrypoint") or None,
        network=draft.single.get("network"),
        shm_size=draft.shm_size,
        tmpfs=tuple(draft.tmpfs),
        read_only="read-only" in draft.single,
        no_home="no-home" in draft.single,
        pull=pull if pull in ("never", "missing", "always") else None,  # type: ignore[arg-type]  # narrowed by value
        platform=draft.single.get("platform"),
        gpus=draft.single.get("gpus"),
        s3=tuple(draft.s3),
        stage_in=tuple(draft.stage_in),
        stage_out=tuple(draft.stage_out),
        where={option: tuple(places) for option, places in draft.where.items()},
    )


class TooLong(ValueError):
    """The values have more than ``EXPANDED_LIMIT`` characters once their variables are filled in."""


def expand(directive: Directive, variables: Mapping[str, str]) -> Directive:
    """Fill in the five variables. Raises TooLong, and KeyError with the name of one that this job does not have.

    What comes out is a value, not a spelling: a colon or a dollar sign in a variable is an ordinary character.
    """

    left = EXPANDED_LIMIT

    def expand(match: re.Match[str]) -> str:
        nonlocal left
        value = "$" if match.group() == "$$" else variables[match.group(1) or match.group(2)]
        left -= len(value)
        if left < 0:
            raise TooLong
        return value

    def fill(text: str) -> str:
        nonlocal left
        left -= len(text)
        return _PLAIN_DOLLAR.sub(expand, text)

    return replace(
        directive,
        volumes=tuple(replace(each, source=fill(each.source), target=fill(each.target)) for each in directive.volumes),
        workdir=fill(directive.workdir) if directive.workdir else None,
        env=tuple((name, fill(value) if value is not None else None) for name, value in directive.env),
        tmpfs=tuple(replace(each, target=fill(each.target)) for each in directive.tmpfs),
        stage_in=tuple((fill(url), fill(path)) for url, path in directive.stage_in),
        stage_out=tuple((fill(path), fill(url), when) for path, url, when in directive.stage_out),
    )
