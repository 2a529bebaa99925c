"""What is there is walked once, and nothing that has gone is kept for ever."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from proxymode_operator import garbage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


class Knot:
    """In a cycle with itself."""

    def __init__(self) -> None:
        self.knot = self


def test_what_is_there_is_left_alone_until_the_next_time_and_then_collected_if_it_has_gone() -> None:
    knot = Knot()
    left = weakref.ref(knot)
    garbage.settle()
    del knot
    gc.collect()
    assert left() is not None, "it was not walked"
    garbage.settle()
    assert left() is None


def test_what_was_made_since_is_collected_as_ever() -> None:
    garbage.collect_seldom()
    garbage.settle()
    left = weakref.ref(Knot())
    gc.collect()
    assert left() is None
