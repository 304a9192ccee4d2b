"""``pbsdock images pull --on NODES``: other nodes' agents are asked to pull images, by what the cluster signs with."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from pbsdock.admin.ask import is_root
from pbsdock.admin.node_names import BadNodes, nodes
from pbsdock.cluster import client
from pbsdock.cluster.channel import ChannelError
from pbsdock.cluster.signing import Signer, SigningError, choose
from pbsdock.config.reader import ConfigError
from pbsdock.config.tables import Config, load
from pbsdock.core.paths import load as load_paths
from pbsdock.directive.image_ref import BadImage, parse_image

_ASK_S = 10.0
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.2, 3.0
_SILENT_S = 60.0  # an agent that is started anew meanwhile goes on with the order
_MOST_AT_ONCE = 256
_ROW = "{:<20} {:<10} {:>8}  {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of an image on a node: "pulled", "was here", "refused", "failed" or "no-answer", why, and seconds."""

    node: str
    image: str
    result: str
    detail: str
    seconds: float

    @property
    def is_well(self) -> bool:
        """Whether it is there."""
        return self.result in ("pulled", "was here")


def run(arguments: argparse.Namespace) -> int:
    """Ask them all, some at a time; returns the exit code: 0 all have all, 1 not, 2 wrong input."""
    try:
        names, images = nodes(arguments.on), [parse_image(image).canonical for image in arguments.images]
    except (BadNodes, BadImage) as error:
        return _wrong(f"--on: {error}" if isinstance(error, BadNodes) else str(error), 2)
    if not 1 <= arguments.at_once <= _MOST_AT_ONCE:
        return _wrong(f"--at-once: expected 1 to {_MOST_AT_ONCE}, not {arguments.at_once}", 2)
    if arguments.pin:
        return _wrong("--pin is for this node alone; a pin on others is pbsdock images pin there", 2)
    if not is_root("have other nodes pull images"):
        return 1
    try:
        paths = load_paths(arguments.paths)
        config = load(paths.config)
        signer = choose(config.nodes, paths.config)
    except (ConfigError, SigningError, OSError) as error:
        return _wrong(str(error), 1)
    if signer is None:
        return _wrong("this site has neither munge nor a key of the cluster (pbsdock setup key), so no node obeys", 1)
    if not config.nodes.port:
        return _wrong("nodes.port is 0: this site's agents do not ask each other", 1)
    return _report(_results(signer, config, names, images, arguments), as_json=arguments.pull_json)


def _results(
    signer: Signer, config: Config, names: Sequence[str], images: Sequence[str], arguments: argparse.Namespace
) -> Iterator[Result]:
    """As they come. An image after another on each node."""

    def all_of(name: str) -> list[Result]:
        return [order(signer, config.nodes.port, name, image, always=arguments.always) for image in images]

    with ThreadPoolExecutor(arguments.at_once, thread_name_prefix="ask") as pool:
        for done in as_completed([pool.submit(all_of, name) for name in names]):
            yield from done.result()


def order(signer: Signer, port: int, node: str, image: str, *, always: bool = False) -> Result:
    """Have an image pulled on a node and wait for it. Raises nothing."""
    number, began, pause = secrets.token_hex(16), time.monotonic(), _FIRST_PAUSE_S
    heard = began
    result, detail = "no-answer", ""
    while True:
        try:
            told = client.ask(
                signer, node, port, "pull", "", timeout_s=_ASK_S, image=image, order=number, always=always
            )
            heard = time.monotonic()
        except SigningError as error:
            detail = error.sentence
            break
        except ChannelError as error:
            detail = error.sentence
            # Before the first answer nobody is there; afterwards an agent may be started anew.
            if error.code not in ("unreachable", "refused") or heard == began or time.monotonic() - heard > _SILENT_S:
                break
            told = {"state": "later"}
        if told.get("state") == "done":
            result, detail = "pulled" if told.get("fetched") else "was here", str(told.get("digest") or told.get("id"))
            break
        if told.get("state") not in ("pulling", "later"):
            result = "refused" if told.get("state") == "refused" else "failed"
            detail = str(told.get("sentence") or told.get("state"))
            break
        time.sleep(pause)
        pause = min(_MOST_PAUSE_S, pause * 1.5)
    seconds = round(time.monotonic() - began, 1)
    return Result(node=node, image=image, result=result, detail=_plain(detail), seconds=seconds)


def _report(results: Iterator[Result], *, as_json: bool) -> int:
    done = []
    if not as_json:
        print(_ROW.format("NODE", "RESULT", "TIME", "IMAGE"))
    for result in results:
        done.append(result)
        if not as_json:
            print(_ROW.format(result.node[:20], result.result, f"{result.seconds:.1f} s", result.image), flush=True)
            if not result.is_well:
                print(f"  {result.detail}", flush=True)
    well = sum(result.is_well for result in done)
    if as_json:
        print(json.dumps({"results": [asdict(result) for result in done]}, indent=1))
    else:
        print(f"{well} of {len(done)} are there")
    return 0 if well == len(done) else 1


def _plain(text: str) -> str:
    """What another node says is shown on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:1000]


def _wrong(sentence: str, code: int) -> int:
    print(f"pbsdock: {sentence}", file=sys.stderr)
    return code
