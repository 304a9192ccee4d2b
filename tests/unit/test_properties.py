"""What holds of the parsers for every input: they answer with a value or their own error, and values re-parse."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.directive.parse import Directive, DirectiveError, expand
from pbsdock.directive.tokens import DASHES
from pbsdock.directive.vocabulary import ALIASES, FLAGS, OPTIONS, REFUSED
from pbsdock.rm.torque import (
    BadValue,
    NodeSpec,
    parse_duration,
    parse_epilogue_argv,
    parse_jb,
    parse_job_id,
    parse_nodes,
    parse_prologue_argv,
    parse_resource_list,
    parse_size,
    slots_on,
)
from tests.support.torque import WORDS, parse_options, parse_script

ANY_TEXT = st.text(st.characters(codec=None), max_size=200)  # lone surrogates too
VALUES = {"USER": "a", "HOME": "/home/a", "PBS_JOBID": "7.vm", "PBS_O_WORKDIR": "/w", "TMPDIR": "/tmp/7.vm"}

# -- Torque's words ---------------------------------------------------------------------------------------------------

TORQUE_LIKE = st.text(st.sampled_from("0123456789:=+,.#[]-kmgtbw pn\u00b2\u0661\u212a"), max_size=40)


@given(st.one_of(ANY_TEXT, TORQUE_LIKE))
def test_torque_parsers_raise_nothing_else(text: str) -> None:
    """Whatever comes, the answer is a value or BadValue."""
    for parse in (parse_job_id, parse_size, parse_duration, parse_nodes, parse_resource_list):
        try:
            parse(text)
        except BadValue as error:
            assert str(error)


@given(st.one_of(ANY_TEXT, TORQUE_LIKE), ANY_TEXT)
def test_slots_are_counted_of_anything(exec_host: str, node: str) -> None:
    """A host list is mom's own; still nothing in it can raise, and here is never more than all."""
    here, total = slots_on(exec_host, node)

    assert 0 <= here <= total


@given(st.lists(TORQUE_LIKE, max_size=12))
def test_argument_vectors_raise_nothing_else(argv: list[str]) -> None:
    """Any number of any arguments."""
    for parse in (parse_prologue_argv, parse_epilogue_argv):
        try:
            parse(argv)
        except BadValue as error:
            assert str(error)


@given(
    st.one_of(
        st.binary(max_size=200),
        ANY_TEXT.map(
            lambda text: (
                b"<job><jobid>7.vm</jobid><attributes>" + text.encode("utf-8", "replace") + b"</attributes></job>"
            )
        ),
    )
)
def test_job_files_raise_nothing_else(data: bytes) -> None:
    """Broken XML, strange encodings, other documents."""
    try:
        parse_jb(data)
    except BadValue as error:
        assert str(error)


@given(st.integers(0, 10**12), st.sampled_from("kmgtp"), st.sampled_from(["", "b", "B", "w", "W"]), st.booleans())
def test_sizes(count: int, scale: str, unit: str, upper: bool) -> None:
    """A size is its count times its unit, whatever the case."""
    text = f"{count}{scale.upper() if upper else scale}{unit}"

    assert parse_size(text) == count * 1024 ** ("kmgtp".index(scale) + 1) * (4 if unit in ("w", "W") else 1)


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations(days: int, hours: int, minutes: int, seconds: int) -> None:
    """Every form of one time is the same number of seconds."""
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    assert parse_duration(f"{days}:{hours:02}:{minutes:02}:{seconds:02}") == total
    assert parse_duration(f"{days * 24 + hours}:{minutes}:{seconds}") == parse_duration(str(total)) == total


NODE_SPECS = st.builds(
    lambda count, name, ppn, gpus, properties: NodeSpec(
        count=1 if name else count, name=name, ppn=ppn, gpus=gpus, properties=tuple(properties)
    ),
    st.integers(1, 999),
    st.one_of(st.none(), st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True)),
    st.integers(1, 99),
    st.integers(0, 9),
    st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), max_size=3),
)


