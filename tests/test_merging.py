"""Sources that are read side by side, none waiting for another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping

import pytest

from evctl.backends.merging import AT_ONCE, merged
from evctl.errors import UnavailableError

Sources = Mapping[Hashable, Callable[[], Iterator[str]]]


def test_a_source_that_has_not_ended_holds_no_other_back() -> None:
    second = threading.Event()

    def long() -> Iterator[str]:
        yield "long begins"
        assert second.wait(10), "the other one was not read"
        yield "long ends"

    def short() -> Iterator[str]:
        yield "short"
        second.set()

    found = list(merged(lambda: ({"long": long, "short": short}, False), 0.05))
    assert set(found[:2]) == {"long begins", "short"}
    assert found[-1] == "long ends"


def test_what_comes_later_is_read_too_and_each_only_once() -> None:
    asked = 0

    def sources() -> tuple[Sources, bool]:
        nonlocal asked
        asked += 1
        return {name: lambda name=name: iter([name]) for name in "abc"[:asked]}, asked < 3

    assert sorted(merged(sources, 0.01)) == ["a", "b", "c"]
    assert asked == 3


def test_more_than_can_be_read_at_once_wait_for_one_to_end() -> None:
    reading, most = 0, 0
    lock = threading.Lock()

    def one() -> Iterator[str]:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        yield "x"
        with lock:
            reading -= 1

    count = 3 * AT_ONCE
    assert len(list(merged(lambda: (dict.fromkeys(range(count), one), False), 0.01))) == count
    assert most <= AT_ONCE


def test_an_error_is_raised_when_the_others_have_been_read() -> None:
    def broken() -> Iterator[str]:
        yield "half"
        raise UnavailableError("away")

    found = []
    with pytest.raises(UnavailableError, match="away"):
        for item in merged(lambda: ({1: broken, 2: lambda: iter("xyz")}, False), 0.01):
            found.append(item)
    assert sorted(found) == ["half", "x", "y", "z"]
