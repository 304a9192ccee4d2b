"""Directives as nobody would write them: any option, any value, from the vocabulary pbsdock itself reads. Pure."""

from __future__ import annotations

import random

from pbsdock.directive.vocabulary import ALIASES, FLAGS, OPTIONS, REFUSED
from pbsdock.rm.torque import WORDS

_LONGEST = 4096  # bytes of a line that are read
_PATHS = (
    "/",
    "/etc",
    "/etc/shadow",
    "/proc/1/root",
    "/sys/fs/cgroup",
    "/dev/sda",
    "/var/run/docker.sock",
    "/tmp",
    "/tmp/a b",
    "/var/tmp/../../etc",
    "//",
    "/home",
    "$HOME",
    "$HOME/in",
    "${HOME}/x/y",
    "$TMPDIR",
    "$TMPDIR/a",
    "$PBS_O_WORKDIR",
    "$NOSUCH/x",
    "relative",
    "/ü",
    "/\u2028",
    "/a:b",
    "/" + "d/" * 400,
)
_WORDS = (
    "",
    "x",
    "-1",
    "0",
    "1",
    "64m",
    "9" * 18 + "t",
    "all",
    "host",
    "none",
    "bridge",
    "never",
    "missing",
    "always",
    "linux/amd64",
    "linux/ÿ",
    "s3://b/k",
    "s3://../..",
    "b:ro",
    "a=b",
    "=",
    "A=$HOME",
    "A=$$HOME",
    "LD_PRELOAD=/x.so",
    "{{.}}",
    "%n%s",
    "';id;'",
    '"',
    "\\",
    "\t",
    "\x7f",
    "\udcff",
    "日本",
    "#",
    "z" * 1025,
)
_IMAGES = (
    "nosuch:1",
    "localhost:1/x",
    "registry.invalid/x@sha256:" + "0" * 64,
    "UPPER",
    "a/b/c/d/e",
    "x:" + "t" * 200,
    "..",
    "sha256:" + "1" * 64,
)
_MANY = (
    "-v $HOME:/m{}",
    "-v $HOME/{}:/m{}:ro",
    "--tmpfs /t{}",
    "-e V{}=$HOME$HOME$HOME",
    "-e V{}",
    "--s3 b{}",
    "--stage-in s3://b/{} $HOME/{}",
    "--nosuch{}",
    "-v $HOME:/" + "d/" * 20 + "{}",
    "--volume $PBS_O_WORKDIR/{}:/w{}",
)


def directive(rng: random.Random, image: str) -> str:
    """One directive; about half of them name *image*, which is there, and could be carried out."""
    kind = rng.randrange(8)
    if kind < 2:
        return image
    if kind == 2:
        return _long(rng, image)
    words = [word for _ in range(rng.choice((1, 1, 2, 3, 8, 40))) for word in _option(rng)]
    words.insert(rng.randrange(len(words) + 1), image if rng.random() < 0.7 else rng.choice(_IMAGES))
    return " ".join(words)


def _option(rng: random.Random) -> list[str]:
    name = rng.choice((*OPTIONS, *OPTIONS, *FLAGS))
    written = rng.choice((f"--{name}", f"--{name}", rng.choice(tuple(ALIASES)), rng.choice(tuple(REFUSED)), f"—{name}"))
    if name in FLAGS:
        return [written]
    value = _value(rng, name)
    return [f"{written}={value}"] if rng.random() < 0.5 else [written, value]


def _value(rng: random.Random, name: str) -> str:
    if rng.random() < 0.25:
        return rng.choice(_WORDS)
    if name == "volume":
        return ":".join(rng.choice(_PATHS) for _ in range(rng.choice((1, 2, 2, 2, 4)))) + rng.choice(
            ("", ":ro", ":rw", ":z")
        )
    if name in ("workdir", "tmpfs", "stage-in", "stage-out"):
        return rng.choice(_PATHS) + rng.choice(("", "", ":size=1m", " s3://b/k"))
    if name == "env":
        return f"{rng.choice(('A', 'B', '1', 'PATH', 'TMPDIR'))}={rng.choice((*_WORDS, *('$' + one for one in WORDS.variables)))}"
    return rng.choice((*_WORDS, *_PATHS))


def script(rng: random.Random, image: str) -> str:
    """A script with directives: one, or thousands of options on many lines."""
    if rng.random() < 0.3:
        lines = [directive(rng, image).replace("\n", " ")]
    else:
        pattern, count = rng.choice(_MANY), rng.choice((20, 200, 1000, 2000))
        options = [pattern.replace("{}", str(number)) for number in range(count)]
        lines = [image, *(" ".join(options[first : first + 50]) for first in range(0, count, 50))]
    return "#!/bin/sh\n" + "".join(f"#DOCKER {line}\n" for line in lines) + "sleep 1000\n"


def _long(rng: random.Random, image: str) -> str:
    """As many of one option as a line holds, each a little different: what planning does with each is done with all."""
    pattern = rng.choice(_MANY)
    words, size, most = [], len(image), rng.choice((_LONGEST - 60, _LONGEST, 65536))
    while size < most:
        words.append(pattern.replace("{}", str(len(words))))
        size += len(words[-1]) + 1
    return " ".join([*words[:-1], image])
