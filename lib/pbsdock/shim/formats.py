"""``--format`` and ``-f``: the part of Go's templates that scripts use, carried out on plain JSON types. Pure.

Bounded, since the template is a user's and the process is not: its text, its nesting, the steps it takes and what it
makes on the way. Every error is :class:`BadTemplate`, a sentence as Docker's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pbsdock.directive.tokens import shown
from pbsdock.shim import template_values
from pbsdock.shim.template_budget import Budget
from pbsdock.shim.template_functions import FUNCTIONS, NOT_OFFERED
from pbsdock.shim.template_tokens import BadTemplate, bad
from pbsdock.shim.template_tree import Body, Choice, Operand, Pipe, Print, Repeat, parse_template
from pbsdock.shim.template_values import MISSING, Method, as_text, field_of, is_true

__all__ = ["BadTemplate", "Budget", "Method", "Template"]


class Template:
    """A template that has been read. Raises BadTemplate."""

    def __init__(self, text: str) -> None:
        self._body = parse_template(text)

    def render(self, value: Any, budget: Budget | None = None, *, for_header: bool = False) -> str:
        """The text for one value, of plain JSON types and Method. Raises BadTemplate.

        A *budget* may be shared by several values; *for_header*: functions leave the words of a header as they are.
        """
        run = _Run(value, budget or Budget(), for_header)
        run.body(self._body, value)
        return "".join(run.parts)


class _Jump(Exception):
    """``break`` or ``continue``, on its way to its ``range``."""


class _Run:
    """The state of carrying out a template: what has been printed, and the variables of each open block."""

    def __init__(self, root: Any, budget: Budget, for_header: bool) -> None:
        self.budget, self.for_header = budget, for_header
        self.parts: list[str] = []
        self.scopes: list[dict[str, Any]] = [{"": root}]

    def body(self, body: Body, dot: Any) -> None:
        for node in body:
            self.budget.step()
            if isinstance(node, str):
                self._print(node)
            elif isinstance(node, Print):
                value = self._pipe(node.pipe, dot)
                if not node.pipe.variables:
                    self._print(as_text(value))
            elif isinstance(node, Choice):
                self._choice(node, dot)
            elif isinstance(node, Repeat):
                self._repeat(node, dot)
            else:
                raise _Jump(node.word)

    def _print(self, text: str) -> None:
        self.budget.print(text)
        self.parts.append(text)

    def _choice(self, node: Choice, dot: Any) -> None:
        self.scopes.append({})
        try:
            for pipe, dots, body in node.branches:
                value = True if pipe is None else self._pipe(pipe, dot)
                if is_true(value):
                    self.body(body, value if dots else dot)
                    return
        finally:
            self.scopes.pop()

    def _repeat(self, node: Repeat, dot: Any) -> None:
        self.scopes.append({})
        try:
            value = self._pipe(Pipe(node.pipe.commands), dot)
            empty = True
            if isinstance(value, Mapping):
                self.budget.step(len(value))  # for their order
            for key, item in _items(value):
                empty = False
                self.budget.step()
                self._keep(node.pipe, (item,) if len(node.pipe.variables) == 1 else (key, item))
                try:
                    self.body(node.body, item)
                except _Jump as jump:
                    if str(jump) == "break":
                        break
            if empty:
                self.body(node.otherwise, dot)
        finally:
            self.scopes.pop()

    def _keep(self, pipe: Pipe, values: Sequence[Any]) -> None:
        for name, value in zip(pipe.variables, values, strict=False):
            if pipe.declares:
                self.scopes[-1][name] = value
            else:
                self._scope_of(name)[name] = value

    def _scope_of(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] | None = next((scope for scope in reversed(self.scopes) if name in scope), None)
        if found is None:
            raise bad(f"undefined variable ${shown(name)[1:-1]}")
        return found

    def _pipe(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = None
        for count, command in enumerate(pipe.commands):
            value = self._command(command, dot, (value,) if count else ())
        self._keep(pipe, (value,))
        return value

    def _command(self, command: Sequence[Operand], dot: Any, passed: tuple[Any, ...]) -> Any:
        first, *rest = command
        self.budget.step(len(command))
        if first.kind == "function":
            return self._call(first.name, rest, dot, passed)
        value = self._operand(first, dot)
        if isinstance(value, Method):
            return template_values.call_method(
                first.said, value, [*(self._argument(each, dot) for each in rest), *passed]
            )
        if rest or passed:
            raise bad(f"can't give argument to non-function {first.said}")
        return value

    def _argument(self, operand: Operand, dot: Any) -> Any:
        """An operand that is an argument: a function without any of its own, or a value."""
        if operand.kind == "function":
            return self._call(operand.name, (), dot, ())
        return self._operand(operand, dot)

    def _operand(self, operand: Operand, dot: Any) -> Any:
        value: Any
        if operand.kind == "value":
            return operand.value
        if operand.kind == "variable":
            value = self._scope_of(operand.name)[operand.name]
        elif operand.kind == "pipe":
            assert operand.pipe is not None
            value = self._pipe(operand.pipe, dot)
        else:
            value = dot
        parent = ""
        for name in operand.fields:
            self.budget.step()
            value, parent = field_of(value, name, parent), name
        return value

    def _call(self, name: str, rest: Sequence[Operand], dot: Any, passed: tuple[Any, ...]) -> Any:
        if name in ("and", "or"):
            return self._and_or(name, rest, dot, passed)
        function = FUNCTIONS.get(name)
        if function is None:
            if name in NOT_OFFERED:
                raise bad(f"the function {name} is not offered; the functions are {', '.join(sorted(FUNCTIONS))}")
            raise bad(f"function {shown(name)} not defined; the functions are {', '.join(sorted(FUNCTIONS))}")
        arguments = [*(self._argument(operand, dot) for operand in rest), *passed]
        return function(self.budget, arguments, self.for_header)

    def _and_or(self, name: str, rest: Sequence[Operand], dot: Any, passed: tuple[Any, ...]) -> Any:
        """The first value that decides, or the last; what follows it is not looked at."""
        if not rest and not passed:
            raise bad(f"wrong number of args for {name}: want at least 1 got 0")
        value: Any = None
        for operand in rest:
            value = self._argument(operand, dot)
            if is_true(value) == (name == "or"):
                return value
        return passed[0] if passed else value


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return iter([(key, value[key]) for key in sorted(value, key=str)])
    if isinstance(value, list | tuple):
        return enumerate(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return ((each, each) for each in range(value))  # as Go since 1.22
    if value is None or value is MISSING:
        return iter(())
    raise bad(f"range can't iterate over {shown(as_text(value))[1:-1]}")
