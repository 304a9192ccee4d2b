"""The ``#DOCKER`` directive: a small grammar in comment lines of a job script's header. Pure.

All errors of a script are reported at once, each as ``script:LINE:COLUMN: sentence``. Nothing here is ever given to a
shell or to Docker's command line; only five variables expand, and only after the policy knows the job.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pbsdock.image_ref import BadImage, ImageRef, parse_image
from pbsdock.options import ALIASES, FLAGS, OPTIONS, REFUSED, VARIABLES
from pbsdock.torque import BadValue, parse_size

LINE_LIMIT = 4096
VALUE_LIMIT = 1024
SCRIPT_LIMIT = 16 * 1024 * 1024
_WORD = b"#DOCKER"
_NEAR_MISS = re.compile(rb"#(?:docker|Docker|DOCKER)[ \t]+(?:-|[a-z0-9./_-]+[:/][^ ]*[ \t]*$)")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_KERNEL_PATHS = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """``--volume SOURCE:TARGET[:ro|rw]``."""

    source: str
    target: str
    read_only: bool
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsOption:
    """``--tmpfs PATH[:size=SIZE]``; bytes."""

    target: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """What the script asks for. ``where`` maps an option's name to its (line, column)."""

    image: ImageRef
    line: int
    column: int
    filename: str = "script"
    volumes: tuple[Volume, ...] = ()
    workdir: str | None = None
    env: tuple[tuple[str, str | None], ...] = ()
    entrypoint: str | None = None
    network: str | None = None
    shm_size: int | None = None
    tmpfs: tuple[TmpfsOption, ...] = ()
    read_only: bool = False
    pull: Literal["never", "missing", "always"] | None = None
    platform: str | None = None
    gpus: str | None = None
    store: tuple[str, ...] = ()  # --s3, --stage-in, --stage-out as written
    where: tuple[tuple[str, int, int], ...] = ()

    def at(self, option: str) -> str:
        """``script:4:9`` of an option, for a sentence."""
        for name, line, column in self.where:
            if name == option:
                return f"{self.filename}:{line}:{column}"
        return f"{self.filename}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error of a script, where it is and what to do."""

    line: int
    column: int
    message: str


class DirectiveError(ValueError):
    """All errors of a script; ``str()`` is one line each."""

    def __init__(self, filename: str, problems: list[Problem]) -> None:
        self.filename = filename
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(f"{filename}:{one.line}:{one.column}: {one.message}" for one in self.problems))


@dataclass(slots=True)
class _Token:
    text: str
    line: int
    column: int


@dataclass(slots=True)
class _Draft:
    """What has been read so far."""

    filename: str
    problems: list[Problem] = field(default_factory=list)
    image: _Token | None = None
    reference: ImageRef | None = None
    volumes: list[Volume] = field(default_factory=list)
    env: list[tuple[str, str | None]] = field(default_factory=list)
    tmpfs: list[TmpfsOption] = field(default_factory=list)
    store: list[str] = field(default_factory=list)
    single: dict[str, str] = field(default_factory=dict)
    shm_size: int | None = None
    where: list[tuple[str, int, int]] = field(default_factory=list)

    def wrong(self, token: _Token, message: str, offset: int = 0) -> None:
        self.problems.append(Problem(token.line, token.column + offset, message))


def parse_script(data: bytes, filename: str = "script") -> Directive | None:
    """Parse a whole job script; None if it has no ``#DOCKER`` line. Raises DirectiveError."""
    draft = _Draft(filename)
    if len(data) > SCRIPT_LIMIT:
        draft.problems.append(Problem(1, 1, f"the script has {len(data)} bytes; at most {SCRIPT_LIMIT} are taken"))
        raise DirectiveError(filename, draft.problems)
    header, first, found = True, 0, False
    for number, raw in enumerate(data.split(b"\n"), start=1):
        line = raw.removesuffix(b"\r")
        if header and line.strip() and not line.lstrip().startswith(b"#"):
            header = False
        is_ours = line[: len(_WORD)] == _WORD and line[len(_WORD) : len(_WORD) + 1] in (b"", b" ", b"\t")
        if not is_ours:
            if header and _NEAR_MISS.match(line) is not None and not line.startswith(_WORD):
                draft.problems.append(Problem(number, 1, "a directive begins with #DOCKER in capital letters"))
                found = True
            continue
        found, first = True, first or number
        if header:
            _read_line(draft, line, number)
        else:
            draft.problems.append(
                Problem(number, 1, "this #DOCKER line comes after the first command; move it up among the comments")
            )
    if not found:
        return None
    return _finish(draft, first or 1)


