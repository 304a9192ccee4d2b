"""What single strings of the configuration must look like.

Each check returns what was expected, or None if the string is fine. Pure.
"""

from __future__ import annotations

import re

from pbsdock.s3.names import BUCKET

_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
# As pbsdock.directive.image_ref has them: a host that no path could be taken for, and what is between slashes.
_REGISTRY = re.compile(
    r"(?=.*[.:]|localhost$)([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?"
)
_COMPONENT = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_MOST_MIRROR = 200  # characters; a name with the repository behind it has at most 255
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _is_plain(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/")


def path_or_empty(text: str) -> str | None:
    """An absolute path, or nothing."""
    return None if not text or _is_plain(text) else "expected an absolute path without '..', or nothing"


def path_auto_or_empty(text: str) -> str | None:
    """An absolute path, ``auto`` or nothing."""
    fine = text in ("", "auto") or _is_plain(text)
    return None if fine else "expected an absolute path without '..', \"auto\", or nothing"


def path(text: str) -> str | None:
    """An absolute path."""
    return None if _is_plain(text) else "expected an absolute path without '..'"


def command(text: str) -> str | None:
    """A command's name."""
    fine = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text)
    return None if fine else "expected a command's name: letters, digits, '.', '_' and '-'"


def seccomp(text: str) -> str | None:
    """``hpc``, ``engine`` or an absolute path."""
    return None if text in ("hpc", "engine") or _is_plain(text) else 'expected "hpc", "engine" or an absolute path'


def seccomp_profile(found: object) -> str | None:
    """A profile as Docker reads it: of one that is none, the engine says so at each job's start."""
    if not isinstance(found, dict):
        return "expected an object"
    actions = [found.get("defaultAction")]
    rules = found.get("syscalls") or []
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        return "expected a list of objects as syscalls"
    actions += [rule.get("action") for rule in rules]
    for action in actions:
        if not isinstance(action, str) or not action.startswith("SCMP_ACT_"):
            return (
                f"expected a defaultAction, and an action of each of syscalls, such as SCMP_ACT_ERRNO, not {action!r}"
            )
    for rule in rules:
        names = rule.get("names", [rule.get("name")])
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            return "expected names, a list of strings, in each of syscalls"
    return None


def cgroup_or_empty(text: str) -> str | None:
    """A cgroup as ``/proc/PID/cgroup`` shows it, not the root, or nothing."""
    plain = _is_plain(text) and text.strip("/") and not text.endswith("/") and "//" not in text
    if text.startswith("/sys/fs/cgroup/"):
        return "expected the cgroup without /sys/fs/cgroup"
    return None if not text or plain else "expected a cgroup such as /system.slice/pbs_mom.service, or nothing"


def prefix(text: str) -> str | None:
    """``PATH`` or ``PATH:ro``."""
    plain = text.removesuffix(":ro")
    return None if _is_plain(plain) and ":" not in plain else 'expected "/PATH" or "/PATH:ro", without \'..\''


def closed(text: str) -> str | None:
    """``PATH`` alone: what is closed is closed for reading as well."""
    return None if _is_plain(text) and ":" not in text else "expected an absolute path without '..' and ':'"


def site_mount(text: str) -> str | None:
    """``SOURCE:TARGET[:ro]``."""
    source, _, rest = text.partition(":")
    target, colon, mode = rest.partition(":")
    if _is_plain(source) and _is_plain(target) and target.strip("/") and (mode == "ro" if colon else True):
        return None
    return 'expected "/SOURCE:/TARGET" or "/SOURCE:/TARGET:ro", without \'..\''