@given(st.lists(NODE_SPECS, min_size=1, max_size=4))
def test_nodes_round_trip(specs: list[NodeSpec]) -> None:
    """A nodes request reads as what it was written from."""
    text = "+".join(
        ":".join([one.name or str(one.count), f"ppn={one.ppn}", f"gpus={one.gpus}", *one.properties]) for one in specs
    )

    assert parse_nodes(text) == tuple(specs)
    assert parse_resource_list(f"nodes={text},mem=1kb").nodes == tuple(specs)


@given(
    st.integers(0, 10**9),
    st.one_of(st.none(), st.integers(0, 99999)),
    st.from_regex(r"[a-z][a-z0-9.]{0,200}", fullmatch=True).filter(lambda server: ".." not in server),
)
def test_job_ids_round_trip(number: int, index: int | None, server: str) -> None:
    """An id is what it was made of, and its file name is no path, no pattern and not long."""
    text = f"{number}{'' if index is None else f'[{index}]'}.{server}"
    found = parse_job_id(text)

    assert (found.number, found.array_index, found.server, found.text) == (number, index, server, text)
    assert re.fullmatch(r"[0-9][A-Za-z0-9.-]{0,99}", found.safe)


@given(st.one_of(ANY_TEXT, TORQUE_LIKE))
def test_accepted_job_ids_are_harmless(text: str) -> None:
    """What is accepted has nothing a path, a shell or a glob could read."""
    try:
        found = parse_job_id(text)
    except BadValue:
        return
    assert parse_job_id(found.text) == found
    assert re.fullmatch(r"[A-Za-z0-9._-]+", found.safe)


# -- the directive ----------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(f"--{one}" for one in (*OPTIONS, *FLAGS)),
        *ALIASES,
        *REFUSED,
        *DASHES,
        *(f"${one}" for one in WORDS.variables),
        "$X",
        "$",
        "--",
        "-",
        "=",
        "'",
        '"',
        "\\",
        "#",
        " ",
        "\t",
        "`",
        "/",
        "..",
        ":",
        ":ro",
        "/x:/y",
        "a",
        "b:1",
        "s3://b/k",
        "64m",
        "A=1",
        "\n",
        "\r",
        "\0",
        "\u00a0",
        "\u202e",
        "\ud800",
        "size=",
        "@sha256:",
    ]
)
ALMOST = st.lists(WORDS, max_size=25).map("".join) | st.lists(WORDS, max_size=12).map(" ".join)

# Whole options, most of them right: what they add up to is accepted often enough to be looked at.
OPTION = st.sampled_from(
    [
        "-v /x:/y",
        "-v $HOME/in:/data:ro",
        "--volume='/a b':/c/./d",
        '-v /x:"$TMPDIR"/z',
        "-v /x:/$USER/\\$1",
        "-v /x:/../y",
        "-w /d",
        "--workdir=$PBS_O_WORKDIR/x",
        "-w '/a`b'",
        "-e A=1",
        "-e B",
        "--env C='$x \"'",
        "-e D=a\\\\b",
        "--env=E=",
        "-e 1=2",
        "--entrypoint /bin/env",
        "--entrypoint ''",
        "--network none",
        "--shm-size 1g",
        "--tmpfs /t:size=1m",
        "--tmpfs /u",
        "--read-only",
        "--pull always",
        "--platform linux/arm64/v8",
        "--gpus all",
        "--gpus=2",
        "--s3 b/p:ro",
        "--s3=x:c",
        "--stage-in s3://b/k $TMPDIR/k",
        "--stage-out='/r s' s3://b/$USER/",
        "--stage-out /r s3://x:b on=always",
        "# remark",
        "--rm",
        "--privileged",
    ]
)
IMAGES = st.sampled_from(["a", "a/b:1", "'reg:5000/x'", "localhost/y@sha256:" + "0f" * 32, "docker.io/z"])
LIKELY = st.tuples(IMAGES, st.lists(OPTION, max_size=8, unique=True)).map(lambda one: " ".join([one[0], *one[1]]))


