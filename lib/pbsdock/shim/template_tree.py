"""A Go template as a tree: what is printed, chosen and repeated. Pure; nothing nests deeper than ``DEPTH``."""

from __future__ import annotations

from dataclasses import dataclass

from pbsdock.directive.tokens import shown
from pbsdock.shim.template_tokens import Action, BadTemplate, Token, bad, pieces

DEPTH = 20
_KEYWORDS = ("if", "with", "range", "else", "end", "break", "continue", "define", "template", "block")
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "nil": None}


@dataclass(frozen=True, slots=True)
class Operand:
    """``kind``: ``value`` (a literal), ``dot``, ``variable``, ``function`` or ``pipe`` (in parentheses); ``fields`` are
    looked up in it one after another."""

    kind: str
    name: str = ""
    value: str | int | float | bool | None = None
    pipe: Pipe | None = None
    fields: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """As the template has it, for a sentence."""
        start = {"variable": f"${self.name}", "function": self.name, "pipe": "(…)"}.get(self.kind, "")
        return shown((start + "".join(f".{field}" for field in self.fields)) or ".")[1:-1]


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each an operand with its arguments, that pass their value on; kept in ``variables``, if any."""

    commands: tuple[tuple[Operand, ...], ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True, slots=True)
class Print:
    """``{{pipe}}``; nothing is printed of one that is kept."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Choice:
    """``if`` and ``with`` (``dots``): the first branch whose pipe is not empty, or the last, whose pipe is None."""

    branches: tuple[tuple[Pipe | None, bool, Body], ...]  # (pipe, whether the dot becomes its value, body)


@dataclass(frozen=True, slots=True)
class Repeat:
    """``range``."""

    pipe: Pipe
    body: Body
    otherwise: Body


@dataclass(frozen=True, slots=True)
class Jump:
    """``break`` or ``continue``."""

    word: str


Node = str | Print | Choice | Repeat | Jump
Body = tuple[Node, ...]


def parse_template(text: str) -> Body:
    """The tree of a template's text. Raises BadTemplate."""
    builder = _Builder(text)
    body, end = builder.body(0, in_range=False)
    if end is not None:
        raise bad(f"unexpected {{{{{end.tokens[0].text}}}}}")
    return body


class _Builder:
    """The state of building a tree: the pieces, and which is next."""

    def __init__(self, text: str) -> None:
        self.pieces = pieces(text)
        self.at = 0

    def body(self, depth: int, *, in_range: bool) -> tuple[Body, Action | None]:
        """The nodes up to ``else`` or ``end``, and that action; None at the end of the template."""
        if depth > DEPTH:
            raise bad(f"blocks are nested more than {DEPTH} deep")
        nodes: list[Node] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            self.at += 1
            if isinstance(piece, str):
                nodes.append(piece)
                continue
            word = _keyword(piece)
            if word in ("else", "end"):
                return tuple(nodes), piece
            nodes.append(self._node(piece, word, depth, in_range))
        return tuple(nodes), None

    def _node(self, action: Action, word: str, depth: int, in_range: bool) -> Node:
        if word in ("define", "template", "block"):
            raise bad(f"{{{{{word}}}}} is not offered: a format is one template; write its text in place")
        if word in ("break", "continue"):
            if not in_range or len(action.tokens) > 1:
                raise bad(f"{{{{{word}}}}} outside {{{{range}}}}, or with arguments")
            return Jump(word)
        if word == "range":
            return self._range(action, depth)
        if word:
            return self._choice(action, word, depth, in_range)
        return Print(_pipe_of(action.tokens, most_variables=1))

    def _range(self, action: Action, depth: int) -> Repeat:
        pipe = _pipe_of(action.tokens[1:], most_variables=2)
        body, end = self.body(depth + 1, in_range=True)
        otherwise: Body = ()
        if _is_else(end):
            otherwise, end = self.body(depth + 1, in_range=True)
        _check_end(end, "range")
        return Repeat(pipe, body, otherwise)

    def _choice(self, action: Action, word: str, depth: int, in_range: bool) -> Choice:
        branches: list[tuple[Pipe | None, bool, Body]] = []
        tokens = action.tokens[1:]
        pipe: Pipe | None = _pipe_of(tokens, most_variables=1)
        dots = word == "with"
        while True:
            body, end = self.body(depth + 1, in_range=in_range)
            branches.append((pipe, dots, body))
            if end is None or pipe is None or _keyword(end) == "end":
                break
            following = end.tokens[1:]
            if not following:
                pipe, dots = None, False
            elif following[0].text in ("if", "with") and following[0].kind == "word":
                pipe, dots = _pipe_of(following[1:], most_variables=1), following[0].text == "with"
            else:
                raise bad("unexpected words behind {{else")
        _check_end(end, word)
        return Choice(tuple(branches))


