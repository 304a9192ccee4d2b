"""The directive's grammar: what it takes, and the sentence for everything it does not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.directive.parse import Directive, DirectiveError, Problem, expand, late_line
from pbsdock.directive.vocabulary import ALIASES, FLAGS, OPTIONS, REFUSED, REFUSED_FLAGS, why_refused
from tests.support.torque import WORDS, parse_options, parse_script

EXAMPLES = Path(__file__).parents[2] / "examples"
ONLY = "only $USER $HOME $PBS_JOBID $PBS_O_WORKDIR $TMPDIR do"
NO_IMAGE = "job.sh:2:1: #DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'"


def _errors(*lines: str | bytes) -> list[str]:
    script = b"\n".join(one if isinstance(one, bytes) else one.encode() for one in ("#!/bin/sh", *lines)) + b"\n"
    return _told(script)


def _told(script: bytes, *, refuses_late: bool = False) -> list[str]:
    with pytest.raises(DirectiveError) as caught:
        parse_script(script, filename="job.sh", refuses_late=refuses_late)
    return str(caught.value).splitlines()


def _parsed(*lines: str) -> Directive:
    found = parse_script("\n".join(("#!/bin/sh", *lines, "true", "")).encode(), filename="job.sh")
    assert found is not None
    return found


# -- what is taken ----------------------------------------------------------------------------------------------------


def test_everything_at_once() -> None:
    """Every option, in both spellings, over several lines, with quotes and variables."""
    found = parse_script(
        b"#!/bin/sh\n#PBS -N x\n\n# a remark\n"
        b"#DOCKER --volume $HOME/in:/data:ro -w /data registry.example:5000/a/b:1.2 # remark\n"
        b"#DOCKER -e A=1 --env=B --env 'C=x y' --shm-size 64m --tmpfs /scratch:size=1gb --read-only\r\n"
        b"#DOCKER --pull=always --platform linux/amd64 --network none --entrypoint /bin/env --gpus all\n"
        b"#DOCKER --s3 lab:in/2024:ro --s3=out --stage-in s3://in/a $TMPDIR/a --stage-out=$HOME/b s3://out/b/\n"
        b"true\n"
    )
    assert found is not None
    assert found.image.canonical == "registry.example:5000/a/b:1.2"
    assert (found.image_text, found.line, found.column) == ("registry.example:5000/a/b:1.2", 5, 45)
    assert [(one.source, one.target, one.read_only, one.line, one.column) for one in found.volumes] == [
        ("$HOME/in", "/data", True, 5, 9)
    ]
    assert found.workdir == "/data"
    assert found.env == (("A", "1"), ("B", None), ("C", "x y"))
    assert (found.shm_size, found.tmpfs[0].size_bytes, found.read_only) == (64 << 20, 1 << 30, True)
    assert (found.pull, found.platform, found.network, found.entrypoint, found.gpus) == (
        "always",
        "linux/amd64",
        "none",
        "/bin/env",
        "all",
    )
    assert found.s3 == ("lab:in/2024:ro", "out")
    assert found.stage_in == (("s3://in/a", "$TMPDIR/a"),)
    assert found.stage_out == (("$HOME/b", "s3://out/b/", "success"),)
    assert (found.at("shm-size"), found.at("volume"), found.at("none of these")) == (
        "script:6:38",
        "script:5:9",
        "script:5:45",
    )


def test_when_to_stage_out() -> None:
    """``on=`` belongs to the option before it; an image after it is still the image."""
    found = parse_options("--stage-out /a s3://b/k on=always --stage-out /c s3://b/ on=success busybox")

    assert found.stage_out == (("/a", "s3://b/k", "always"), ("/c", "s3://b/", "success"))
    assert found.image_text == "busybox"


def test_no_directive() -> None:
    """A script without one is none of our business, whatever it says about docker."""
    for text in (
        b"",
        b"true\n",
        b"# docker images are nice\n",
        b"#DOCKERFILE\n",
        b"echo '\n #DOCKER x'\n",
        b"#DOCKER: a\n",
        b"#docker\n",
        b"#Docker is not needed here\n",
        b"#docker-compose up\n",
        b"# DOCKER a\n",
        b"  #DOCKER a\n",
        b"true\n#docker a\n",
        b"#docker images - see the wiki\n",
    ):
        assert parse_script(text) is None


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("#DOCKER a", "a"),
        ("#DOCKER\ta\t", "a"),
        ("#DOCKER 'a'", "a"),
        ('#DOCKER "a":"1"', "a:1"),
        ("#DOCKER a\r", "a"),
        ("#DOCKER a #b", "a"),
        ("#DOCKER --read-only=false a", "a"),
        ("#DOCKER --entrypoint '' a", "a"),
    ],
)
def test_spellings(written: str, image: str) -> None:
    """Blanks, quotes, remarks and CRLF line ends make no difference."""
    found = _parsed(written)

    assert (found.image_text, found.read_only, found.entrypoint) == (image, False, None)


def test_header_ends_at_the_first_command() -> None:
    """Blank lines and comments, indented ones too, do not end it, and a here-document after it is not searched."""
    found = parse_script(b"#!/bin/sh\r\n\r\n   # x\r\n\t\r\n#DOCKER a\r\n\r\n#DOCKER -w /x\r\ntrue\r\n")

    assert found is not None
    assert (found.image.repository, found.workdir) == ("library/a", "/x")


@pytest.mark.parametrize(
    ("written", "stored", "meant"),
    [
        ("$HOME", "$HOME", "/home/a"),
        ("${HOME}x", "${HOME}x", "/home/ax"),
        ('"$HOME"x', "${HOME}x", "/home/ax"),
        ('"$HOME x"', "$HOME x", "/home/a x"),
        ("'$HOME'", "$$HOME", "$HOME"),
        ("\\$HOME", "$$HOME", "$HOME"),
        ('"\\$HOME"', "$$HOME", "$HOME"),
        ("\\$\\$HOME", "$$$$HOME", "$$HOME"),
        ("\\$$HOME", "$$$HOME", "$/home/a"),
        ("$USER-$PBS_JOBID", "$USER-$PBS_JOBID", "a-7.vm"),
        ("'a\\b'", "a\\b", "a\\b"),
        ('"a\\b\\"c\\\\"', 'a\\b"c\\', 'a\\b"c\\'),
        ("a\\ b\\#", "a b#", "a b#"),
        ("", "", ""),
    ],
)
def test_quoting_and_expansion(written: str, stored: str, meant: str) -> None:
    """As a shell reads it: what a quotation mark or a backslash protects does not expand."""
    found = _parsed(f"#DOCKER -e X={written} a")
    values = {"HOME": "/home/a", "USER": "a", "PBS_JOBID": "7.vm"}

    assert found.env == (("X", stored),)
    assert expand(found, values).env == (("X", meant),)


def test_expansion_everywhere() -> None:
    """Volumes, work directory, tmpfs and stage paths expand; what a variable holds is not read again."""
    found = expand(
        _parsed("#DOCKER a -v $HOME/x:/x/$USER -w $TMPDIR --tmpfs $TMPDIR/t --stage-in s3://b/$USER $HOME/k"),
        {"HOME": "/h", "USER": "$HOME:b", "TMPDIR": "/t"},
    )

    assert (found.volumes[0].source, found.volumes[0].target, found.workdir, found.tmpfs[0].target) == (
        "/h/x",
        "/x/$HOME:b",
        "/t",
        "/t/t",
    )
    assert found.stage_in == (("s3://b/$HOME:b", "/h/k"),)


def test_a_variable_the_job_does_not_have() -> None:
    """Its name is the error."""
    with pytest.raises(KeyError, match=r"^'TMPDIR'$"):
        expand(_parsed("#DOCKER a -w $TMPDIR"), {"HOME": "/h"})


def test_interactive_form() -> None:
    """The text of PBSDOCK is a directive without the word; its errors have line 1."""
    assert parse_options("a:1 -w /x").workdir == "/x"
    for text, says in (
        ("", "PBSDOCK:1:1: no image is named; write '[options] IMAGE[:TAG]'"),
        ("a\n-w /x", "PBSDOCK:1:2: control character '\\n' is not allowed here"),
        ("a \udc80", "PBSDOCK:1:3: the line is not UTF-8 text"),
        ("\ud800", "PBSDOCK:1:1: the line is not UTF-8 text"),
    ):
        with pytest.raises(DirectiveError) as caught:
            parse_options(text)
        assert str(caught.value) == says


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    """Every shipped example has a directive that is taken."""
    assert parse_script(path.read_bytes(), filename=path.name) is not None


# -- what is not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "says"),
    [
        # image
        ("#DOCKER", "2:1: #DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'"),
        ("#DOCKER # a", "2:1: #DOCKER names no image; write '#DOCKER [options] IMAGE[:TAG]'"),
        ("#DOCKER BusyBox", "2:9: image 'BusyBox' has capital letters; repository names are lower case"),
        (
            "#DOCKER ''",
            "2:9: image '' is not an image name; write [REGISTRY/]REPOSITORY[:TAG] with lower-case letters, digits, '.', '_' and '-'",
        ),
        (
            "#DOCKER a//b",
            "2:9: image 'a//b' is not an image name; write [REGISTRY/]REPOSITORY[:TAG] with lower-case letters, digits, '.', '_' and '-'",
        ),
        ("#DOCKER a:!", "2:9: tag '!' of image 'a:!' is not letters, digits, '_', '.' and '-', at most 128"),
        ("#DOCKER a:", "2:9: tag '' of image 'a:' is not letters, digits, '_', '.' and '-', at most 128"),
        (
            "#DOCKER a@sha256:12",
            "2:9: digest 'sha256:12' of image 'a@sha256:12' is not sha256: and 64 hexadecimal digits",
        ),
        ("#DOCKER a..b:1/c", "2:9: registry 'a..b:1' of image 'a..b:1/c' is not a host name with an optional port"),
        (
            "#DOCKER docker://a/b",
            "2:9: image 'docker://a/b' begins with docker://; an image's name has no scheme, leave it out",
        ),
        (
            f"#DOCKER {'ab' * 32}",
            f"2:9: image '{'ab' * 32}' is an image's id; name its repository, with @sha256:… to pin it",
        ),
        (f"#DOCKER {'a' * 1100}", "2:9: the image's name has 1100 characters; at most 1024 are taken"),
        ("#DOCKER $USER/x", "2:9: $USER does not expand in an image's name; write it out"),
        ("#DOCKER a b:1", "2:11: a second image 'b:1'; line 2 names 'a' already and a job has one image"),
        (
            "#DOCKER a --privileged",
            "2:11: --privileged is not available: a job never gets more rights on the node than its user; ask your site for a device or a mount",
        ),
        # volumes
        ("#DOCKER a --volume", "2:11: --volume needs a value: --volume SOURCE:TARGET[:ro|rw]"),
        ("#DOCKER -v --read-only a", "2:9: -v needs a value: --volume SOURCE:TARGET[:ro|rw]"),
        ("#DOCKER a -v /x", "2:14: --volume '/x' is not SOURCE:TARGET[:ro|rw]"),
        ("#DOCKER a -v /x:/y:ro:z", "2:14: --volume '/x:/y:ro:z' is not SOURCE:TARGET[:ro|rw]"),
        ("#DOCKER a -v :/y", "2:14: --volume ':/y' is not SOURCE:TARGET[:ro|rw]"),
        ("#DOCKER a -v/x:/y", "2:11: -v and its value are two words; write -v VALUE"),
        ("#DOCKER a -v /x:/y:rx", "2:20: --volume mode 'rx' is not known; use ro or rw"),
        ("#DOCKER a -v '/x y':/y:Z", "2:24: --volume mode 'Z' is not known; use ro or rw"),
        ("#DOCKER a -v x:/y", "2:14: --volume source 'x' is not absolute; begin it with / or $HOME"),
        ("#DOCKER a -v ~/x:/y", "2:14: --volume source '~/x' is not absolute; begin it with / or $HOME"),
        ("#DOCKER a -v $USER/x:/y", "2:14: --volume source '$USER/x' is not absolute; begin it with / or $HOME"),
        ("#DOCKER a -v '$HOME/x:/y'", "2:14: --volume source '$HOME/x' is not absolute; begin it with / or $HOME"),
        ("#DOCKER a -v /x:y", "2:14: --volume target 'y' is not absolute; begin it with / or $HOME"),
        ("#DOCKER a -v /x/../y:/y", "2:14: --volume source '/x/../y' has a '..' component; write the path without it"),
        ("#DOCKER a -v /x:/y/..", "2:14: --volume target '/y/..' has a '..' component; write the path without it"),
        ("#DOCKER a -v /x:/", "2:14: --volume cannot cover the whole image: / is not a target"),
        ("#DOCKER a -v /x://.//", "2:14: --volume cannot cover the whole image: / is not a target"),
        ("#DOCKER a -v /x:/proc/1", "2:14: --volume target '/proc/1' lies in /proc, which belongs to the kernel"),
        ("#DOCKER a -v /x:/sys", "2:14: --volume target '/sys' lies in /sys, which belongs to the kernel"),
        ("#DOCKER a -v /x:/./dev/shm", "2:14: --volume target '/./dev/shm' lies in /dev, which belongs to the kernel"),
        ("#DOCKER a -v /x:/y -v /z://y/", "2:23: --volume target '//y/' is used twice"),
        # variables and quoting
        ("#DOCKER a -v $SCRATCH/x:/y", f"2:14: $SCRATCH does not expand here; {ONLY}"),
        ("#DOCKER a -v /x:'/a b'/${HOME:-/x}", f"2:24: $HOME:-/x does not expand here; {ONLY}"),
        ("#DOCKER a --entrypoint $HOME/run", "2:24: $HOME does not expand in --entrypoint; write it out"),
        ("#DOCKER a -v $(pwd):/y", "2:14: '$' begins a variable's name; write '\\$' for a plain dollar sign"),
        ("#DOCKER a -e A=5$", "2:17: '$' begins a variable's name; write '\\$' for a plain dollar sign"),
        ("#DOCKER a -v `pwd`:/y", "2:14: '`' would run a command, and nothing is run here; write the value out"),
        ("#DOCKER a -e 'b", "2:14: the quotation mark ' is not closed"),
        ('#DOCKER a -e b="c', '2:16: the quotation mark " is not closed'),
        ("#DOCKER a -e “b=c d”", "2:14: '“' is not a quotation mark; write \" or '"),
        ("#DOCKER a \\", "2:11: a backslash does not continue the line; begin the next one with #DOCKER as well"),
        # other values
        ("#DOCKER a -e 1A=2", "2:14: --env name '1A' is not a variable name; use letters, digits and '_'"),
        ("#DOCKER a -e A=1 --env A", "2:24: --env A is given twice; one value counts"),
        ("#DOCKER a --env=", "2:17: --env has an empty value: --env NAME[=VALUE]"),
        ("#DOCKER a --network ''", "2:21: --network has an empty value: --network NAME"),
        ("#DOCKER a --network a/b", "2:21: --network 'a/b' is not a network name"),
        ("#DOCKER a --pull often", "2:18: --pull 'often' is not known; use never, missing or always"),
        ("#DOCKER a --platform amd64!", "2:22: --platform 'amd64!' is not OS/ARCHITECTURE, for example linux/amd64"),
        ("#DOCKER a --shm-size 0", "2:22: --shm-size size '0' is nothing to work with"),
        (
            "#DOCKER a --shm-size 1.5g",
            "2:22: --shm-size size '1.5g' is not a whole number with b, k, m, g or t behind it, for example 64m",
        ),
        ("#DOCKER a --shm-size 1m --shm-size 2m", "2:25: --shm-size is given twice; one value counts"),
        (
            "#DOCKER a --tmpfs /x:size=",
            "2:19: --tmpfs size '' is not a whole number with b, k, m, g or t behind it, for example 64m",
        ),
        ("#DOCKER a --tmpfs /x:rw", "2:19: --tmpfs option 'rw' is not known; write PATH or PATH:size=SIZE"),
        ("#DOCKER a --tmpfs /dev", "2:19: --tmpfs path '/dev' lies in /dev, which belongs to the kernel"),
        ("#DOCKER a -w x", "2:14: --workdir 'x' is not absolute; begin it with / or $HOME"),
        ("#DOCKER a -w /x -w /y", "2:17: --workdir is given twice; one value counts"),
        ("#DOCKER a --read-only --read-only", "2:23: --read-only is given twice; one value counts"),
        ("#DOCKER a --read-only=yes", "2:11: --read-only takes no value"),
        ("#DOCKER a --s3 ../b", "2:16: --s3 '../b' is not [PROFILE:]BUCKET[/PREFIX][:ro|rw]"),
        (
            "#DOCKER a --stage-in s3://b/k",
            "2:11: --stage-in needs two values: --stage-in s3://[PROFILE:]BUCKET/KEY PATH",
        ),
        ("#DOCKER a --stage-in b/k /x", "2:22: --stage-in 'b/k' is not s3://[PROFILE:]BUCKET/KEY"),
        ("#DOCKER a --s3 x:y:b", "2:16: --s3 'x:y:b' is not [PROFILE:]BUCKET[/PREFIX][:ro|rw]"),
        (
            "#DOCKER a --s3 b/p/../q",
            "2:16: --s3 'b/p/../q' has an empty, '.' or '..' component; write the key without it",
        ),
        (
            "#DOCKER a --s3 b/p*:rw",
            "2:16: --s3 'b/p*:rw' has one of * ? [ : in its prefix; name what lies before it, a prefix covers all below it",
        ),
        (
            "#DOCKER a --s3 'b/${aws:x}'",
            "2:16: --s3 'b/${aws:x}' has '${' in its key, which a policy would fill in; it cannot be asked for",
        ),
        (
            "#DOCKER a --stage-in s3://b/x/../y /x",
            "2:22: --stage-in 's3://b/x/../y' has an empty, '.' or '..' component; write the key without it",
        ),
        (
            "#DOCKER a --stage-out /x s3://b/k on=failure",
            "2:35: --stage-out 'on=failure' is not known; write on=success or on=always",
        ),
        ("#DOCKER a --stage-out x s3://b/k", "2:23: --stage-out path 'x' is not absolute; begin it with / or $HOME"),
        # options
        ("#DOCKER a --", "2:11: '--' has no meaning here; write options and one image"),
        (
            "#DOCKER a --priviledged",
            "2:11: unknown option --priviledged; --privileged is not available: a job never gets more rights on the node"
            " than its user; ask your site for a device or a mount",
        ),
        (
            "#DOCKER a --cap-ad SYS_ADMIN",
            "2:11: unknown option --cap-ad; --cap-add is not available: a job's container has no capabilities; nothing can"
            " add one",
        ),
        ("#DOCKER a --volumes /x:/y", "2:11: unknown option --volumes; did you mean --volume?"),
        ("#DOCKER a --VOLUME /x:/y", "2:11: unknown option --VOLUME; did you mean --volume?"),
        ("#DOCKER a -volume /x:/y", "2:11: unknown option -volume; did you mean --volume?"),
        (
            "#DOCKER a -z",
            "2:11: unknown option -z; the options are --entrypoint, --env, --gpus, --network, --no-home, --platform, --pull, --read-only, --s3, --shm-size, --stage-in, --stage-out, --tmpfs, --volume, --workdir",
        ),
        ("#DOCKER a -dit", "2:11: -dit is not available: Torque starts the container and waits for it; leave it out"),
        ("#DOCKER a –volume /x:/y", "2:11: '–' is not a hyphen; write --volume"),
        ("#DOCKER a -–volume=/x:/y", "2:11: '–' is not a hyphen; write --volume"),
        ("#DOCKER —v /x:/y a", "2:9: '—' is not a hyphen; write -v"),
        ("#DOCKER a —", "2:11: '—' is not a hyphen; leave it out"),
        # characters and places
        ("#docker a:1", "2:1: did you mean #DOCKER? a directive is written in capital letters"),
        ("#Docker -v /x:/y some image", "2:1: did you mean #DOCKER? a directive is written in capital letters"),
        ("#DOCKER a\x1b[1m", "2:10: control character '\\x1b' is not allowed here"),
        ("#DOCKER a\0", "2:10: control character '\\x00' is not allowed here"),
        ("#DOCKER\0a", "2:8: control character '\\x00' is not allowed here"),
        ("#DOCKER a\r\r", "2:10: control character '\\r' is not allowed here"),
        ("#DOCKER a\x85", "2:10: control character '\\x85' is not allowed here"),
        ("#DOCKER a\u2028b", "2:10: control character '\\u2028' is not allowed here"),
        ("#DOCKER\u00a0a", "2:8: invisible character U+00A0 (NO-BREAK SPACE) is not allowed here; retype the line"),
        (
            "#DOCKER a\u202eb",
            "2:10: invisible character U+202E (RIGHT-TO-LEFT OVERRIDE) is not allowed here; retype the line",
        ),
    ],
)
def test_sentences(line: str, says: str) -> None:
    """Line, column, value, cure."""
    assert _errors(line) == [f"job.sh:{says}"]


def test_not_utf8() -> None:
    """The column counts characters, as everywhere."""
    assert _errors(b"#DOCKER a -e X=\xc3\xa9\xe9") == ["job.sh:2:17: the line is not UTF-8 text"]


def test_a_remark_may_hold_anything_printable() -> None:
    """Behind the remark sign only control characters matter."""
    assert _parsed("#DOCKER a # “it’s” – \u00a0 `x` $y \U0001f469\u200d\U0001f52c").image_text == "a"


@pytest.mark.parametrize("option", REFUSED)
def test_refused_on_principle(option: str) -> None:
    """Everything Docker has and a job may not have gets its own reason, and nothing else is said."""
    value = "" if option in REFUSED_FLAGS else " value"

    assert _errors(f"#DOCKER {option}{value} busybox") == [
        f"job.sh:2:9: {option} is not available: {why_refused(option, WORDS)}"
    ]


# `docker run --help` of 20.10 and of 28
DOCKER_RUN = """
    --add-host --annotation --attach --blkio-weight --blkio-weight-device --cap-add --cap-drop --cgroup-parent
    --cgroupns --cidfile --cpu-period --cpu-quota --cpu-rt-period --cpu-rt-runtime --cpu-shares --cpus --cpuset-cpus
    --cpuset-mems --detach --detach-keys --device --device-cgroup-rule --device-read-bps --device-read-iops
    --device-write-bps --device-write-iops --disable-content-trust --dns --dns-option --dns-search --domainname
    --entrypoint --env --env-file --expose --gpus --group-add --health-cmd --health-interval --health-retries
    --health-start-interval --health-start-period --health-timeout --help --hostname --init --interactive --ip --ip6
    --ipc --isolation --kernel-memory --label --label-file --link --link-local-ip --log-driver --log-opt --mac-address
    --memory --memory-reservation --memory-swap --memory-swappiness --mount --name --network --network-alias
    --no-healthcheck --oom-kill-disable --oom-score-adj --pid --pids-limit --platform --privileged --publish
    --publish-all --pull --quiet --read-only --restart --rm --runtime --security-opt --shm-size --sig-proxy
    --stop-signal --stop-timeout --storage-opt --sysctl --tmpfs --tty --ulimit --use-api-socket --user --userns --uts
    --volume --volume-driver --volumes-from --workdir -a -c -d -e -h -i -l -m -p -P -q -t -u -v -w