@given(st.one_of(ANY_TEXT, ALMOST, LIKELY))
def test_options_raise_nothing_else(text: str) -> None:
    """Whatever a user writes, the answer is a directive or a DirectiveError with a place, in one line a problem."""
    try:
        found = parse_options(text)
    except DirectiveError as error:
        assert error.problems
        assert all(one.line == 1 and 1 <= one.column <= len(text) + 1 for one in error.problems)
        assert str(error).splitlines() == [f"PBSDOCK:1:{one.column}: {one.message}" for one in error.problems]
        assert str(error).replace("\n", "").isprintable()
    else:
        _holds(found)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"#DOCKER a", b"#DOCKER ", b"#docker ", b"#", b"", b"true", b"\r", b" #"]),
        ),
        max_size=8,
    ),
    st.sampled_from([b"\n", b"\r\n", b"\n#DOCKER "]),
)
def test_scripts_raise_nothing_else(lines: list[bytes], between: bytes) -> None:
    """Any bytes are answered, and every error lies in the script."""
    data = between.join(lines)
    try:
        found = parse_script(data)
    except DirectiveError as error:
        assert error.problems
        assert all(1 <= one.line <= data.count(b"\n") + 1 and one.column >= 1 for one in error.problems)
    else:
        if found is not None:
            _holds(found)


def _holds(found: Directive) -> None:
    """What is true of every accepted directive."""
    assert parse_image(found.image.canonical).canonical == found.image.canonical
    assert parse_options(_written(found)) == _moved(parse_options(_written(found)), found)
    filled = expand(found, VALUES)
    for path in (
        *(one.source for one in filled.volumes),
        *(one.target for one in filled.volumes),
        filled.workdir or "/",
    ):
        assert path.startswith("/")
        assert ".." not in path.split("/")


def _moved(there: Directive, original: Directive) -> Directive:
    """*original* with the places of *there*: a rewritten directive may differ in nothing else."""
    volumes = tuple(
        replace(one, line=other.line, column=other.column)
        for one, other in zip(original.volumes, there.volumes, strict=True)
    )
    return replace(
        original, volumes=volumes, line=there.line, column=there.column, filename=there.filename, where=there.where
    )


def _spelled(stored: str) -> str:
    """A stored value as a user would write it: in double quotes, so that its variables still expand."""
    protected = re.sub(r'[\\"`]', lambda match: "\\" + match.group(), stored)
    return f'"{protected.replace("$$", chr(92) + "$")}"'


def _written(found: Directive) -> str:
    words = [shlex.quote(found.image_text)]
    for volume in found.volumes:
        words += ["-v", _spelled(f"{volume.source}:{volume.target}:{'ro' if volume.read_only else 'rw'}")]
    for name, value in found.env:
        words += ["--env", name if value is None else f"{name}={_spelled(value)}"]
    for tmpfs in found.tmpfs:
        words += ["--tmpfs", _spelled(tmpfs.target) + (f":size={tmpfs.size_bytes}" if tmpfs.size_bytes else "")]
    if found.workdir:
        words += ["--workdir", _spelled(found.workdir)]
    for option in ("entrypoint", "network", "pull", "platform", "gpus"):
        if value := getattr(found, option):
            words += [f"--{option}={shlex.quote(value)}"]
    words += [f"--shm-size={found.shm_size}"] if found.shm_size else []
    words += ["--read-only"] if found.read_only else []
    words += [f"--s3={one}" for one in found.s3]
    for url, path in found.stage_in:
        words += [f"--stage-in={_spelled(url)}", _spelled(path)]
    for path, url, when in found.stage_out:
        words += [f"--stage-out={_spelled(path)}", _spelled(url), f"on={when}"]
    return " ".join(words)


PATHS = st.builds(
    lambda start, parts: start + "".join(f"/{one}" for one in parts),
    st.sampled_from(["", "$HOME", "${TMPDIR}", "$PBS_O_WORKDIR"]),
    st.lists(
        st.text(st.characters(categories=["L", "N"], include_characters=" '\"\\`#=-$~*"), min_size=1, max_size=6).map(
            lambda text: text.replace("$", "$$")
        ),
        min_size=1,
        max_size=3,
    ),
)


