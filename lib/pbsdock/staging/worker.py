"""What a forked worker does with its order: become the job's user, copy, and tell the agent how it went."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
from collections.abc import Iterator
from typing import Any

from pbsdock.staging import find, placement
from pbsdock.staging.channel import AgentChannel
from pbsdock.staging.client import client_of
from pbsdock.staging.download import Download, Source
from pbsdock.staging.errors import StageError
from pbsdock.staging.made import UMASK, Made
from pbsdock.staging.names import escaped, key_problem
from pbsdock.staging.order import Item, Order
from pbsdock.staging.progress import Progress
from pbsdock.staging.retry import RetryPolicy
from pbsdock.staging.upload import Upload, abort
from pbsdock.staging.worker_pool import Task, WorkerPool

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def become(order: Order) -> None:
    """Become the job's user for good. Raises OSError; never returns as root.

    A process that has changed its user and executed nothing since cannot be traced or read by that user (prctl(2),
    PR_SET_DUMPABLE), so the keys in its memory and its freedom from the job's limits are out of the user's reach.
    """
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")
    os.setgroups(order.groups)
    os.setresgid(order.gid, order.gid, order.gid)
    os.setresuid(order.uid, order.uid, order.uid)
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError("no_new_privs cannot be set")
    if order.uid == 0 or os.getresuid() != (order.uid,) * 3 or os.getresgid() != (order.gid,) * 3:
        raise OSError("the job's user could not be taken on")
    os.umask(UMASK)
    os.chdir("/")


class Worker:
    """Carries out one order."""

    def __init__(self, order: Order, channel: socket.socket) -> None:
        self.order = order
        self.agent = AgentChannel(channel)
        self.progress = Progress(self.agent.tell)
        self.retry = RetryPolicy(order.patience_s)
        self.made = Made()
        self._clients: dict[str, Any] = {}

    def client(self, store: str) -> Any:
        """The client of a store."""
        if store not in self._clients:
            self._clients[store] = client_of(store, self.order.stores[store], self.agent.ask)
        return self._clients[store]

    def run(self) -> None:
        """Carry the order out and tell how it went."""
        self.agent.listen()
        self.progress.start()
        try:
            act = {"in": self._stage_in, "out": self._stage_out, "undo": self._undo}[self.order.direction]
            kept = act()
        except StageError as error:
            self._failed(error.code, str(error), error.where)
        except OSError as error:
            name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            self._failed("stage-path", f"{name}{error.strerror or error}")
        except Exception as error:  # silence would look as if somebody had killed this process
            self._failed("stage-failed", f"the staging worker could not go on: {type(error).__name__}")
        else:
            left_out = [escaped(path) for path in self.progress.left_out]
            more = self.progress.more_left_out
            done = {**self.progress.seen(), "left_out": left_out, "more_left_out": more, "kept": kept}
            self.agent.tell({"done": done})
            if self.order.direction == "in":
                self.made.follow(self.agent.umask())
                self.agent.tell({"modes": True})

    def _failed(self, code: str, sentence: str, where: str = "") -> None:
        self.agent.tell({"failed": {"code": code, "sentence": escaped(sentence), "where": where}})

    def _parallel(self) -> int:
        return max(store.parallel for store in self.order.stores.values())

    def _stage_in(self) -> list[str]:
        found, directories = self._found()
        due = []
        for item, download in found:
            self.progress.expect(1, download.source.size)
            if download.is_there():
                self.progress.skip(download.source.size)
            else:
                due.append((item, download))
        placement.check_distinct(due)
        placement.check_space(due, self.order.mark)
        for item in self.order.items:
            os.makedirs(placement.unfinished(item, self.order.mark), mode=0o700, exist_ok=True)
        for item, path in directories:
            with _about(item):
                self.made.directory(path)
        WorkerPool(self._parallel(), self.retry.stopped).work(_named(item, download) for item, download in due)
        for item in self.order.items:
            shutil.rmtree(placement.unfinished(item, self.order.mark), ignore_errors=True)
        return []

    def _found(self) -> tuple[list[tuple[Item, Download]], list[tuple[Item, str]]]:
        """The files to be made, and the directories that have a key of their own.

        A key that cannot be staged is left out of a prefix or a pattern. Raises StageError where it was asked for by
        itself.
        """
        listed: list[tuple[Item, Source, str]] = []
        for item in self.order.items:
            with _about(item):
                placement.check_reach(item, self.order.mark, self.made)
                for source, path in find.objects(self.client(item.store), item, self.retry, self.progress.leave_out):
                    listed.append((item, source, path))
        files: list[tuple[Item, Download]] = []
        directories: list[tuple[Item, str]] = []
        wrong = placement.in_the_way(listed)
        names = {path for _, _, path in listed}
        for item, source, path in listed:
            if path in wrong:
                if item.is_single:
                    raise StageError("stage-path", wrong[path], item.where)
                self.progress.leave_out(wrong[path])
            elif not path.endswith("/"):
                unfinished = placement.unfinished(item, self.order.mark)
                client = self.client(item.store)
                download = Download(client, source, path, unfinished, self.progress, self.retry, self.made)
                files.append((item, download))
            elif path.rstrip("/") not in names or path.rstrip("/") in wrong:
                directories.append((item, path.rstrip("/")))
        return files, directories

    def _stage_out(self) -> list[str]:
        begun = {(upload.store, upload.bucket, upload.key): upload.id for upload in self.order.uploads}
        tasks: list[Task] = []
        unfit: list[tuple[Item, str]] = []
        for item in self.order.items:
            with _about(item):
                client = self.client(item.store)
                for path, size, key in find.files(item, self.progress.leave_out):
                    if problem := key_problem(key):
                        unfit.append((item, f"the name of '{path}' {problem}"))
                        continue
                    self.progress.expect(1, size)
                    upload = Upload(
                        client,
                        path,
                        item.bucket,
                        key,
                        self.progress,
                        self.retry,
                        self._teller(item, key),
                        begun.get((item.store, item.bucket, key), ""),
                    )
                    tasks.append(_named(item, upload))
        WorkerPool(self._parallel(), self.retry.stopped).work(tasks)
        if unfit:  # told last: the others are in the store by now, and what is doomed is kept
            item, sentence = unfit[0]
            more = f"; nor are the names of {len(unfit) - 1} more" if len(unfit) > 1 else ""
            raise StageError("name-unfit", f"{sentence}{more}", item.where)
        return []

    def _teller(self, item: Item, key: str) -> Any:
        def tell(upload_id: str) -> None:
            self.agent.tell({"upload": {"store": item.store, "bucket": item.bucket, "key": key, "id": upload_id}})

        return tell

    def _undo(self) -> list[str]:
        """Remove unfinished files and uploads, and move files that would be removed with the job to ``keep``."""
        kept = []
        for item in self.order.items:
            unfinished = placement.unfinished(item, self.order.mark)
            if os.path.isdir(unfinished) and not os.path.islink(unfinished):
                shutil.rmtree(unfinished)
            if item.doomed and self.order.keep and (moved := _rescue(item, self.order.keep)):
                kept.append(moved)
        for upload in self.order.uploads:
            abort(self.client(upload.store), upload.bucket, upload.key, upload.id, self.retry)
        return kept


@contextlib.contextmanager
def _about(item: Item) -> Iterator[None]:
    """Give every error of the block the item's place in the script."""
    try:
        yield
    except StageError as error:
        error.where = error.where or item.where
        raise
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else item.shown
        raise StageError("stage-path", f"{name}: {error.strerror or error}", item.where) from None


def _named(item: Item, task: Task) -> Task:
    """The task, and those it returns, with its item's place in their errors."""

    def act() -> Any:
        with _about(item):
            more = task()
        return None if more is None else [_named(item, work) for work in more]

    return act


def _rescue(item: Item, keep: str) -> str:
    """Move files that could not be uploaded to *keep*, which outlives the job; returns it, or "" if there were none."""
    moved = ""
    for path in _present(item):
        target = os.path.join(keep, os.path.basename(path.rstrip("/")))
        os.makedirs(keep, exist_ok=True)
        number = 1
        while os.path.lexists(target):
            number += 1
            target = os.path.join(keep, f"{os.path.basename(path.rstrip('/'))}.{number}")
        shutil.move(path, target)
        moved = keep
    return moved


def _present(item: Item) -> Iterator[str]:
    try:
        roots = find.roots(item.path.rstrip("/") or "/", item)
    except StageError:
        return
    yield from (root for root, _, _ in roots)


def serve(order: Order, channel: socket.socket) -> None:
    """Become the job's user and carry out *order*."""
    become(order)
    Worker(order, channel).run()
