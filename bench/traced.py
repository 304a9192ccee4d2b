"""The installed agent, which notes when its steps begin and end. For bench/waterfall.py; nothing of this is shipped.

``python -I -S traced.py LIBRARY NOTES NAME --paths FILE``: a line ``NAME BEGAN ENDED`` (monotonic seconds) per call in NOTES.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from typing import Any

LIBRARY, NOTES = sys.argv[1:3]
sys.path.insert(0, LIBRARY)

from pbsdock.agent import daemon, finish, node, own_files, start, watch  # noqa: E402 - found only through the line above
from pbsdock.agent.requests import root, running  # noqa: E402
from pbsdock.agent.requests.root import RootRequests  # noqa: E402
from pbsdock.agent.requests.users import UserRequests  # noqa: E402
from pbsdock.agent.session import Session  # noqa: E402
from pbsdock.engine.docker import api as engine  # noqa: E402
from pbsdock.host import pins  # noqa: E402

_notes = -1


def _noted(name: str, function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        global _notes
        began = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            ended = time.monotonic()
            if _notes < 0:  # not before the daemon has closed what it inherited
                _notes = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(_notes, f"{name} {began:.6f} {ended:.6f}\n".encode())

    return wrapped


def _wrap(owner: Any, method: str, name: str) -> None:
    setattr(owner, method, _noted(name, getattr(owner, method)))


for owner, method, name in (
    (RootRequests, "prepare", "prologue"),
    (UserRequests, "start", "run"),
    (RootRequests, "release", "epilogue"),
    (Session, "answer", "answer"),
):
    _wrap(owner, method, name)
for method in ("inspect_image", "create", "attach", "start", "inspect"):
    _wrap(engine.Engine, method, f"engine-{method.replace('_', '-')}")
for module in (root, running, watch):
    module.finish = _noted("end", finish.finish)  # type: ignore[attr-defined]
_wrap(start.standing, "take", "container-ready")
_wrap(start, "_open", "gate")
_wrap(finish, "_tell", "told")
_wrap(os, "fsync", "fsync")
_wrap(own_files, "write", "files")
_wrap(pins, "make", "pins")
_wrap(pins, "remove", "pins")
_chosen = node.choose


def _choose(*arguments: Any, **options: Any) -> Any:
    backend = _chosen(*arguments, **options)
    for name in ("create", "verify"):
        setattr(backend, name, _noted("cgroup", getattr(backend, name)))
    return backend


node.choose = _choose
sys.exit(daemon.main(sys.argv[4:]))