@given(
    st.lists(st.tuples(PATHS, PATHS, st.booleans()), max_size=3, unique_by=lambda one: one[1]),
    st.dictionaries(
        st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True),
        st.none()
        | st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=9).map(lambda text: text.replace("$", "$$")),
        max_size=3,
    ),
    st.none() | PATHS,
    st.booleans(),
    st.none() | st.integers(1, 1 << 40),
)
def test_directives_round_trip(
    volumes: list[tuple[str, str, bool]],
    env: dict[str, str | None],
    workdir: str | None,
    read_only: bool,
    shm: int | None,
) -> None:
    """A directive written out, quotes and all, reads as what it was written from."""
    words = [
        "registry.example:5000/a/b:1",
        *(["--read-only"] if read_only else []),
        *([f"--shm-size {shm}"] if shm else []),
    ]
    words += [f"-v {_spelled(source)}:{_spelled(target)}:{'ro' if ro else 'rw'}" for source, target, ro in volumes]
    words += [f"-e {name}" if value is None else f"-e {name}={_spelled(value)}" for name, value in env.items()]
    words += [f"-w {_spelled(workdir)}"] if workdir else []
    try:
        found = parse_options(" ".join(words))
    except DirectiveError as error:
        # the only two a path made above can earn
        assert re.search(r"belongs to the kernel|used twice", str(error))
        return

    assert [(one.source, one.target, one.read_only) for one in found.volumes] == volumes
    assert (dict(found.env), found.workdir, found.read_only, found.shm_size) == (env, workdir, read_only, shm)


@given(st.text(st.sampled_from("$\\'\"a {}H"), max_size=12))
def test_quoting_is_the_shells(text: str) -> None:
    """What a shell's own quoting wraps comes out as it went in."""
    for quoted in (shlex.quote(text), "".join(f"\\{one}" for one in text)):
        found = expand(parse_options(f"a -e X={quoted}"), VALUES)
        assert found.env == (("X", text),)


# -- images -----------------------------------------------------------------------------------------------------------


@given(st.one_of(ANY_TEXT, st.text(st.sampled_from("abAB01.:/@_-[]"), max_size=60)))
def test_images_raise_nothing_else(text: str) -> None:
    """Any text is an image or a BadImage; what is accepted has nothing but printable ASCII."""
    try:
        found = parse_image(text)
    except BadImage as error:
        assert str(error)
        return
    assert text.isascii()
    assert text.isprintable()
    assert parse_image(found.canonical).canonical == found.canonical


COMPONENT = st.from_regex(r"[a-z0-9]{1,5}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)


@given(
    st.sampled_from(["", "docker.io/", "localhost/", "reg:5000/", "reg.example.org/", "[::1]:80/"]),
    st.lists(COMPONENT, min_size=1, max_size=3),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True),
    st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
def test_canonical_is_a_fixed_point(registry: str, parts: list[str], tag: str | None, digest: str | None) -> None:
    """Docker's grammar is taken whole, and a canonical reference parses to itself."""
    if not registry and len(parts) > 1:
        parts[0] = parts[0].replace(".", "-")  # with a dot it would be a registry
    text = registry + "/".join(parts) + (f":{tag}" if tag else "") + (f"@sha256:{digest}" if digest else "")
    found = parse_image(text)

    assert (found.tag, found.digest) == (tag or (None if digest else "latest"), f"sha256:{digest}" if digest else None)
    assert parse_image(found.canonical).canonical == found.canonical


def test_no_number_is_too_long_for_the_parsers() -> None:
    """Python refuses to read numbers of more than 4,300 digits: none gets that far."""
    digits = "9" * 5000
    for parse in (parse_job_id, parse_size, parse_duration):
        with pytest.raises(BadValue):
            parse(digits)
    assert slots_on(f"vm/{digits}", "vm") == (0, 0)
    assert parse_resource_list(f"ncpus={digits}").ncpus is None
