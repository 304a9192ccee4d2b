"""The options of a ``#DOCKER`` line: one reader for each, every refusal a sentence with its column. Pure."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Mapping

from pbsdock.core.errors import BadValue
from pbsdock.core.sizes import parse_size
from pbsdock.directive.draft import Draft
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.directive.tokens import DASHES, Token, shown, tokenize
from pbsdock.directive.types import TmpfsOption, Volume
from pbsdock.directive.vocabulary import ALIASES, EXPANDING, FLAGS, OPTIONS, REFUSED, REFUSED_FLAGS, why_refused
from pbsdock.s3.names import ON, BadName, parse_access, parse_url

LINE_LIMIT = 4096  # bytes
VALUE_LIMIT = 1024  # characters
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KERNEL_PATHS = ("/proc", "/sys", "/dev")
_STAGES = ("stage-in", "stage-out")


def read_line(draft: Draft, line: bytes, number: int, start: int) -> None:
    """Read one line's words from index *start* on."""
    if len(line) > LINE_LIMIT:
        draft.unreadable(number, LINE_LIMIT + 1, f"the line has {len(line)} bytes; at most {LINE_LIMIT} are taken")
        return
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        draft.unreadable(number, len(line[: error.start].decode()) + 1, "the line is not UTF-8 text")
        return
    for index, letter in enumerate(text):
        if letter != "\t" and not letter.isprintable() and _is_control(letter):
            draft.unreadable(number, index + 1, f"control character {letter!r} is not allowed here")
            return
    tokens = tokenize(text, start, number, lambda column, sentence: draft.unreadable(number, column, sentence))
    while tokens:
        _read_token(draft, tokens)


def _is_control(letter: str) -> bool:
    return letter < " " or "\x7f" <= letter <= "\x9f" or letter in "\u2028\u2029"


def _read_token(draft: Draft, tokens: list[Token]) -> None:
    token = tokens.pop(0)
    if token.text.lstrip("-")[:1] in DASHES and token.text.lstrip("-"):
        _read_dash(draft, token, tokens)
    elif not token.is_option:
        _read_image(draft, token)
    elif token.text == "--":
        draft.wrong(token.line, token.column, "'--' has no meaning here; write options and one image")
    else:
        _read_option(draft, token, tokens)


def _read_dash(draft: Draft, token: Token, tokens: list[Token]) -> None:
    text = token.text.lstrip("-")
    plain = text.lstrip(DASHES + "-").partition("=")[0]
    cure = f"write {'-' if len(plain) == 1 else '--'}{plain[:40]}" if plain else "leave it out"
    draft.wrong(token.line, token.column, f"{text[0]!r} is not a hyphen; {cure}")
    if plain not in FLAGS and f"--{plain}" not in REFUSED_FLAGS and "=" not in token.text:
        _skip_value(draft, tokens)


def _skip_value(draft: Draft, tokens: list[Token]) -> None:
    """Pass over what most likely is a mistaken option's value: one mistake, one sentence."""
    draft.unsure = True
    if tokens and not tokens[0].is_option and (len(tokens) > 1 or draft.image is not None):
        tokens.pop(0)


def _read_image(draft: Draft, token: Token) -> None:
    if draft.image is not None:
        draft.wrong(
            token.line,
            token.column,
            f"a second image {shown(token.text)}; line {draft.image.line} names {shown(draft.image.text)} already and a"
            " job has one image",
        )
        return
    draft.image = token
    if token.variables:
        name, column = token.variables[0]
        draft.wrong(token.line, column, f"${name[:40]} does not expand in an image's name; write it out")
        return
    try:
        draft.reference = parse_image(token.text)
    except BadImage as error:
        draft.wrong(token.line, token.column, str(error))