def image_pattern(text: str) -> str | None:
    """``*``, ``REGISTRY/REPOSITORY[:TAG]`` with wildcards, or a digest.

    A pattern without a registry would never match: every reference is judged with its registry filled in.
    """
    registry, slash, repository = text.partition("/")
    named = bool(slash and repository) and (
        registry == "localhost" or any(character in registry for character in ".:*?[")
    )
    if text == "*" or _DIGEST.fullmatch(text) or (named and " " not in text):
        return None
    if text.startswith("sha256:"):
        return "expected sha256: and 64 hexadecimal digits"
    if " " in text:
        return "expected a pattern without blanks"
    full = text if slash else f"library/{text}"
    return f"expected a registry first, for example {f'docker.io/{full}'!r}"


def registry(text: str) -> str | None:
    """A registry's host and port as full references begin with it."""
    fine = _REGISTRY.fullmatch(text) and text != "index.docker.io"
    return (
        None if fine else 'expected a registry as full names of images have it, in quotes, as in [registry."docker.io"]'
    )


def mirror(text: str) -> str | None:
    """``HOST[:PORT][/PATH]``, before which nothing is put and behind which a repository is."""
    host, slash, path = text.partition("/")
    is_plain = all(_COMPONENT.fullmatch(component) for component in path.split("/")) if slash else True
    if registry(host) is None and host != "docker.io" and is_plain and len(text) <= _MOST_MIRROR:
        return None
    return (
        'expected a mirror as names of images would begin, such as "mirror.example.org:5000" or "hub.example.org/cache"'
    )


def network(text: str) -> str | None:
    """A network's name; ``container:ID`` is none, it would join the network of someone else's container."""
    return None if _NETWORK.fullmatch(text) else "expected host, none, bridge or the name of an engine's network"


def runtime_or_empty(text: str) -> str | None:
    """A runtime by the name the engine has for it, or nothing."""
    fine = not text or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", text)
    return None if fine else "expected the name of a runtime in the engine's daemon.json, such as crun, or nothing"


def endpoint(text: str) -> str | None:
    """The address of an object store: scheme, host and port, nothing more."""
    fine = not text or re.fullmatch(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?", text)
    return None if fine else 'expected scheme and host, for example "https://rgw.example.org:8443", without a path'


def loopback_or_empty(text: str) -> str | None:
    """``127.0.0.1:PORT``, ``[::1]:PORT``, the absolute path of a unix socket, or nothing."""
    found = re.fullmatch(r"(127\.0\.0\.1|\[::1\]):([1-9][0-9]{0,4})", text)
    if not text or _is_plain(text) or (found and int(found.group(2)) < 1 << 16):
        return None
    return 'expected "127.0.0.1:PORT", "[::1]:PORT", the absolute path of a unix socket, or nothing'


def region(text: str) -> str | None:
    """A region's name, as it goes into a signature."""
    return None if re.fullmatch(r"[A-Za-z0-9-]{1,64}", text) else "expected letters, digits and -"


def bucket(text: str) -> str | None:
    """A bucket's name."""
    return None if re.fullmatch(BUCKET, text) else "expected the name of a bucket"


def store_rule(text: str) -> str | None:
    """``BUCKET[/PREFIX][:ro|rw]``, with ``*``, ``?``, ``{user}`` and ``{group}``."""
    name = re.sub(r":(ro|rw)$", "", text)
    filled = name.replace("{user}", "u").replace("{group}", "g")
    plain = re.fullmatch(r"[A-Za-z0-9._*?-]+(/[^:{}]*)?", filled)
    dotted = any(part in ("", ".", "..") for part in filled.rstrip("/").split("/"))
    if plain and not dotted:
        return None
    return (
        'expected "BUCKET", "BUCKET/PREFIX" with :ro or :rw behind it; * and ? match, {user} and {group} are filled in'
    )


def variable_pattern(text: str) -> str | None:
    """A pattern of variable names."""
    return "expected a variable's name or a pattern such as LD_*" if "=" in text or " " in text else None


def device(text: str) -> str | None:
    """A device node."""
    return None if text.startswith("/dev/") and _is_plain(text) and text != "/dev/" else "expected a path below /dev"