""".split()


@pytest.mark.parametrize("option", DOCKER_RUN)
def test_every_option_of_docker_run_is_decided(option: str) -> None:
    """Taken or refused with a reason: none is merely unknown."""
    assert (option in REFUSED) != (option in ALIASES or option[2:] in OPTIONS or option[2:] in FLAGS)


def test_all_errors_of_a_script_at_once() -> None:
    """Four lines, five mistakes, five sentences in order."""
    lines = ("#!/bin/sh", "#DOCKER --user 0 a:1", "#DOCKER b:1 --pull x", "#DOCKER -w y", "true", "#DOCKER c")
    assert _told("\n".join(lines).encode(), refuses_late=True) == [
        "job.sh:2:9: --user is not available: the container runs as you, with all your groups; leave it out",
        "job.sh:3:9: a second image 'b:1'; line 2 names 'a:1' already and a job has one image",
        "job.sh:3:20: --pull 'x' is not known; use never, missing or always",
        "job.sh:4:12: --workdir 'y' is not absolute; begin it with / or $HOME",
        "job.sh:6:1: this #DOCKER line comes after the first command; move it up among the comments",
    ]


def test_no_image_is_told_beside_other_errors() -> None:
    """Unless a word was skipped that may have been it."""
    assert _errors("#DOCKER --pull x") == [
        NO_IMAGE,
        "job.sh:2:16: --pull 'x' is not known; use never, missing or always",
    ]
    assert _errors("#DOCKER --zzz x") == [
        "job.sh:2:9: unknown option --zzz; the options are --entrypoint, --env, --gpus, --network, --no-home, --platform, --pull,"
        " --read-only, --s3, --shm-size, --stage-in, --stage-out, --tmpfs, --volume, --workdir"
    ]


def test_too_long() -> None:
    """Lines, values and scripts have limits."""
    assert _errors("#DOCKER a" + " " * 5000) == ["job.sh:2:4097: the line has 5009 bytes; at most 4096 are taken"]
    assert _errors(f"#DOCKER a -e A={'x' * 2000}") == [
        "job.sh:2:14: the value of --env has 2002 characters; at most 1024 are taken"
    ]
    assert _errors("#DOCKER a", *["#DOCKER"] * 300) == ["job.sh:258:1: a script has at most 256 #DOCKER lines"]
    with pytest.raises(DirectiveError) as caught:
        parse_script(b"#" * (16 * 1024 * 1024 + 1), filename="job.sh")
    assert str(caught.value) == "job.sh:1:1: the script has 16777217 bytes; at most 16777216 are taken"


def test_a_long_value_is_not_repeated_whole() -> None:
    """A sentence stays readable whatever is pasted into the script."""
    assert _errors(f"#DOCKER a --network {'x' * 900}") == [
        f"job.sh:2:21: --network '{'x' * 79}…' is not a network name"
    ]


def test_errors_are_not_listed_for_ever() -> None:
    """A hundred sentences are enough."""
    found = _errors(*["#DOCKER -z -z"] * 200)

    assert (len(found), found[-1]) == (101, "job.sh:52:9: more errors follow; the first 100 are listed")


LATE = "this #DOCKER line comes after the first command; move it up among the comments"


@pytest.mark.parametrize(
    "script", [b"true\n#DOCKER a\n", b"true\n#DOCKER --nonsense\n#DOCKER\n", b"\nx\r\n\n#DOCKER\ta"]
)
def test_after_the_first_command_is_no_directive(script: bytes) -> None:
    """As with #PBS: a driver may write the scripts of other jobs in here-documents."""
    line = script.count(b"\n", 0, script.index(b"#DOCKER")) + 1

    assert parse_script(script) is None
    assert late_line(script) == line
    assert _told(script, refuses_late=True) == [f"job.sh:{line}:1: {LATE}"]