def parse_options(text: str, filename: str = "PBSDOCK") -> Directive:
    """Parse a directive's text without a script: ``PBSDOCK='IMAGE options'``. Raises DirectiveError."""
    draft = _Draft(filename)
    _read_line(draft, text.encode("utf-8", "surrogateescape"), 1, start=0)
    return _finish(draft, 1)


def _read_line(draft: _Draft, line: bytes, number: int, start: int = len(_WORD)) -> None:
    if len(line) > LINE_LIMIT:
        draft.problems.append(
            Problem(number, LINE_LIMIT + 1, f"the line has {len(line)} bytes; at most {LINE_LIMIT} are taken")
        )
        return
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        draft.problems.append(Problem(number, error.start + 1, "the line is not UTF-8 text"))
        return
    for index, letter in enumerate(text):
        if (letter < " " and letter != "\t") or letter == "\x7f":
            draft.problems.append(Problem(number, index + 1, f"control character {letter!r} is not allowed here"))
            return
    tokens = _tokens(draft, text, start, number)
    while tokens:
        _read_token(draft, tokens)


def _tokens(draft: _Draft, text: str, start: int, number: int) -> list[_Token]:
    """Split at blanks; quotes as in a shell, a backslash protects the next character outside single quotes."""
    tokens: list[_Token] = []
    current: _Token | None = None
    quote, index = "", start
    while index < len(text):
        letter = text[index]
        if not quote and letter in " \t":
            current = None
            index += 1
            continue
        if not quote and letter == "#" and current is None:
            break
        if current is None:
            current = _Token("", number, index + 1)
            tokens.append(current)
        if quote and letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == "\\" and quote != "'" and index + 1 < len(text):
            index += 1
            current.text += text[index]
        else:
            current.text += letter
        index += 1
    if quote and current is not None:
        draft.wrong(current, f"the quotation mark {quote} is not closed")
        tokens.clear()
    return tokens


def _read_token(draft: _Draft, tokens: list[_Token]) -> None:
    token = tokens.pop(0)
    if token.text and token.text[0] in _DASHES:
        plain = token.text.lstrip(_DASHES + "-")
        draft.wrong(token, f"{token.text[0]!r} is not a hyphen; write --{plain}")
        if tokens and not tokens[0].text.startswith("-") and plain.partition("=")[0] in OPTIONS and "=" not in plain:
            tokens.pop(0)
        return
    if not token.text.startswith("-") or token.text == "-":
        _read_image(draft, token)
        return
    if token.text == "--":
        draft.wrong(token, "'--' has no meaning here; write options and one image")
        return
    name, equals, value = token.text.partition("=")
    option = ALIASES.get(name, name.removeprefix("--") if name.startswith("--") else "")
    if name in REFUSED:
        draft.wrong(token, f"{name} is not available: {REFUSED[name]}")
        if not equals and tokens and not tokens[0].text.startswith("-") and len(tokens) > 1:
            tokens.pop(0)
        return
    if option in FLAGS:
        if equals and value not in ("true", "false"):
            draft.wrong(token, f"--{option} takes no value")
        elif value != "false":
            _single(draft, token, option, "true")
        return
    if option not in OPTIONS:
        draft.wrong(token, _unknown(name))
        if not equals and len(tokens) > 1 and not tokens[0].text.startswith("-"):
            tokens.pop(0)  # most likely its value: one mistake, one sentence
        return
    argument = _Token(value, token.line, token.column + len(name) + 1)
    if not equals:
        if not tokens:
            draft.wrong(token, f"{name} needs a value: {OPTIONS[option]}")
            return
        argument = tokens.pop(0)
    _read_option(draft, token, option, argument, tokens)