def _read_option(draft: Draft, token: Token, tokens: list[Token]) -> None:
    name, equals, value = token.text.partition("=")
    option = ALIASES.get(name, name.removeprefix("--") if name.startswith("--") else "")
    if option in FLAGS:
        if equals and value not in ("true", "false"):
            draft.wrong(token.line, token.column, f"--{option} takes no value")
        elif value != "false":
            _single(draft, token, option, "true")
    elif option not in OPTIONS:
        _read_strange(draft, token, name, tokens)
    elif equals:
        _read_value(draft, token, option, token.rest(len(name) + 1), tokens)
    elif tokens and not tokens[0].is_option:
        _read_value(draft, token, option, tokens.pop(0), tokens)
    else:
        draft.wrong(token.line, token.column, f"{name} needs a value: {OPTIONS[option]}")


def _read_strange(draft: Draft, token: Token, name: str, tokens: list[Token]) -> None:
    """An option that is not ours: refused on principle, written together, or not known at all."""
    letters = [f"-{one}" for one in name[1:]]
    if name not in REFUSED and not name.startswith("--") and all(one in REFUSED_FLAGS for one in letters):
        reason, takes_value = why_refused(letters[0], draft.words), False
    else:
        reason, takes_value = why_refused(name, draft.words), name not in REFUSED_FLAGS
    if reason:
        message = f"{name} is not available: {reason}"
    elif name[:2] in ALIASES and name.lstrip("-") not in OPTIONS and name[2:3] != "":
        message = f"{name[:2]} and its value are two words; write {name[:2]} VALUE"
        takes_value = False
    else:
        message = _unknown(name)
    draft.wrong(token.line, token.column, message)
    if takes_value and "=" not in token.text:
        _skip_value(draft, tokens)


def _unknown(name: str) -> str:
    known = [f"--{one}" for one in (*OPTIONS, *FLAGS)]
    near = difflib.get_close_matches(name[:40].lower(), [*known, *REFUSED], n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(sorted(known))}"
    return f"unknown option {name if name.isprintable() and len(name) <= 40 else shown(name[:40])}; {hint}"


def _read_value(draft: Draft, token: Token, option: str, argument: Token, tokens: list[Token]) -> None:
    value = argument.text
    if not value and option != "entrypoint":
        draft.wrong(token.line, argument.column, f"--{option} has an empty value: {OPTIONS[option]}")
    elif len(value) > VALUE_LIMIT:
        draft.wrong(
            token.line,
            argument.column,
            f"the value of --{option} has {len(value)} characters; at most {VALUE_LIMIT} are taken",
        )
    elif not _has_strange_variable(draft, option, argument) and draft.note(option, token.line, token.column):
        if option in _STAGES:
            _read_stage(draft, token, option, argument, tokens)
        else:
            _READERS[option](draft, token, argument)
        return
    if option in _STAGES and tokens and not tokens[0].is_option:
        tokens.pop(0)
        if tokens and tokens[0].text.startswith("on="):
            tokens.pop(0)


def _has_strange_variable(draft: Draft, option: str, argument: Token) -> bool:
    for name, column in argument.variables:
        if option not in EXPANDING:
            draft.wrong(argument.line, column, f"${name[:40]} does not expand in --{option}; write it out")
        elif name not in draft.words.variables:
            draft.wrong(
                argument.line,
                column,
                f"${name[:40]} does not expand here; only {' '.join('$' + one for one in draft.words.variables)} do",
            )
        else:
            continue
        return True
    return False


def _single(draft: Draft, token: Token, option: str, value: str) -> bool:
    if option in draft.single:
        draft.wrong(token.line, token.column, f"--{option} is given twice; one value counts")
        return False
    draft.single[option] = value
    return True


# -- paths ------------------------------------------------------------------------------------------------------------


def _typed(stored: str) -> str:
    return stored.replace("$$", "$")


def _plain(path: str) -> str:
    """One spelling of a path: no doubled, trailing or dotted components."""
    joined = "/".join(one for one in path.split("/") if one not in ("", "."))
    return f"/{joined}" if path.startswith("/") else joined


