"""A command from its options and arguments, by its name. Raises ShimRefusal and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pbsdock.core.errors import BadValue
from pbsdock.directive.tokens import shown
from pbsdock.shim import commands, values
from pbsdock.shim.build_run import MOST_LABELS, build_exec, build_run, image_of
from pbsdock.shim.filters import check_filters, check_pattern
from pbsdock.shim.given import Given
from pbsdock.shim.refusal import FAILED, ShimRefusal, not_offered

MOST_FILTERS = 64


def _pull(given: Given) -> commands.Command:
    text = given.arguments[0]
    try:
        image = image_of(text)
    except ShimRefusal as refusal:
        raise ShimRefusal(refusal.sentence, FAILED) from None
    platform = given.one("platform", values.platform)
    return commands.Pull(image=image, image_text=text, platform=platform, quiet=given.flag("quiet"))


def _filters(given: Given, command: str) -> commands.Pairs:
    pairs = given.every("filter", values.filter_pair, MOST_FILTERS)
    try:
        check_filters(command, pairs)
    except BadValue as error:
        raise ShimRefusal(str(error), FAILED) from None
    return pairs


def _images(given: Given) -> commands.Command:
    reference = given.arguments[0] if given.arguments else ""
    try:
        check_pattern(reference)
    except BadValue as error:
        raise ShimRefusal(f"{shown(reference)} {error}", FAILED) from None
    return commands.Images(
        reference=reference,
        quiet=given.flag("quiet"),
        filters=_filters(given, "images"),
        format=given.text("format") or "",
        no_trunc=given.flag("no-trunc"),
        digests=given.flag("digests"),
    )


def _ps(given: Given) -> commands.Command:
    last = given.one("last", lambda text: values.whole(text, -1))
    return commands.Ps(
        all=given.flag("all"),
        quiet=given.flag("quiet"),
        filters=_filters(given, "ps"),
        format=given.text("format") or "",
        no_trunc=given.flag("no-trunc"),
        last=max(0, last or 0),
        latest=given.flag("latest"),
    )


def _logs(given: Given) -> commands.Command:
    tail = given.one("tail", lambda text: -1 if text == "all" else values.whole(text))
    lines = None if tail is None or tail < 0 else tail
    return commands.Logs(container=given.arguments[0], follow=given.flag("follow"), tail=lines)


def _wait(given: Given) -> commands.Command:
    return commands.Wait(containers=given.arguments)


def _stop(given: Given) -> commands.Command:
    seconds = given.one("timeout", lambda text: values.whole(text, -1))
    signal = given.one("signal", values.signal_name)
    return commands.Stop(containers=given.arguments, seconds=seconds, signal=signal)


def _kill(given: Given) -> commands.Command:
    return commands.Kill(containers=given.arguments, signal=given.one("signal", values.signal_name) or "KILL")


def _rm(given: Given) -> commands.Command:
    return commands.Rm(containers=given.arguments, force=given.flag("force"), volumes=given.flag("volumes"))


def _inspect(given: Given) -> commands.Command:
    names, format_ = given.arguments, given.text("format") or ""
    match given.text("type") or "":
        case "":
            return commands.Inspect(names=names, format=format_)
        case "container":
            return commands.Inspect(names=names, format=format_, type="container")
        case "image":
            return commands.Inspect(names=names, format=format_, type="image")
        case "network":
            return commands.Inspect(names=names, format=format_, type="network")
        case other:
            raise ShimRefusal(f"unknown type: {shown(other)}: must be one of container, image or network", FAILED)


def _container_inspect(given: Given) -> commands.Command:
    return commands.Inspect(names=given.arguments, format=given.text("format") or "", type="container")


def _image_inspect(given: Given) -> commands.Command:
    return commands.Inspect(names=given.arguments, format=given.text("format") or "", type="image")


def _cp(given: Given) -> commands.Command:
    """As Docker splits its arguments: what begins with / or . is a path of the client's, a colon ends a container's."""
    (source_of, source), (target_of, target) = map(_place, given.arguments)
    if source_of and target_of:
        raise ShimRefusal("copying between containers is not supported; copy to a directory first", FAILED)
    if not source_of and not target_of:
        raise ShimRefusal("must specify at least one container source, as CONTAINER:PATH", FAILED)
    if "-" in (source, target) and "-" in given.arguments:
        why = "it is a tar archive; write docker exec -i NAME tar -c PATH, or tar -x, where the image has tar"
        raise not_offered("docker cp from or to -", why, FAILED)
    if not source or not target:
        raise ShimRefusal("docker cp needs a path on either side, as CONTAINER:PATH", FAILED)
    for path in (source, target):
        if len(path) > values.PATH_LIMIT:
            raise ShimRefusal(f"a path has at most {values.PATH_LIMIT} characters", FAILED)
    return commands.Cp(
        container=source_of or target_of,
        direction="out" if source_of else "in",
        source=source,
        target=target,
        archive=given.flag("archive"),
        follow_link=given.flag("follow-link"),
    )


def _place(argument: str) -> tuple[str, str]:
    if argument.startswith("/"):
        return "", argument
    container, colon, path = argument.partition(":")
    return (container, path) if colon and not container.startswith(".") else ("", argument)


def _login(given: Given) -> commands.Command:
    user, password = given.text("username"), given.text("password")
    from_input = given.flag("password-stdin")
    if from_input and password is not None:
        raise ShimRefusal("conflicting options: cannot specify both --password and --password-stdin", FAILED)
    if from_input and not user:
        raise ShimRefusal("the --password-stdin option requires --username to be set", FAILED)
    if password == "":
        raise ShimRefusal("--password is empty; leave it out to be asked", FAILED)
    registry = given.arguments[0] if given.arguments else ""
    return commands.Login(registry=registry, user=user or None, password=password, password_stdin=from_input)


def _logout(given: Given) -> commands.Command:
    return commands.Logout(registry=given.arguments[0] if given.arguments else "")


def _network_create(given: Given) -> commands.Command:
    driver, scope = given.text("driver"), given.text("scope")
    if driver not in (None, "", "bridge"):
        raise not_offered(f"--driver {shown(driver)}", "a job's own network is a bridge on its node; leave it out")
    if scope not in (None, "", "local"):
        raise not_offered(f"--scope {shown(scope)}", "a job's own network is on its node; leave it out")
    if not given.flag("ipv4", True):
        raise not_offered("--ipv4=false", "the site chooses addresses; leave it out")
    try:
        name = values.network_name(given.arguments[0])
    except BadValue as error:
        raise ShimRefusal(f"{shown(given.arguments[0])} {error}", FAILED) from None
    labels = given.every("label", values.pair, MOST_LABELS)
    return commands.NetworkCreate(name=name, internal=given.flag("internal"), labels=labels)


def _network_rm(given: Given) -> commands.Command:
    return commands.NetworkRm(names=given.arguments, force=given.flag("force"))


def _network_ls(given: Given) -> commands.Command:
    return commands.NetworkLs(
        quiet=given.flag("quiet"),
        filters=_filters(given, "network ls"),
        format=given.text("format") or "",
        no_trunc=given.flag("no-trunc"),
    )


def _network_inspect(given: Given) -> commands.Command:
    return commands.NetworkInspect(names=given.arguments, format=given.text("format") or "")


def _version(given: Given) -> commands.Command:
    return commands.Version(format=given.text("format") or "")


def _info(given: Given) -> commands.Command:
    return commands.Info(format=given.text("format") or "")


BUILDERS: Mapping[str, Callable[[Given], commands.Command]] = {
    "run": build_run,
    "exec": build_exec,
    "pull": _pull,
    "images": _images,
    "ps": _ps,
    "logs": _logs,
    "wait": _wait,
    "stop": _stop,
    "kill": _kill,
    "rm": _rm,
    "inspect": _inspect,
    "container inspect": _container_inspect,
    "image inspect": _image_inspect,
    "cp": _cp,
    "login": _login,
    "logout": _logout,
    "network create": _network_create,
    "network rm": _network_rm,
    "network ls": _network_ls,
    "network inspect": _network_inspect,
    "version": _version,
    "info": _info,
}
