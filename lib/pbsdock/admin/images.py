"""``pbsdock images``: what is here and who used it last, and what the site does about it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from pbsdock.admin.ask import told
from pbsdock.protocol import wire

_DAY_S = 86400


def add_arguments(images: argparse.ArgumentParser) -> None:
    """The options; without a part the list."""
    images.add_argument("--json", action="store_true", help="one JSON object")
    images.set_defaults(run=_list)
    parts = images.add_subparsers(metavar="PART")
    pull = parts.add_parser("pull", help="fetch images by the site's own login, ahead of jobs")
    pull.add_argument("--always", action="store_true", help="also where a tag is here already: it may have moved on")
    pull.add_argument("--pin", action="store_true", help="and keep them")
    pull.add_argument(
        "--on",
        metavar="NODES",
        help="on these nodes instead, whose agents are asked: n1,n[2-9] or @FILE, a node a line",
    )
    pull.add_argument("--at-once", metavar="N", type=int, default=32, help="with --on: nodes at a time (32)")
    pull.add_argument("--json", dest="pull_json", action="store_true", help="with --on: one JSON object")
    pull.set_defaults(run=_pull)
    pin = parts.add_parser("pin", help="keep images, whatever the disk is like; they need not be here yet")
    pin.set_defaults(run=_pin, off=0)
    unpin = parts.add_parser("unpin", help="keep them no longer")
    unpin.set_defaults(run=_pin, off=1)
    for part in (pull, pin, unpin):
        part.add_argument("images", nargs="+", metavar="IMAGE")
    prune = parts.add_parser("prune", help="remove what pbsdock pulled, no job uses and nobody has pinned")
    prune.add_argument(
        "--unused-for", metavar="DAYS", type=float, default=0.0, help="only what was not used for so long"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    prune.add_argument("--json", dest="prune_json", action="store_true", help="one JSON object")
    prune.set_defaults(run=_prune)


def _list(arguments: argparse.Namespace) -> int:
    data = told(arguments.paths, wire.Message("images"))
    if data is None:
        return 1
    if arguments.json:
        print(json.dumps(data, indent=1))
        return 0
    for line in lines(data, time.time()):
        print(line)
    return 0


def lines(data: dict[str, Any], now: float) -> Iterator[str]:
    """The table, the most recently used first. Pure."""
    from pbsdock.core.sizes import human

    rows = [("SIZE", "LAST USED", "BY", "", "IMAGE")]
    for image in reversed(data["images"]):
        mark = "pinned" if image["pinned"] else "" if image["pulled_by_pbsdock"] else "not ours"
        name = (image["names"] or [image["id"]])[0]
        rows.append((human(image["size_bytes"]), _ago(image["used_at"], now), image["user"] or "-", mark, name))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        yield "  ".join([*(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)), row[4]]).rstrip()
    if data["disk_bytes"]:
        used = data["disk_bytes"] - data["free_bytes"]
        yield f"{100 * used / data['disk_bytes']:.0f} % of the disk used, {human(data['free_bytes'])} free"


def _ago(at: float | None, now: float) -> str:
    if at is None:
        return "never"
    seconds = max(0.0, now - at)
    for unit, size in (("d", _DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"


def _pull(arguments: argparse.Namespace) -> int:
    if arguments.on is not None:
        from pbsdock.admin.images_on import run

        return run(arguments)
    code = 0
    for image in arguments.images:
        data = told(arguments.paths, wire.Message("pull", image=image, always=int(arguments.always)))
        if data is None:
            code = 1
            continue
        print(f"{data['image']}: {'pulled' if data['fetched'] else 'was here'}, {data['digest'] or data['id']}")
        if arguments.pin and told(arguments.paths, wire.Message("pin", image=image)) is None:
            code = 1
    return code


def _pin(arguments: argparse.Namespace) -> int:
    code = 0
    for image in arguments.images:
        data = told(arguments.paths, wire.Message("pin", image=image, off=arguments.off))
        if data is None:
            code = 1
        elif arguments.off:
            print(f"{data['image']}: {'no longer pinned' if data['changed'] else 'was not pinned'}")
        else:
            print(f"{data['image']}: {'pinned' if data['changed'] else 'was pinned already'}")
    return code


def _prune(arguments: argparse.Namespace) -> int:
    if not 0 <= arguments.unused_for < 36500:
        print("pbsdock: --unused-for: expected a number of days, 0 or more", file=sys.stderr)
        return 2
    unused_s = int(arguments.unused_for * _DAY_S)
    data = told(arguments.paths, wire.Message("prune", unused_s=unused_s, dry_run=int(arguments.dry_run)))
    if data is None:
        return 1
    if arguments.prune_json:
        print(json.dumps(data, indent=1))
        return 0
    from pbsdock.core.sizes import human

    for name in data["names"]:
        print(f"{'would remove' if arguments.dry_run else 'removed'} {name}")
    print(f"{len(data['names'])} images, {human(data['freed_bytes'])}")
    return 0
