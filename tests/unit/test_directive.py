"""The directive's grammar: what it takes, and the sentence for everything it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.directive import DirectiveError, expand, parse_options, parse_script
from pbsdock.image_ref import BadImage, parse_image
from pbsdock.options import REFUSED


def _errors(*lines: str) -> list[str]:
    with pytest.raises(DirectiveError) as caught:
        parse_script(("\n".join(("#!/bin/sh", *lines)) + "\n").encode(), "job.sh")
    return str(caught.value).splitlines()


def test_everything_at_once() -> None:
    """Every option, in both spellings, over several lines, with quotes and variables."""
    found = parse_script(
        b"#!/bin/sh\n#PBS -N x\n\n# a remark\n"
        b"#DOCKER --volume $HOME/in:/data:ro -w /data registry.example:5000/a/b:1.2 # remark\n"
        b"#DOCKER -e A=1 --env=B --env 'C=x y' --shm-size 64m --tmpfs /scratch:size=1gb --read-only\r\n"
        b"#DOCKER --pull=always --platform linux/amd64 --network none --entrypoint /bin/env --gpus all\n"
        b"true\n"
    )
    assert found is not None
    assert found.image.canonical == "registry.example:5000/a/b:1.2"
    assert [(one.source, one.target, one.read_only, one.line) for one in found.volumes] == [
        ("$HOME/in", "/data", True, 5)
    ]
    assert found.env == (("A", "1"), ("B", None), ("C", "x y"))
    assert (found.shm_size, found.tmpfs[0].size_bytes, found.read_only) == (64 << 20, 1 << 30, True)
    assert (found.pull, found.platform, found.network, found.entrypoint, found.gpus) == (
        "always", "linux/amd64", "none", "/bin/env", "all",
    )  # fmt: skip
    assert expand(found, {"HOME": "/home/a"}).volumes[0].source == "/home/a/in"


def test_no_directive() -> None:
    """A script without one is none of our business, whatever it says about docker."""
    for text in (b"", b"true\n", b"# docker images are nice\n", b"#DOCKERFILE\n", b"echo '\n #DOCKER x'\n"):
        assert parse_script(text) is None


@pytest.mark.parametrize(("line", "says"), [
    ("#DOCKER", "job.sh:2:1: #DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'"),
    ("#DOCKER BusyBox", "job.sh:2:9: image 'BusyBox' has capital letters; repository names are lower case"),
    ("#DOCKER a:!", "job.sh:2:9: tag '!' of image 'a:!' is not letters, digits, '_', '.' and '-', at most 128"),
    ("#DOCKER a@sha256:12",
     "job.sh:2:9: digest 'sha256:12' of image 'a@sha256:12' is not sha256: and 64 hexadecimal digits"),
    ("#DOCKER --volume", "job.sh:2:9: --volume needs a value: --volume SOURCE:TARGET[:ro|rw]"),
    ("#DOCKER a -v /x", "job.sh:2:14: --volume '/x' is not SOURCE:TARGET[:ro|rw]"),
    ("#DOCKER a -v /x:/y:rx", "job.sh:2:20: --volume mode 'rx' is not known; use ro or rw"),
    ("#DOCKER a -v x:/y", "job.sh:2:14: --volume source 'x' is not absolute; begin it with / or $HOME"),
    ("#DOCKER a -v /x/../y:/y", "job.sh:2:14: --volume source '/x/../y' has a '..' component; write the path without it"),
    ("#DOCKER a -v /x:/", "job.sh:2:14: --volume cannot cover the whole image: / is not a target"),
    ("#DOCKER a -v /x:/proc/1", "job.sh:2:14: --volume target '/proc/1' lies in 'proc', which belongs to the kernel"),
    ("#DOCKER a -v /x:/y -v /z:/y", "job.sh:2:23: --volume target '/y' is used twice"),
    ("#DOCKER a -v $SCRATCH/x:/y",
     "job.sh:2:14: $SCRATCH does not expand here; only $USER $HOME $PBS_JOBID $PBS_O_WORKDIR $TMPDIR do"),
    ("#DOCKER a -e 1A=2", "job.sh:2:14: --env name '1A' is not a variable name; use letters, digits and '_'"),
    ("#DOCKER a --pull often", "job.sh:2:18: --pull 'often' is not known; use never, missing or always"),
    ("#DOCKER a --shm-size 0", "job.sh:2:22: '0' is no size to work with; it must be above zero"),
    ("#DOCKER a -w x", "job.sh:2:14: --workdir 'x' is not absolute; begin it with / or $HOME"),
    ("#DOCKER a -w /x -w /y", "job.sh:2:17: --workdir is given twice; one value counts"),
    ("#DOCKER a 'b", "job.sh:2:11: the quotation mark ' is not closed"),
    ("#DOCKER a --env=", "job.sh:2:17: --env has an empty value: --env NAME[=VALUE]"),
    ("#DOCKER a --", "job.sh:2:11: '--' has no meaning here; write options and one image"),
    ("#DOCKER a --privledged", "job.sh:2:11: unknown option --privledged; did you mean --privileged?"),
    ("#docker a:1", "job.sh:2:1: a directive begins with #DOCKER in capital letters"),
    ("#DOCKER a\x1b[1m", "job.sh:2:10: control character '\\x1b' is not allowed here"),
])  # fmt: skip
def test_sentences(line: str, says: str) -> None:
    """Line, column, value, cure."""
    assert _errors(line) == [says]


@pytest.mark.parametrize("option", REFUSED)
def test_refused_on_principle(option: str) -> None:
    """Everything Docker has and a job may not have gets its own reason."""
    assert _errors(f"#DOCKER {option} busybox") [0] == f"job.sh:2:9: {option} is not available: {REFUSED[option]}"


def test_all_errors_of_a_script_at_once() -> None:
    """Three lines, four mistakes, four sentences in order."""
    found = _errors("#DOCKER --user 0 a:1", "#DOCKER b:1 --pull x", "true", "#DOCKER c")

    assert [one.split(": ")[0] for one in found] == ["job.sh:2:9", "job.sh:3:9", "job.sh:3:20", "job.sh:5:1"]


def test_too_long() -> None:
    """Lines and values have limits."""
    assert _errors("#DOCKER a" + " " * 5000) == [
        "job.sh:2:4097: the line has 5009 bytes; at most 4096 are taken"
    ]
    assert _errors(f"#DOCKER a -e A={'x' * 2000}") == [
        "job.sh:2:14: the value of --env has 2002 characters; at most 1024 are taken"
    ]


@pytest.mark.parametrize(("text", "canonical"), [
    ("busybox", "docker.io/library/busybox:latest"),
    ("a/b:1", "docker.io/a/b:1"),
    ("localhost/x", "localhost/x:latest"),
    ("reg:5000/x/y@sha256:" + "a" * 64, "reg:5000/x/y@sha256:" + "a" * 64),
    ("docker.io/busybox", "docker.io/library/busybox:latest"),
])  # fmt: skip
def test_image_grammar(text: str, canonical: str) -> None:
    """Docker's own completion of short names."""
    assert parse_image(text).canonical == canonical


@given(st.text(max_size=200))
def test_fuzz_options(text: str) -> None:
    """Whatever a user writes, the answer is a directive or a DirectiveError with a place."""
    try:
        parse_options(text)
    except DirectiveError as error:
        assert error.problems
        assert all(one.line == 1 and one.column >= 1 for one in error.problems)


@given(st.binary(max_size=300))
def test_fuzz_scripts(data: bytes) -> None:
    """Any bytes after the word are answered."""
    try:
        parse_script(b"#DOCKER " + data)
    except DirectiveError as error:
        assert str(error)


@given(st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}(:[a-z0-9]{1,5})?", fullmatch=True))
def test_canonical_is_a_fixed_point(text: str) -> None:
    """A canonical reference parses to itself."""
    try:
        canonical = parse_image(text).canonical
    except BadImage:
        return
    assert parse_image(canonical).canonical == canonical