def test_a_directive_and_a_line_that_is_none() -> None:
    """What comes late changes nothing of what comes in time."""
    script = b"#DOCKER a\ncat >next.sh <<E\n#DOCKER --privileged b\nE\n"
    found = parse_script(script)

    assert found is not None
    assert found.image_text == "a"
    assert late_line(script) == 3


@pytest.mark.parametrize("script", [b"#DOCKER a\ntrue\n", b"true\n #DOCKER a\n", b"true\n#docker a\n#DOCKERS\n", b""])
def test_no_late_line(script: bytes) -> None:
    """Only what would be a directive at the head is told."""
    assert late_line(script) == 0


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("script", "line", "before"),
    [
        (BOM + b"#!/bin/sh\n#DOCKER a\ntrue\n", 1, "'#!', which names no interpreter then"),
        (BOM + b"#DOCKER a\ntrue\n", 1, "#DOCKER, which is no directive then"),
        (b"#!/bin/sh\n\n" + BOM + b"#DOCKER a\ntrue\n", 3, "#DOCKER, which is no directive then"),
        (b"#DOCKER a\n" + BOM + b"#DOCKER -w /x", 2, "#DOCKER, which is no directive then"),
        (BOM + b"\n#DOCKER a\n", 1, "this line's first character"),
        (BOM + b"# a job\n#DOCKER a\n", 1, "this line's first character"),
    ],
)
def test_byte_order_mark(script: bytes, line: int, before: str) -> None:
    """No editor shows it, and the job would run bare, or by another interpreter."""
    assert _told(script) == [
        f"job.sh:{line}:1: a UTF-8 byte order mark (the invisible bytes EF BB BF) stands before {before}; remove it, for"
        rf" example with sed -i '{line}s/^\xEF\xBB\xBF//' SCRIPT"
    ]


