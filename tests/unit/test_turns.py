"""Whose turn a pull is: how many at once, whose share, a registry's rate, and what it has asked for."""

from __future__ import annotations

import threading
import time

import pytest

from pbsdock.engine.turns import Turn, Turns


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _turn(user: int = 1, registry: str = "r.test") -> Turn:
    return Turn(registry, (registry, ()), {user})


def test_the_first_comes_first() -> None:
    """Of users with as many pulls under way; counted for who scrapes."""
    turns = Turns(lambda: 1)
    first, second, third = (_turn(user) for user in (1, 2, 3))

    assert [turns.enter(turn) for turn in (first, second, third)] == [True, False, False]
    assert (second.why, second.ahead, third.ahead) == ("turn", 0, 1)
    assert turns.counts() == (1, 2)
    turns.give_back(first)
    assert turns.wait(second)
    turns.give_back(second)
    assert turns.wait(third)
    turns.give_back(third)
    turns.give_back(third)  # a pull that failed while it rested
    assert turns.counts() == (0, 0)


def test_any_number() -> None:
    """Where the site wants it so."""
    turns = Turns(lambda: 0)

    assert all(turns.enter(_turn()) for _ in range(50))


def test_the_last_is_for_somebody_else() -> None:
    """A user with many images keeps nobody else waiting, and of two that wait who has fewer comes first."""
    turns = Turns(lambda: 3)
    of_one = [_turn(1) for _ in range(4)]
    assert [turns.enter(turn) for turn in of_one] == [True, True, False, False]
    of_two = [_turn(2) for _ in range(2)]
    assert [turns.enter(turn) for turn in of_two] == [True, False]

    turns.give_back(of_one[0])
    assert turns.wait(of_one[2])  # one each is under way, and this has waited longest
    turns.give_back(of_two[0])
    assert turns.wait(of_two[1])
    assert turns.counts() == (3, 1)


def test_a_pull_of_several_users_has_the_best_place_of_theirs() -> None:
    """Whoever waits for the image of a user with many pulls is not kept waiting by these."""
    turns = Turns(lambda: 3)
    assert [turns.enter(_turn(1)) for _ in range(2)] == [True, True]
    shared = _turn(1)
    assert not turns.enter(shared)
    turns.join(shared, 2)

    assert turns.wait(shared)
    assert shared.user == 2


def test_a_rate_of_a_registry() -> None:
    """So many begin in any minute, each registry for itself, and a higher limit counts at once."""
    clock, most = Clock(), {"r.test": 2}
    turns = Turns(lambda: 0, lambda registry: most.get(registry, 0), clock)
    assert [turns.enter(_turn()) for _ in range(2)] == [True, True]
    late = _turn()

    assert not turns.enter(late)
    assert late.why == "rate"
    assert turns.enter(_turn(registry="other.test"))
    clock.now += 61
    assert turns.wait(late)
    assert turns.enter(_turn())
    later = _turn()
    assert not turns.enter(later)
    most["r.test"] = 9
    assert turns.wait(later)


def test_a_registry_that_wants_to_be_left_in_peace() -> None:
    """By that login alone, and for an hour at most."""
    clock = Clock()
    turns = Turns(lambda: 0, clock=clock)
    turns.hold(("r.test", ()), 1e9)
    waits = _turn()

    assert not turns.enter(waits)
    assert (waits.why, waits.until) == ("registry", clock.now + 3600)
    assert turns.enter(Turn("r.test", ("r.test", (("username", "u"),)), {1}))
    clock.now += 3601
    assert turns.wait(waits)


@pytest.mark.parametrize("is_dropped", [True, False], ids=["dropped", "given"])
def test_who_waits_is_woken(is_dropped: bool) -> None:
    """At once, and one that nobody wants any more is not in the others' way."""
    turns = Turns(lambda: 1)
    first, second = _turn(), _turn()
    turns.enter(first)
    turns.enter(second)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(turns.wait(second)))
    thread.start()
    time.sleep(0.1)
    began = time.monotonic()
    turns.drop(second) if is_dropped else turns.give_back(first)
    thread.join(5)

    assert answers == [not is_dropped]
    assert time.monotonic() - began < 0.5
    assert turns.counts() == (1, 0)
