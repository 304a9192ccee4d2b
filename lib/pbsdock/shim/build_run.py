"""``docker run`` and ``docker exec`` from their options. Raises ShimRefusal and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from pbsdock.directive.draft import MOST
from pbsdock.directive.image_ref import BadImage, ImageRef, parse_image
from pbsdock.directive.tokens import shown
from pbsdock.directive.values import plain_path
from pbsdock.shim import mounts, values
from pbsdock.shim.commands import Exec, PullPolicy, Run, VolumeArg
from pbsdock.shim.given import Given
from pbsdock.shim.mounts import Tmpfs
from pbsdock.shim.refusal import ShimRefusal, not_offered

MOST_FILES = 64
MOST_LABELS = 256
MOST_ALIASES = 16
_SECURITY = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
_LOG_DRIVERS = ("none", "json-file", "local")


def image_of(text: str) -> ImageRef:
    """An image's name. Raises ShimRefusal."""
    if text.startswith("sha256:"):
        text = text.removeprefix("sha256:")
    try:
        return parse_image(text)
    except BadImage as error:
        raise ShimRefusal(f"invalid reference format: {error}") from None


def build_run(given: Given) -> Run:
    """``docker run``."""
    _check_fixed(given)
    network, aliases = _network(given)
    volumes, tmpfs = _mounts(given)
    detach = given.flag("detach")
    timeout = given.one("stop-timeout", lambda text: values.whole(text, -1))
    return Run(
        image=image_of(given.arguments[0]),
        image_text=given.arguments[0],
        argv=given.arguments[1:],
        name=given.one("name", values.name),
        detach=detach,
        interactive=given.flag("interactive"),
        tty=given.flag("tty"),
        remove=given.flag("rm"),
        env=given.every("env", values.variable, MOST["env"]),
        env_files=_env_files(given),
        volumes=volumes,
        tmpfs=tuple((each.target, each.size) for each in tmpfs),
        workdir=given.one("workdir", values.inside),
        user=given.one("user", values.user),
        entrypoint=given.text("entrypoint"),
        network=network,
        network_aliases=aliases,
        read_only=given.flag("read-only"),
        shm_size=given.one("shm-size", values.size) or None,
        gpus=given.one("gpus", values.gpus),
        init=given.flag("init"),
        stop_signal=given.one("stop-signal", values.signal_name),
        stop_timeout=timeout,
        pull=_pull(given),
        platform=given.one("platform", values.platform),
        memory=given.one("memory", values.size) or None,
        cpus=given.one("cpus", values.cpus) or None,
        cpu_shares=given.one("cpu-shares", lambda text: values.whole(text, 0)) or None,
        cpuset=given.one("cpuset-cpus", values.cpu_list),
        pids=_pids(given),
        cidfile=given.one("cidfile", values.path),
        labels=given.every("label", values.pair, MOST_LABELS),
        hostname=given.one("hostname", values.hostname),
        quiet=given.flag("quiet"),
        sig_proxy=given.flag("sig-proxy", True) and not detach,
        options_given=given.names,
    )


def _pull(given: Given) -> PullPolicy | None:
    match given.text("pull") or None:
        case None | "always" | "missing" | "never" as policy:
            return policy
        case other:
            raise ShimRefusal(f'invalid pull option: {shown(other)}: must be one of "always", "missing" or "never"')


def _check_fixed(given: Given) -> None:
    """Options of which a few values alone are taken, since the others would change what always holds."""
    restart = given.text("restart")
    if restart not in (None, "", "no"):
        why = "nothing starts again by itself, the job's end is its containers'; write a loop in the script"
        raise not_offered(f"--restart {_said(restart)}", why)
    driver = given.text("log-driver")
    if driver not in (None, "", *_LOG_DRIVERS):
        why = "output goes to docker logs and to the job's own files; write none, json-file or local"
        raise not_offered(f"--log-driver {_said(driver)}", why)
    for option, why in (
        ("ipc", "a container has its own; --shm-size makes its /dev/shm larger"),
        ("cgroupns", "a container has its own; leave it out"),
    ):
        text = given.text(option)
        if text not in (None, "", "private"):
            raise not_offered(f"--{option} {_said(text)}", why)
    for text in given.every("security-opt", str, MOST_LABELS):
        if text not in _SECURITY:
            raise not_offered(
                f"--security-opt {_said(text)}", "the site's security profile always applies; leave it out"
            )
    check_detach_keys(given)