def _unknown(name: str) -> str:
    known = [f"--{one}" for one in (*OPTIONS, *FLAGS)]
    near = difflib.get_close_matches(name, [*known, *REFUSED], n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else f"; the options are {', '.join(sorted(known))}"
    return f"unknown option {name}{hint}"


def _read_image(draft: _Draft, token: _Token) -> None:
    if draft.image is not None:
        draft.wrong(
            token,
            f"a second image {token.text!r}; line {draft.image.line} names {draft.image.text!r} already and a job has"
            " one image",
        )
        return
    draft.image = token
    try:
        draft.reference = parse_image(token.text)
    except BadImage as error:
        draft.wrong(token, str(error))


def _read_option(draft: _Draft, token: _Token, option: str, argument: _Token, tokens: list[_Token]) -> None:
    value = argument.text
    if not value and option not in ("entrypoint",):
        draft.wrong(argument, f"--{option} has an empty value: {OPTIONS[option]}")
        return
    if len(value) > VALUE_LIMIT:
        draft.wrong(argument, f"the value of --{option} has {len(value)} characters; at most {VALUE_LIMIT} are taken")
        return
    for match in _VARIABLE.finditer(value):
        variable = match.group(1) if match.group(1) is not None else match.group(2)
        if variable not in VARIABLES and option in ("volume", "workdir", "tmpfs", "env", "stage-in", "stage-out"):
            draft.wrong(
                argument, f"${variable} does not expand here; only {' '.join('$' + one for one in VARIABLES)} do",
                match.start(),
            )
            return
    draft.where.append((option, token.line, token.column))
    reader = _READERS.get(option)
    if reader is not None:
        reader(draft, token, argument)
    elif option in ("s3", "stage-in", "stage-out"):
        draft.store.append(f"--{option} {value}")
        if option != "s3" and tokens and not tokens[0].text.startswith("-"):
            draft.store[-1] += f" {tokens.pop(0).text}"
    else:
        _single(draft, token, option, value)


def _single(draft: _Draft, token: _Token, option: str, value: str) -> None:
    if option in draft.single:
        draft.wrong(token, f"--{option} is given twice; one value counts")
        return
    draft.single[option] = value


def _path_problem(path: str, what: str) -> str | None:
    if not path.startswith(("/", "$")):
        return f"{what} {path!r} is not absolute; begin it with / or $HOME"
    if ".." in path.split("/"):
        return f"{what} {path!r} has a '..' component; write the path without it"
    return None


def _target_problem(path: str, option: str) -> str | None:
    plain = "/" + "/".join(one for one in path.split("/") if one not in ("", "."))
    if plain == "/" and path.startswith("/"):
        return f"--{option} cannot cover the whole image: / is not a target"
    if any(plain == one or plain.startswith(one + "/") for one in _KERNEL_PATHS if one != "/dev" or option != "tmpfs"):
        return f"--{option} target {path!r} lies in {plain.split('/')[1]!r}, which belongs to the kernel"
    return None


def _read_volume(draft: _Draft, token: _Token, argument: _Token) -> None:
    parts = argument.text.split(":")
    if len(parts) not in (2, 3) or not all(parts[:2]):
        draft.wrong(argument, f"--volume {argument.text!r} is not SOURCE:TARGET[:ro|rw]")
        return
    source, target = parts[:2]
    mode = parts[2] if len(parts) == 3 else "rw"
    if mode not in ("ro", "rw"):
        draft.wrong(argument, f"--volume mode {mode!r} is not known; use ro or rw", len(source) + len(target) + 2)
        return
    problem = (
        _path_problem(source, "--volume source")
        or _path_problem(target, "--volume target")
        or _target_problem(target, "volume")
    )
    if problem:
        draft.wrong(argument, problem)
        return
    if any(one.target.rstrip("/") == target.rstrip("/") for one in draft.volumes):
        draft.wrong(argument, f"--volume target {target!r} is used twice")
        return
    draft.volumes.append(
        Volume(source=source, target=target, read_only=mode == "ro", line=token.line, column=token.column)
    )


def _read_env(draft: _Draft, token: _Token, argument: _Token) -> None:
    name, equals, value = argument.text.partition("=")
    if not _NAME.fullmatch(name):
        draft.wrong(argument, f"--env name {name!r} is not a variable name; use letters, digits and '_'")
    elif any(one == name for one, _ in draft.env):
        draft.wrong(argument, f"--env {name} is given twice; one value counts")
    else:
        draft.env.append((name, value if equals else None))


def _read_tmpfs(draft: _Draft, token: _Token, argument: _Token) -> None:
    path, colon, option = argument.text.partition(":")
    size = None
    if colon:
        key, _, value = option.partition("=")
        if key != "size":
            draft.wrong(argument, f"--tmpfs option {option!r} is not known; write PATH or PATH:size=SIZE")
            return
        size = _size(draft, argument, value)
        if size is None:
            return
    problem = _path_problem(path, "--tmpfs path") or _target_problem(path, "tmpfs")
    if problem:
        draft.wrong(argument, problem)
        return
    draft.tmpfs.append(TmpfsOption(target=path, size_bytes=size))


def _size(draft: _Draft, argument: _Token, text: str) -> int | None:
    lowered = text.lower()
    try:
        size = parse_size(lowered + "b" if lowered[-1:] in ("k", "m", "g", "t") else lowered)
    except BadValue as error:
        draft.wrong(argument, str(error))
        return None
    if size == 0:
        draft.wrong(argument, f"{text!r} is no size to work with; it must be above zero")
        return None
    return size


def _read_shm(draft: _Draft, token: _Token, argument: _Token) -> None:
    if "shm-size" in draft.single:
        draft.wrong(token, "--shm-size is given twice; one value counts")
        return
    draft.single["shm-size"] = argument.text
    draft.shm_size = _size(draft, argument, argument.text)


def _read_pull(draft: _Draft, token: _Token, argument: _Token) -> None:
    if argument.text not in ("never", "missing", "always"):
        draft.wrong(argument, f"--pull {argument.text!r} is not known; use never, missing or always")
        return
    _single(draft, token, "pull", argument.text)


def _read_workdir(draft: _Draft, token: _Token, argument: _Token) -> None:
    problem = _path_problem(argument.text, "--workdir")
    if problem:
        draft.wrong(argument, problem)
        return
    _single(draft, token, "workdir", argument.text)


def _read_platform(draft: _Draft, token: _Token, argument: _Token) -> None:
    if not re.fullmatch(r"[a-z0-9]+(/[a-z0-9_]+){0,2}", argument.text):
        draft.wrong(argument, f"--platform {argument.text!r} is not OS/ARCHITECTURE, for example linux/amd64")
        return
    _single(draft, token, "platform", argument.text)


def _read_network(draft: _Draft, token: _Token, argument: _Token) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", argument.text):
        draft.wrong(argument, f"--network {argument.text!r} is not a network name")
        return
    _single(draft, token, "network", argument.text)


_READERS: Mapping[str, Callable[[_Draft, _Token, _Token], None]] = {
    "volume": _read_volume, "env": _read_env, "tmpfs": _read_tmpfs, "shm-size": _read_shm, "pull": _read_pull,
    "workdir": _read_workdir, "platform": _read_platform, "network": _read_network,
}  # fmt: skip


def _finish(draft: _Draft, first: int) -> Directive:
    if draft.image is None and not draft.problems:
        draft.problems.append(Problem(first, 1, "#DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'"))
    if draft.problems or draft.image is None or draft.reference is None:
        raise DirectiveError(draft.filename, draft.problems)
    pull = draft.single.get("pull")
    return Directive(
        image=draft.reference, line=draft.image.line, column=draft.image.column, filename=draft.filename,
        volumes=tuple(draft.volumes), workdir=draft.single.get("workdir"), env=tuple(draft.env),
        entrypoint=draft.single.get("entrypoint") or None, network=draft.single.get("network"),
        shm_size=draft.shm_size, tmpfs=tuple(draft.tmpfs), read_only="read-only" in draft.single,
        pull=pull if pull in ("never", "missing", "always") else None,  # type: ignore[arg-type]  # narrowed by value
        platform=draft.single.get("platform"), gpus=draft.single.get("gpus"), store=tuple(draft.store),
        where=tuple(draft.where),
    )


def expand(directive: Directive, variables: Mapping[str, str]) -> Directive:
    """Fill in the five variables. Raises KeyError with the name of one that this job does not have."""

    def fill(text: str) -> str:
        return _VARIABLE.sub(lambda match: variables[match.group(1) or match.group(2)], text)

    return replace(
        directive,
        volumes=tuple(replace(one, source=fill(one.source), target=fill(one.target)) for one in directive.volumes),
        workdir=fill(directive.workdir) if directive.workdir else None,
        env=tuple((name, fill(value) if value is not None else None) for name, value in directive.env),
        tmpfs=tuple(replace(one, target=fill(one.target)) for one in directive.tmpfs),
    )
