"""A pool of threads for tasks that may return further tasks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

Task = Callable[[], "Iterable[Task] | None"]


class WorkerPool:
    """*count* threads; the first error ends the work and sets *stop*."""

    def __init__(self, count: int, stop: threading.Event) -> None:
        self.count = count
        self.stop = stop
        self._parts: deque[Task] = deque()
        self._tasks: Iterator[Task] = iter(())
        self._busy = 0
        self._error: BaseException | None = None
        self._turn = threading.Condition()

    def work(self, tasks: Iterable[Task]) -> None:
        """Run all *tasks*; what a task returns comes before the rest. Raises the error of the first that failed."""
        self._tasks = iter(tasks)
        threads = [threading.Thread(target=self._loop, daemon=True) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        while (task := self._next()) is not None:
            more: Iterable[Task] | None = None
            try:
                more = task()
            except BaseException as error:
                self._fail(error)
            with self._turn:
                self._busy -= 1
                self._parts.extend(more or ())
                self._turn.notify_all()

    def _next(self) -> Task | None:
        with self._turn:
            while self._error is None and not self.stop.is_set():
                task = self._parts.popleft() if self._parts else next(self._tasks, None)
                if task is not None:
                    self._busy += 1
                    return task
                if self._busy == 0:
                    return None
                self._turn.wait()  # a running task may return further ones
        return None

    def _fail(self, error: BaseException) -> None:
        with self._turn:
            self._error = self._error or error
        self.stop.set()
