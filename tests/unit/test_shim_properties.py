"""What holds of the shim's readers for every input: a value or their own refusal, in time linear to the input."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbsdock.core.errors import BadValue
from pbsdock.shim.env_file import parse_env_file
from pbsdock.shim.formats import BadTemplate, Template
from pbsdock.shim.parse import ShimRefusal, parse
from pbsdock.shim.rows import ImageRow
from pbsdock.shim.syntax import GLOBAL, GROUPS, OFFERED, SPELLINGS
from pbsdock.shim.tables import images
from pbsdock.shim.vocabulary import refused_commands, refused_options
from tests.support.torque import WORDS

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)  # lone surrogates too
_OPTIONS = sorted(
    {f"--{option.name}" for syntax in OFFERED.values() for option in syntax.options}
    | {f"-{option.short}" for syntax in OFFERED.values() for option in syntax.options if option.short}
    | {f"--{option.name}" for option in GLOBAL}
    | {f"--{name}" for command in ("", *OFFERED) for name in refused_options(command)}
)
_COMMANDS = sorted({*OFFERED, *SPELLINGS, *GROUPS, *refused_commands(), "help"})
_VALUES = (
    "",
    "-",
    "--",
    "busybox",
    "a:/b",
    "/a:/b:ro",
    "type=bind,source=/a,target=/b",
    'type=tmpfs,"target=/a"',
    "1.5g",
    "-1",
    "0-3,5",
    "container:db",
    "name=job,alias=x",
    "device=0,1",
    "A=B",
    "true",
    "false",
    "=",
    ",",
    '"',
    "{{.ID}}",
    "\udcff",
    "\u0663",
    "docker://b",
)
_VALUE_LIKE = st.text(st.sampled_from('0123456789:=,./"-abkmg{}[]*$~ \\'), max_size=30)
_WORD = st.one_of(
    st.sampled_from(_OPTIONS),
    st.sampled_from(_VALUES),
    st.builds(
        lambda option, value: f"{option}={value}",
        st.sampled_from(_OPTIONS),
        st.one_of(st.sampled_from(_VALUES), _VALUE_LIKE),
    ),
    st.builds(
        str.__add__, st.sampled_from(["-", "--", "---", "-i", "-v", "-vi", "--x", "--name=", "--log-driver="]), ANY_TEXT
    ),
    _VALUE_LIKE,
    ANY_TEXT,
)
_LINE = st.builds(
    lambda command, words: [*command.split(), *words], st.sampled_from(_COMMANDS), st.lists(_WORD, max_size=8)
)
_PROGRAM = st.sampled_from(["docker", "docker", "docker", "podman", "singularity", "apptainer", "docker-compose", ""])


@settings(max_examples=1000)
@given(st.one_of(_LINE, st.lists(_WORD, max_size=8)), _PROGRAM)
def test_parse_raises_nothing_else(argv: list[str], program: str) -> None:
    """Any words of any program: a command, or one line that can be printed."""
    try:
        parse(argv, WORDS, program)
    except ShimRefusal as refusal:
        assert refusal.sentence
        assert "\n" not in refusal.sentence
        assert refusal.sentence.isprintable(), refusal.sentence
        assert len(refusal.sentence) < 2000
        assert refusal.status in (1, 125)


@settings(max_examples=500)
@given(st.sampled_from(_OPTIONS), st.one_of(_VALUE_LIKE, ANY_TEXT, st.sampled_from(_VALUES)))
def test_every_value_is_read_or_refused(option: str, value: str) -> None:
    """One option at a time, so that its reader is reached."""
    for command in ("run", "exec", "ps", "logs", "stop", "network create", "login"):
        try:
            parse([*command.split(), option, value, "busybox", "x"], WORDS)
        except ShimRefusal as refusal:
            assert refusal.sentence.isprintable(), refusal.sentence


_TEMPLATE_PARTS = (
    "{{", "}}", "{{-", "-}}", " ", ".", ".ID", "$", "$x", ":=", "=", "|", "(", ")", ",", '"a"', "`b`", "1", "1.5", "if", "else",
    "end", "range", "with", "break", "continue", "eq", "index", "json", "printf", '"%d %s"', "len", "join", "split", "nil", "true",
    "/*", "*/", "\\", "\n", "x", "{{if .ID}}", "{{range .L}}", "{{end}}", "{{else}}", "slice", "print", "truncate", "pad", "title",
)  # fmt: skip


@settings(max_examples=1000)
@given(st.one_of(st.lists(st.sampled_from(_TEMPLATE_PARTS), max_size=25).map("".join), ANY_TEXT))
def test_templates_raise_nothing_else(text: str) -> None:
    """Whatever the template: text, or its own error."""
    value = {"ID": "ab", "L": [1, "b", None, {"x": 1.5}], "M": {"Labels": {"a": "b"}}}
    for render in (lambda: Template(text).render(value), lambda: images([ImageRow(id="a")], 5.0, format_=text)):
        try:
            assert isinstance(render(), str)
        except BadTemplate as error:
            assert str(error)


@given(st.one_of(st.binary(max_size=200), st.text(st.sampled_from("AB= \t#\n\r\x00é"), max_size=80).map(str.encode)))
def test_env_files_raise_nothing_else(data: bytes) -> None:
    """Any bytes: pairs an environment can hold, or BadValue."""
    try:
        pairs = parse_env_file(data, "e")
    except BadValue as error:
        assert str(error)
        return
    assert all(name and "=" not in name and "\0" not in name + (value or "") for name, value in pairs)


def _seconds(argv: list[str]) -> float:
    start = time.process_time()
    try:
        parse(argv, WORDS)
    except ShimRefusal:
        pass
    return time.process_time() - start


@pytest.mark.parametrize(
    "line",
    [
        lambda size: ["run", "-" + "i" * size, "b"],
        lambda size: ["run", "-" + "i" * size + "?", "b"],
        lambda size: ["run", "--" + "x" * size, "b"],
        lambda size: ["x" * size],
        lambda size: ["run", "-v", ":" * size, "b"],
        lambda size: ["run", "-v", "/a:/b:" + "ro," * (size // 3), "b"],
        lambda size: ["run", "-v", "/" + "/." * (size // 2) + ":/b", "b"],
        lambda size: ["run", "--mount", '"' * size, "b"],
        lambda size: ["run", "--mount", "type=bind," * (size // 10), "b"],
        lambda size: ["run", "--tmpfs", "/a:" + "rw," * (size // 3), "b"],
        lambda size: ["run", "--gpus", "device=" + "0," * (size // 2), "b"],
        lambda size: ["run", "--network", "name=a," + "alias=b," * (size // 8), "b"],
        lambda size: ["run", "-m", "1" * size, "b"],
        lambda size: ["run", "-m", "1." + "1" * size, "b"],
        lambda size: ["run", "--cpus", "." * size, "b"],
        lambda size: ["run", "--cpuset-cpus", "0-" * (size // 2), "b"],
        lambda size: ["run", "a/" * (size // 2)],
        lambda size: ["run", "a" * size],
        lambda size: ["run", *["-l", "a=b"] * (size // 8), "b"],
        lambda size: ["run", *["-i"] * (size // 4), "b"],
        lambda size: ["run", "b", *["x"] * (size // 4)],
        lambda size: ["ps", "--filter", "name=" + "a" * size],
        lambda size: ["ps", *["--filter", "name=a"] * (size // 20)],
        lambda size: ["kill", "-s", "RTMIN+" + "1" * size, "a"],
        lambda size: ["cp", "a:" * (size // 2), "b"],
    ],
)
def test_time_is_linear(line: Callable[[int], list[str]]) -> None:
    """Eight times the words take nowhere near 64 times as long, and the longest the kernel takes is quick."""
    small, large = 15_000, 120_000
    assert min(_seconds(line(large)) for _ in range(3)) < 24 * max(min(_seconds(line(small)) for _ in range(3)), 0.002)
