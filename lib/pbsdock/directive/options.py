"""The words of a ``#DOCKER`` line: its options and its image, every refusal a sentence with its column. Pure."""

from __future__ import annotations

import difflib

from pbsdock.directive.draft import Draft
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.directive.tokens import DASHES, Token, shown, tokenize
from pbsdock.directive.values import READERS, STAGES, VALUE_LIMIT, has_strange_variable, note_single, read_stage
from pbsdock.directive.vocabulary import ALIASES, FLAGS, OPTIONS, REFUSED, REFUSED_FLAGS, why_refused
from pbsdock.rm.base import Words

LINE_LIMIT = 4096  # bytes


def read_line(draft: Draft, line: bytes, number: int, start: int) -> None:
    """Read the words of a line from index *start* on."""
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
    """Skip what most likely is the value of a wrong option, so that a mistake has a single sentence."""
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
            note_single(draft, token, option, "true")
    elif option not in OPTIONS:
        _read_strange(draft, token, name, tokens)
    elif equals:
        _read_value(draft, token, option, token.rest(len(name) + 1), tokens)
    elif tokens and not tokens[0].is_option:
        _read_value(draft, token, option, tokens.pop(0), tokens)
    else:
        draft.wrong(token.line, token.column, f"{name} needs a value: {OPTIONS[option]}")


def _read_strange(draft: Draft, token: Token, name: str, tokens: list[Token]) -> None:
    """An option that is not taken: refused on principle, joined with its value, or unknown."""
    letters = [f"-{letter}" for letter in name[1:]]
    if name not in REFUSED and not name.startswith("--") and all(flag in REFUSED_FLAGS for flag in letters):
        reason, takes_value = why_refused(letters[0], draft.words), False
    else:
        reason, takes_value = why_refused(name, draft.words), name not in REFUSED_FLAGS
    if reason:
        message = f"{name} is not available: {reason}"
    elif name[:2] in ALIASES and name.lstrip("-") not in OPTIONS and name[2:3] != "":
        message = f"{name[:2]} and its value are two words; write {name[:2]} VALUE"
        takes_value = False
    else:
        message = _unknown(name, draft.words)
    draft.wrong(token.line, token.column, message)
    if takes_value and "=" not in token.text:
        _skip_value(draft, tokens)


def _unknown(name: str, words: Words) -> str:
    known = [f"--{option}" for option in (*OPTIONS, *FLAGS)]
    near = difflib.get_close_matches(name[:40].lower(), [*known, *REFUSED], n=1, cutoff=0.6)
    if near and near[0] in REFUSED:  # an option that would be refused is no advice
        hint = f"{near[0]} is not available: {why_refused(near[0], words)}"
    else:
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
    elif not has_strange_variable(draft, option, argument) and draft.note(option, token.line, token.column):
        if option in STAGES:
            read_stage(draft, token, option, argument, tokens)
        else:
            READERS[option](draft, token, argument)
        return
    if option in STAGES and tokens and not tokens[0].is_option:
        tokens.pop(0)
        if tokens and tokens[0].text.startswith("on="):
            tokens.pop(0)