def _path_problem(draft: Draft, path: str, what: str) -> str | None:
    if not path.startswith("/") and not _absolute(draft.words.path_variables).match(path):
        return f"{what} {shown(_typed(path))} is not absolute; begin it with / or $HOME"
    if ".." in path.split("/"):
        return f"{what} {shown(_typed(path))} has a '..' component; write the path without it"
    return None


@functools.cache
def _absolute(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\$\{{?(?:{'|'.join(names)})(?![A-Za-z0-9_])\}}?")


def _target_problem(path: str, option: str, what: str) -> str | None:
    plain = _plain(path)
    if plain == "/":
        return f"--{option} cannot cover the whole image: / is not a target"
    kernel = next((one for one in _KERNEL_PATHS if plain == one or plain.startswith(one + "/")), None)
    if kernel is None or (option == "tmpfs" and plain.startswith("/dev/")):
        return None
    return f"{what} {shown(_typed(path))} lies in {kernel}, which belongs to the kernel"


def _read_volume(draft: Draft, token: Token, argument: Token) -> None:
    parts = argument.stored.split(":")
    if len(parts) not in (2, 3) or not all(parts[:2]):
        draft.wrong(token.line, argument.column, f"--volume {shown(argument.text)} is not SOURCE:TARGET[:ro|rw]")
        return
    source, target = parts[:2]
    mode = parts[2] if len(parts) == 3 else "rw"
    if mode not in ("ro", "rw"):
        draft.wrong(
            token.line,
            argument.place(argument.text.rfind(":") + 1),
            f"--volume mode {shown(_typed(mode))} is not known; use ro or rw",
        )
        return
    problem = (
        _path_problem(draft, source, "--volume source")
        or _path_problem(draft, target, "--volume target")
        or _target_problem(target, "volume", "--volume target")
    )
    if problem is None and _plain(target) in draft.targets:
        problem = f"--volume target {shown(_typed(target))} is used twice"
    if problem:
        draft.wrong(token.line, argument.column, problem)
        return
    draft.targets.add(_plain(target))
    draft.volumes.append(
        Volume(source=source, target=target, read_only=mode == "ro", line=token.line, column=token.column)
    )


def _read_workdir(draft: Draft, token: Token, argument: Token) -> None:
    problem = _path_problem(draft, argument.stored, "--workdir")
    if problem:
        draft.wrong(token.line, argument.column, problem)
    else:
        _single(draft, token, "workdir", argument.stored)


def _read_tmpfs(draft: Draft, token: Token, argument: Token) -> None:
    path, colon, option = argument.stored.partition(":")
    size = None
    if colon:
        key, _, value = option.partition("=")
        if key != "size":
            draft.wrong(
                token.line,
                argument.column,
                f"--tmpfs option {shown(_typed(option))} is not known; write PATH or PATH:size=SIZE",
            )
            return
        size = _size(draft, argument, _typed(value), "tmpfs")
        if size is None:
            return
    problem = _path_problem(draft, path, "--tmpfs path") or _target_problem(path, "tmpfs", "--tmpfs path")
    if problem:
        draft.wrong(token.line, argument.column, problem)
        return
    draft.tmpfs.append(TmpfsOption(target=path, size_bytes=size))


# -- other values -----------------------------------------------------------------------------------------------------


def _read_env(draft: Draft, token: Token, argument: Token) -> None:
    name, equals, value = argument.stored.partition("=")
    if not _NAME.fullmatch(name):
        draft.wrong(
            token.line,
            argument.column,
            f"--env name {shown(_typed(name))} is not a variable name; use letters, digits and '_'",
        )
    elif name in draft.env:
        draft.wrong(token.line, argument.column, f"--env {name} is given twice; one value counts")
    else:
        draft.env[name] = value if equals else None


def _size(draft: Draft, argument: Token, text: str, option: str) -> int | None:
    try:
        size = parse_size(text)
    except BadValue:
        draft.wrong(
            argument.line,
            argument.column,
            f"--{option} size {shown(text)} is not a whole number with b, k, m, g or t behind it, for example 64m",
        )
        return None
    if size == 0:
        draft.wrong(argument.line, argument.column, f"--{option} size {shown(text)} is nothing to work with")
        return None
    return size


def _read_shm(draft: Draft, token: Token, argument: Token) -> None:
    if _single(draft, token, "shm-size", argument.text):
        draft.shm_size = _size(draft, argument, argument.text, "shm-size")


def _read_pull(draft: Draft, token: Token, argument: Token) -> None:
    if argument.text not in ("never", "missing", "always"):
        draft.wrong(
            token.line, argument.column, f"--pull {shown(argument.text)} is not known; use never, missing or always"
        )
        return
    _single(draft, token, "pull", argument.text)


def _read_platform(draft: Draft, token: Token, argument: Token) -> None:
    if not re.fullmatch(r"[a-z0-9]+(/[a-z0-9_]+){0,2}", argument.text):
        draft.wrong(
            token.line,
            argument.column,
            f"--platform {shown(argument.text)} is not OS/ARCHITECTURE, for example linux/amd64",
        )
        return
    _single(draft, token, "platform", argument.text)


def _read_network(draft: Draft, token: Token, argument: Token) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", argument.text):
        draft.wrong(token.line, argument.column, f"--network {shown(argument.text)} is not a network name")
        return
    _single(draft, token, "network", argument.text)


def _read_s3(draft: Draft, token: Token, argument: Token) -> None:
    try:
        parse_access(argument.text)
    except BadName as error:
        draft.wrong(token.line, argument.column, f"--s3 {shown(argument.text)} {error}")
        return
    draft.s3.append(argument.text)


def _read_stage(draft: Draft, token: Token, option: str, first: Token, tokens: list[Token]) -> None:
    """``--stage-in URL PATH`` and ``--stage-out PATH URL``: the only options with two values."""
    if not tokens or tokens[0].is_option:
        draft.wrong(token.line, token.column, f"--{option} needs two values: {OPTIONS[option]}")
        return
    second = tokens.pop(0)
    url, path = (first, second) if option == "stage-in" else (second, first)
    if len(second.text) > VALUE_LIMIT:
        draft.wrong(
            token.line,
            second.column,
            f"the value of --{option} has {len(second.text)} characters; at most {VALUE_LIMIT} are taken",
        )
        return
    if second.variables and _has_strange_variable(draft, option, second):
        return
    try:
        parse_url(url.text)
    except BadName as error:
        draft.wrong(token.line, url.column, f"--{option} {shown(url.text)} {error}")
        return
    problem = _path_problem(draft, path.stored, f"--{option} path")
    if problem:
        draft.wrong(token.line, path.column, problem)
    elif option == "stage-in":
        draft.stage_in.append((url.stored, path.stored))
    elif (when := _read_when(draft, token, tokens)) is not None:
        draft.stage_out.append((path.stored, url.stored, when))


def _read_when(draft: Draft, token: Token, tokens: list[Token]) -> str | None:
    """The word behind ``--stage-out PATH URL``, if there is one: no image's name has an equals sign."""
    if not tokens or not tokens[0].text.startswith("on="):
        return "success"
    word = tokens.pop(0)
    when = word.text.removeprefix("on=")
    if when in ON:
        return when
    draft.wrong(token.line, word.column, f"--stage-out {shown(word.text)} is not known; write on=success or on=always")
    return None


def _one_word(option: str) -> Callable[[Draft, Token, Token], None]:
    def read(draft: Draft, token: Token, argument: Token) -> None:
        _single(draft, token, option, argument.text)

    return read


_READERS: Mapping[str, Callable[[Draft, Token, Token], None]] = {
    "volume": _read_volume,
    "env": _read_env,
    "tmpfs": _read_tmpfs,
    "shm-size": _read_shm,
    "pull": _read_pull,
    "workdir": _read_workdir,
    "platform": _read_platform,
    "network": _read_network,
    "s3": _read_s3,
    "entrypoint": _one_word("entrypoint"),
    "gpus": _one_word("gpus"),
}
