"""Locks by name."""

from __future__ import annotations

import threading
import time

import pytest

from pbsdock.agent.locks import Locks


def test_one_at_a_time_and_nothing_stays() -> None:
    """Of one name one holds it, others wait in vain or in turn; afterwards there is no lock of any name."""
    locks = Locks()
    inside, most, done = [], [], []

    def work() -> None:
        with locks.hold("7.vm", 10.0):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(40)]
    with locks.hold("7.vm", 0.0), locks.hold("8.vm", 0.0):
        for one in threads:
            one.start()
        with pytest.raises(TimeoutError), locks.hold("7.vm", 0.05):
            raise AssertionError("held by two")
        assert not done
    for one in threads:
        one.join()

    assert (len(done), set(most), len(locks)) == (40, {1}, 0)


def test_released_by_an_error() -> None:
    """Whatever is raised inside."""
    locks = Locks()
    with pytest.raises(KeyError), locks.hold("7.vm", 0.0):
        raise KeyError
    with locks.hold("7.vm", 0.0):
        assert len(locks) == 1
