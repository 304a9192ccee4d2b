"""The values of options: a reader for each option, every refusal a sentence with its column. Pure."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Mapping

from pbsdock.core.errors import BadValue
from pbsdock.core.sizes import parse_size
from pbsdock.directive.draft import Draft
from pbsdock.directive.tokens import Token, shown
from pbsdock.directive.types import TmpfsOption, Volume
from pbsdock.directive.vocabulary import EXPANDING, OPTIONS
from pbsdock.s3.names import ON, BadName, parse_access, parse_url

VALUE_LIMIT = 1024  # characters
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KERNEL_PATHS = ("/proc", "/sys", "/dev")
STAGES = ("stage-in", "stage-out")


def has_strange_variable(draft: Draft, option: str, argument: Token) -> bool:
    """Whether a value names a variable that does not expand there; that is noted."""
    for name, column in argument.variables:
        if option not in EXPANDING:
            draft.wrong(argument.line, column, f"${name[:40]} does not expand in --{option}; write it out")
        elif name not in (known := draft.words.variables):
            draft.wrong(
                argument.line,
                column,
                f"${name[:40]} does not expand here; only {' '.join('$' + variable for variable in known)} do",
            )
        else:
            continue
        return True
    return False


def note_single(draft: Draft, token: Token, option: str, value: str) -> bool:
    """Take the value of an option that may be given once; False, with a note, if it has one already."""
    if option in draft.single:
        draft.wrong(token.line, token.column, f"--{option} is given twice; one value counts")
        return False
    draft.single[option] = value
    return True


# -- paths ------------------------------------------------------------------------------------------------------------


def _typed(stored: str) -> str:
    return stored.replace("$$", "$")


def plain_path(path: str) -> str:
    """One spelling of a path: no doubled, trailing or dotted components."""
    joined = "/".join(part for part in path.split("/") if part not in ("", "."))
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


def target_problem(path: str, option: str, what: str) -> str | None:
    """What is wrong with an absolute path in the image as the target of a mount; None if nothing is."""
    plain = plain_path(path)
    if plain == "/":
        return f"--{option} cannot cover the whole image: / is not a target"
    kernel = next(
        (kernel_path for kernel_path in _KERNEL_PATHS if plain == kernel_path or plain.startswith(kernel_path + "/")),
        None,
    )
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
        or target_problem(target, "volume", "--volume target")
    )
    if problem is None and plain_path(target) in draft.targets:
        problem = f"--volume target {shown(_typed(target))} is used twice"
    if problem:
        draft.wrong(token.line, argument.column, problem)
        return
    draft.targets.add(plain_path(target))
    draft.volumes.append(
        Volume(source=source, target=target, read_only=mode == "ro", line=token.line, column=token.column)
    )


def _read_workdir(draft: Draft, token: Token, argument: Token) -> None:
    problem = _path_problem(draft, argument.stored, "--workdir")
    if problem:
        draft.wrong(token.line, argument.column, problem)
    else:
        note_single(draft, token, "workdir", argument.stored)


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
    problem = _path_problem(draft, path, "--tmpfs path") or target_problem(path, "tmpfs", "--tmpfs path")
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
    if note_single(draft, token, "shm-size", argument.text):
        draft.shm_size = _size(draft, argument, argument.text, "shm-size")


def _read_pull(draft: Draft, token: Token, argument: Token) -> None:
    if argument.text not in ("never", "missing", "always"):
        draft.wrong(
            token.line, argument.column, f"--pull {shown(argument.text)} is not known; use never, missing or always"
        )
        return
    note_single(draft, token, "pull", argument.text)


def _read_platform(draft: Draft, token: Token, argument: Token) -> None:
    if not re.fullmatch(r"[a-z0-9]+(/[a-z0-9_]+){0,2}", argument.text):
        draft.wrong(
            token.line,
            argument.column,
            f"--platform {shown(argument.text)} is not OS/ARCHITECTURE, for example linux/amd64",
        )
        return
    note_single(draft, token, "platform", argument.text)


def _read_network(draft: Draft, token: Token, argument: Token) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", argument.text):
        draft.wrong(token.line, argument.column, f"--network {shown(argument.text)} is not a network name")
        return
    note_single(draft, token, "network", argument.text)


def _read_s3(draft: Draft, token: Token, argument: Token) -> None:
    try:
        parse_access(argument.text)
    except BadName as error:
        draft.wrong(token.line, argument.column, f"--s3 {shown(argument.text)} {error}")
        return
    draft.s3.append(argument.text)


def read_stage(draft: Draft, token: Token, option: str, first: Token, tokens: list[Token]) -> None:
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
    if second.variables and has_strange_variable(draft, option, second):
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


def _read_entrypoint(draft: Draft, token: Token, argument: Token) -> None:
    """A program and its first words, quoted as in a shell."""
    text = argument.text
    if text.startswith("["):
        problem = "is a list; write the words as in a shell: --entrypoint 'PROGRAM WORD…'"
    else:
        try:
            if shlex.split(text) or not text:
                note_single(draft, token, "entrypoint", text)
                return
            problem = "names no program"
        except ValueError:
            problem = "has a quotation mark, or a backslash, that is not closed"
    draft.wrong(token.line, argument.column, f"--entrypoint {shown(text)} {problem}")


def _one_word(option: str) -> Callable[[Draft, Token, Token], None]:
    def read(draft: Draft, token: Token, argument: Token) -> None:
        note_single(draft, token, option, argument.text)

    return read


READERS: Mapping[str, Callable[[Draft, Token, Token], None]] = {
    "volume": _read_volume,
    "env": _read_env,
    "tmpfs": _read_tmpfs,
    "shm-size": _read_shm,
    "pull": _read_pull,
    "workdir": _read_workdir,
    "platform": _read_platform,
    "network": _read_network,
    "s3": _read_s3,
    "entrypoint": _read_entrypoint,
    "gpus": _one_word("gpus"),
}