@pytest.mark.parametrize(
    "script",
    [BOM + b"#!/bin/sh\ntrue\n", BOM + b"true\n", b"true\n" + BOM + b"#DOCKER a\n", b"#DOCKERS\n" + BOM + b"#\n"],
)
def test_byte_order_mark_without_a_directive(script: bytes) -> None:
    """A plain job's script is none of ours."""
    assert parse_script(script) is None


def test_a_files_name_cannot_forge_a_line() -> None:
    """It is a job's name, and a user's to choose."""
    error = DirectiveError("a\nb\x1b" + "c" * 300, [Problem(1, 2, "x")])

    assert str(error) == f"a?b?{'c' * 251}:1:2: x"


@pytest.mark.parametrize(
    "script",
    [
        b"\n" * (1 << 24),
        b"#\n" * (1 << 23),
        b" " * (1 << 24),
        b"#DOCKER" * ((1 << 24) // 7),
        b"true\n" + b"#docker\n" * (1 << 21),
        b"#DOCKER\n" * (1 << 21),
        b"true\n" + b"#DOCKER\n" * ((1 << 21) - 1),
        b"#docker " * (1 << 21),
        b"\r" * (1 << 24),
    ],
    ids=range(9),
)
def test_large_scripts_are_read_quickly(script: bytes) -> None:
    """The largest script, whatever is in it, takes a moment, not a minute."""
    began = time.process_time()
    try:
        parse_script(script)
    except DirectiveError:
        pass

    assert time.process_time() - began < 3


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("library/busybox", "docker.io/library/busybox:latest"),
        ("a/b:1", "docker.io/a/b:1"),
        ("a__b/c-d.e_f---g:V1.0-x_y", "docker.io/a__b/c-d.e_f---g:V1.0-x_y"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("reg:5000/x/y@sha256:" + "a" * 64, "reg:5000/x/y@sha256:" + "a" * 64),
        ("reg.example.org/x:1@sha256:" + "a" * 64, "reg.example.org/x@sha256:" + "a" * 64),
        ("[2001:db8::1]:5000/x", "[2001:db8::1]:5000/x:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("x:5000", "docker.io/library/x:5000"),
    ],
)
def test_image_grammar(text: str, canonical: str) -> None:
    """Docker's own completion of short names."""
    assert parse_image(text).canonical == canonical


@pytest.mark.parametrize(
    "text",
    [
        "-a",
        "a-",
        "a.",
        ".a",
        "a___b",
        "a..b",
        "a b",
        "a/",
        "/a",
        "a:b:c",
        "a@",
        "a@sha256:" + "A" * 64,
        "a@md5:" + "a" * 32,
        "a:" + "x" * 129,
        "-reg.example/a",
        "reg.example./a",
        "reg.example:/a",
        "reg.example:x/a",
        "[::1/a",
        "a\n",
        "á",
        "reg.example/" + "a" * 250,
        "docker.io/library/",
        "localhost/",
    ],
)
def test_no_image_name(text: str) -> None:
    """What Docker's grammar does not take is a BadImage, never a guess."""
    with pytest.raises(BadImage, match="image|digest|tag|registry"):
        parse_image(text)