def _keyword(action: Action) -> str:
    first = action.tokens[0] if action.tokens else None
    return first.text if first is not None and first.kind == "word" and first.text in _KEYWORDS else ""


def _is_else(end: Action | None) -> bool:
    return end is not None and _keyword(end) == "else" and len(end.tokens) == 1


def _check_end(end: Action | None, word: str) -> None:
    if end is None:
        raise bad(f"unexpected end of the template; {{{{{word}}}}} needs its {{{{end}}}}")
    if _keyword(end) != "end" or len(end.tokens) > 1:
        raise bad(f"unexpected {{{{{end.tokens[0].text} …}}}} in {{{{{word}}}}}")


def _pipe_of(tokens: tuple[Token, ...], most_variables: int) -> Pipe:
    """A pipeline that is all of *tokens*, with ``$x :=``, ``$x =`` or ``$i, $x :=`` before it."""
    variables: list[str] = []
    declares, at = False, 0
    head = _kept(tokens)
    if head is not None:
        variables, declares, at = head
        if len(variables) > most_variables:
            raise bad("too many variables are kept")
    reader = _PipeReader(tokens, at)
    commands = reader.commands(0)
    if reader.at < len(tokens):
        raise bad(f"unexpected {shown(tokens[reader.at].text)} in an action")
    return Pipe(commands, tuple(variables), declares)


def _kept(tokens: tuple[Token, ...]) -> tuple[list[str], bool, int] | None:
    """(variables, whether they are new, where the pipeline begins)."""
    kinds = [(token.kind, token.text) for token in tokens[:4]]
    for count, sign_at in ((1, 1), (2, 3)):
        if len(kinds) > sign_at and kinds[sign_at] in (("sign", ":="), ("sign", "=")):
            if kinds[0][0] != "variable" or (count == 2 and (kinds[1] != ("sign", ",") or kinds[2][0] != "variable")):
                raise bad("only $variables are kept")
            names = [kinds[at][1] for at in range(0, sign_at, 2)]
            if "" in names:
                raise bad("$ itself cannot be changed")
            return names, kinds[sign_at][1] == ":=", sign_at + 1
    return None


class _PipeReader:
    """The state of reading a pipeline's tokens."""

    def __init__(self, tokens: tuple[Token, ...], at: int) -> None:
        self.tokens, self.at = tokens, at

    def _peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def commands(self, depth: int) -> tuple[tuple[Operand, ...], ...]:
        """Commands up to a closing parenthesis or the end."""
        if depth > DEPTH:
            raise bad(f"parentheses are nested more than {DEPTH} deep")
        found: list[tuple[Operand, ...]] = []
        while True:
            words: list[Operand] = []
            while (token := self._peek()) is not None and (token.kind != "sign" or token.text == "("):
                words.append(self._operand(depth))
            if not words:
                raise bad("missing value for command")
            if words[0] == Operand("value"):
                raise bad("nil is not a command")
            if found and words[0].kind == "value":
                raise bad("non executable command in a pipeline; a value can only be the first of it")
            found.append(tuple(words))
            if token is None or token.text != "|":
                return tuple(found)
            self.at += 1

    def _operand(self, depth: int) -> Operand:
        token = self.tokens[self.at]
        self.at += 1
        if token.kind in ("text", "number"):
            return Operand("value", value=token.value)
        if token.kind == "word":
            if token.text in _CONSTANTS:
                return Operand("value", value=_CONSTANTS[token.text])
            if token.text in _KEYWORDS:
                raise bad(f"unexpected {token.text} in an action")
            return Operand("function", token.text)
        if token.kind == "variable":
            return Operand("variable", token.text, fields=self._fields())
        if token.kind == "dot":
            return Operand("dot")
        if token.kind == "field":
            return Operand("dot", fields=(token.text, *self._fields()))
        pipe = Pipe(self.commands(depth + 1))
        if (close := self._peek()) is None or close.text != ")":
            raise bad("unclosed left parenthesis")
        self.at += 1
        return Operand("pipe", pipe=pipe, fields=self._fields())

    def _fields(self) -> tuple[str, ...]:
        names: list[str] = []
        while (token := self._peek()) is not None and token.kind == "field" and not token.spaced:
            names.append(token.text)
            self.at += 1
        return tuple(names)


__all__ = ["BadTemplate", "Body", "Choice", "Jump", "Node", "Operand", "Pipe", "Print", "Repeat", "parse_template"]
