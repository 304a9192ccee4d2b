"""What a script would get on this node by the site's file, found out without running anything of it.

The plan, the rules and the refusals are those of a prologue; an image is neither looked for nor pulled.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pbsdock.agent.host_facts import closed_paths, host_facts
from pbsdock.agent.prepare import must_exist
from pbsdock.config.lines import Place
from pbsdock.config.tables import Config
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.pathrules import ClosedPaths
from pbsdock.core.paths import Paths
from pbsdock.core.plan import Plan
from pbsdock.core.sizes import human
from pbsdock.directive.parse import DirectiveError, late_line, late_sentence, parse_script
from pbsdock.engine.base import EngineError
from pbsdock.engine.make import connect
from pbsdock.host import mounts
from pbsdock.policy.decide import decide, effective
from pbsdock.policy.explain import Rules
from pbsdock.policy.mounts import rules_of
from pbsdock.rm.base import Job
from pbsdock.rm.choose import manager
from pbsdock.trial.announce import prologue_of
from pbsdock.trial.command import merged, owner_of, pbs_lines
from pbsdock.trial.request import BadRequest, Request

Told = dict[str, Any]


def would(arguments: argparse.Namespace, paths: Paths, config: Config, lines: Mapping[Place, int]) -> Told:
    """The documented JSON object (docs/configuration.md). Raises BadRequest."""
    request = _request(arguments, paths)
    rm = manager(paths, socket.gethostname(), client_dir=config.torque.client_dir)
    try:
        announced = rm.announced(*prologue_of(request, os.path.abspath(arguments.script)))
        job = announced.job()
    except BadValue as error:
        raise BadRequest(str(error)) from None
    except KeyError:
        raise BadRequest(f"user {request.user!r} does not exist on this host") from None
    rules = Rules(config, lines)
    told: Told = {"script": arguments.script, "user": job.user, "queue": job.queue, "notices": []}
    script = request.script or b""
    try:
        if announced.wrong:
            said = f"what the job asks for with {rm.words.request} cannot be understood: {announced.wrong}"
            raise Refusal("bad-resources", said)
        directive = parse_script(
            script, rm.words, filename=Path(arguments.script).name, refuses_late=config.directive.late == "refuse"
        )
        if late := late_line(script):
            told["notices"].append(late_sentence(late, contained=directive is not None))
        if directive is None:
            return {**told, "outcome": "no-container"}
        host = host_facts(socket.gethostname(), closed_paths(paths, rm, _engine_root(config)))
        plan = decide(job, directive, config, host)
        told["decided"] = [asdict(decision) for decision in rules.decided(job, directive, plan)]
        told["plan"] = plan.to_dict()
        told["mounts"] = list(_mounts(plan, job, config, host.closed))
    except DirectiveError as error:
        return {**told, **_refused(rules, job, Refusal("bad-directive", str(error)))}
    except (Refusal, NodeFault) as error:
        return {**told, **_refused(rules, job, error)}
    return {**told, "outcome": "runs"}


def _request(arguments: argparse.Namespace, paths: Paths) -> Request:
    """As it would be submitted; the script's own lines count for what the arguments leave out. Raises BadRequest."""
    try:
        script = Path(arguments.script).read_bytes()
    except OSError as error:
        raise BadRequest(f"{arguments.script} cannot be read: {error.strerror}") from None
    lines = pbs_lines(script, arguments.script)
    return Request(
        mom_priv=paths.mom_priv,
        user=owner_of(arguments),
        script=script,
        resources=merged(arguments.resources, lines.get("-l", [])),
        queue=arguments.queue or lines.get("-q", ["batch"])[-1],
        name=Path(arguments.script).name,
        work_dir=os.path.abspath(arguments.work_dir or "."),
    )


def _engine_root(config: Config) -> str:
    """What the engine keeps to itself; "" while it does not answer."""
    try:
        return connect(config.engine.socket, config.engine.timeout_s).info().root_dir
    except (HookError, EngineError, OSError):
        return ""


def _refused(rules: Rules, job: Job, error: HookError) -> Told:
    by = [asdict(decision) for decision in rules.refused(job, error)]
    return {"outcome": "refused", "code": error.code, "sentence": error.sentence, "decided": by}


def _mounts(plan: Plan, job: Job, config: Config, closed: ClosedPaths) -> Iterator[Told]:
    """As the user would find them now. Raises Refusal."""
    user = mounts.User.of(plan)
    rules = rules_of(plan.home, effective(config, job).mounts, closed, tmpdir_by_user=plan.interactive)
    bound, skipped = mounts.resolve(plan.mounts, user, rules)
    if lost := mounts.missing(must_exist(plan), bound, user):
        path, inside = lost
        raise Refusal("no-such-directory", f"{path} does not exist in {inside.source}, or is a link; make it first")
    for found in bound:
        yield {"source": found.source, "target": found.target, "read_only": found.read_only, "left_out": ""}
    for mount, reason in skipped:
        yield {"source": mount.source, "target": mount.target, "read_only": mount.read_only, "left_out": reason}


# -- for a person -----------------------------------------------------------------------------------------------------


def lines_of(told: Told, config_name: str) -> Iterator[str]:
    """The same as lines. Pure."""
    yield from (f"note      {notice}" for notice in told["notices"])
    head = f"{told['script']} as {told['user']} in queue {told['queue']}"
    if told["outcome"] == "no-container":
        yield f"{head}: no #DOCKER line; it runs without a container"
        return
    if told["outcome"] == "refused":
        yield f"{head}: would be refused ({told['code']})"
        yield f"sentence  {told['sentence']}"
    else:
        yield f"{head}: would run"
    for decision in told["decided"]:
        where = f"{config_name}:{decision['line']}" if decision["line"] else "default"
        rule = decision["rule"]
        by = f" ({rule}, {where})" if "." in rule or decision["line"] else f" ({rule})" if rule else ""
        yield f"{decision['what']:<9} {decision['value']}{by}"
    if told["outcome"] == "runs":
        yield from _of_plan(told)


def _of_plan(told: Told) -> Iterator[str]:
    plan = told["plan"]
    for mount in told["mounts"]:
        same = mount["source"] == mount["target"]
        what = mount["source"] if same else f"{mount['source']} as {mount['target']}"
        yield f"mount     {what} {'ro' if mount['read_only'] else 'rw'}" + (
            f": left out, {mount['left_out']}" if mount["left_out"] else ""
        )
    memory, swap = plan["limits"]["memory_bytes"] or 0, plan["limits"]["memory_swap_bytes"] or 0
    if memory and swap > memory:
        yield f"swap      {human(swap - memory)} beside memory"
    for store in plan["stores"]:
        for grant in store["container"]:
            mode = "ro" if grant["read_only"] else "rw"
            yield f"store     {store['name']}: {grant['bucket']} {' '.join(grant['keys'])} {mode}"
    for name in ("stage_in", "stage_out"):
        for stage in plan[name]:
            yield f"{name.replace('_', '-'):<9} s3://{stage['bucket']}/{stage['key']} {stage['path']}"