def check_detach_keys(given: Given) -> None:
    """Other keys than Docker's own are refused."""
    keys = given.text("detach-keys")
    if keys not in (None, "", "ctrl-p,ctrl-q"):
        raise not_offered(f"--detach-keys {_said(keys)}", "ctrl-p ctrl-q leave a container; leave it out")


def _said(text: str) -> str:
    return text if text.isprintable() and len(text) <= 80 else shown(text)


def _env_files(given: Given) -> tuple[str, ...]:
    """``-`` is a file of that name to Docker, not standard input."""
    paths = given.every("env-file", values.path, MOST_FILES)
    return tuple("./-" if path == "-" else path for path in paths)


def _network(given: Given) -> tuple[str | None, tuple[str, ...]]:
    networks = [found for found in given.every("network", values.network, MOST_ALIASES) if found[0]]
    if len({name for name, _ in networks}) > 1:
        raise not_offered("a second --network", "a container is on one network; choose one with --network NAME")
    network = networks[-1][0] if networks else None
    own = [alias for _, aliases in networks for alias in aliases]
    aliases = (*own, *given.every("network-alias", values.network_name, MOST_ALIASES))
    if aliases and (network is None or network.startswith("container:") or network in ("host", "none", "bridge")):
        raise ShimRefusal("--network-alias needs a network with names: docker network create NAME, --network NAME")
    if network is not None and network.startswith("container:") and given.text("hostname"):
        raise ShimRefusal("conflicting options: --hostname and --network container:NAME, which has that one's name")
    return network, aliases


def _mounts(given: Given) -> tuple[tuple[VolumeArg, ...], tuple[Tmpfs, ...]]:
    both = given.every("mount", mounts.mount, MOST["volume"])
    volumes = (
        *given.every("volume", mounts.volume, MOST["volume"]),
        *(each for each in both if isinstance(each, VolumeArg)),
    )
    tmpfs = (
        *given.every("tmpfs", mounts.tmpfs, MOST["tmpfs"]),
        *(each for each in both if isinstance(each, Tmpfs)),
    )
    if len(volumes) > MOST["volume"] or len(tmpfs) > MOST["tmpfs"]:
        said = f"{MOST['volume']} mounts and {MOST['tmpfs']} tmpfs"
        raise ShimRefusal(f"--volume, --mount and --tmpfs make more than {said}; no container may have more")
    _check_twice([*(each.target for each in volumes), *(each.target for each in tmpfs)])
    return volumes, tmpfs


def _check_twice(targets: Iterable[str]) -> None:
    seen: set[str] = set()
    for target in targets:
        plain = plain_path(target)
        if plain in seen:
            raise ShimRefusal(f"Duplicate mount point: {shown(plain)}; a path in the container is mounted once")
        seen.add(plain)


def _pids(given: Given) -> int | None:
    """None for Docker's 0 and -1, which set no limit."""
    count = given.one("pids-limit", lambda text: values.whole(text, -1))
    return count if count is not None and count > 0 else None


def build_exec(given: Given) -> Exec:
    """``docker exec``."""
    check_detach_keys(given)
    return Exec(
        container=given.arguments[0],
        argv=given.arguments[1:],
        detach=given.flag("detach"),
        interactive=given.flag("interactive"),
        tty=given.flag("tty"),
        env=given.every("env", values.variable, MOST["env"]),
        env_files=_env_files(given),
        workdir=given.one("workdir", values.inside),
        user=given.one("user", values.user),
    )
