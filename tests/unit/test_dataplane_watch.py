"""Looks at a kernel that others write to at any moment: nothing that they do to ours stays unseen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxymode_agent.dataplane.base import Finding, Look
from proxymode_agent.dataplane.nfnetlink import NfProto
from proxymode_agent.dataplane.nfnetlink.ledger import Activity, SetName
from proxymode_agent.dataplane.shape import Shape
from proxymode_agent.dataplane.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, SECOND = (SetName(NfProto.IPV4, "ours", name) for name in ("first", "second"))


@dataclass
class Kernel:
    """Two sets and a chain of ours. `others`: what others do next, one thing before each part of a shape is read."""

    counts: dict[SetName, int] = field(default_factory=lambda: {FIRST: 100, SECOND: 100})
    rules: int = 1
    counted: bool = True
    others: list[Callable[[], None]] = field(default_factory=list)
    theirs: int = 0
    grown: dict[SetName, int] = field(default_factory=dict)
    rebuilt: bool = False

    def activity(self) -> Activity:
        found = Activity(self.theirs, self.rebuilt, self.grown)
        self.theirs, self.rebuilt, self.grown = 0, False, {}
        return found

    def read(self) -> Shape:
        counts: dict[SetName, int] = {}
        for name in self.counts:
            self.interfere()
            counts[name] = self.counts[name]
        self.interfere()
        return Shape({"chain": bytes([self.rules])}, counts if self.counted else {}, self.counted)

    def interfere(self) -> None:
        if self.others:
            self.others.pop(0)()

    def harmless(self) -> None:
        self.theirs += 1

    def steal(self, name: SetName) -> None:
        self.counts[name] -= 1
        self.theirs += 1

    def insert_rule(self) -> None:
        self.rules += 1
        self.theirs += 1

    def write(self, name: SetName) -> None:
        """Ours."""
        self.counts[name] += 1
        self.grown[name] = self.grown.get(name, 0) + 1

    def rebuild(self) -> None:
        """Ours."""
        self.rules += 10
        self.rebuilt = True


ours = st.sampled_from(["write", "rebuild", "look", "look"])
theirs = st.sampled_from(["harmless", "steal first", "steal second", "rule"])


@example(["rebuild", ["steal first"]], False)
@given(st.lists(ours | theirs | st.lists(theirs, max_size=12), max_size=25), st.booleans())
@settings(deadline=None)
def test_nothing_that_others_do_to_ours_stays_unseen(story: list[str | list[str]], counted: bool) -> None:
    kernel = Kernel(counted=counted)
    watch = Watch(kernel.activity, kernel.read)
    watch.begin()
    touched_at = -1  # the look that is under way or comes next
    seen: list[Look] = []

    def act(what: str) -> None:
        nonlocal touched_at
        if what != "harmless":
            touched_at = len(seen)
        match what:
            case "harmless":
                kernel.harmless()
            case "steal first":
                kernel.steal(FIRST)
            case "steal second":
                kernel.steal(SECOND)
            case _:
                kernel.insert_rule()

    for what in story:
        match what:
            case "write":
                kernel.write(FIRST)
            case "rebuild":
                kernel.rebuild()
            case "look":
                seen.append(watch.look())
            case str():
                act(what)
            case _:
                kernel.others = [lambda one=one: act(one) for one in what]  # type: ignore[misc]
                seen.append(watch.look())
                while kernel.others:
                    kernel.interfere()
    seen += [watch.look() for _ in range(2)]
    if touched_at >= 0:
        assert {look.finding for look in seen[touched_at:]} & {Finding.CHANGED, Finding.DOUBTFUL}
    else:
        assert Finding.CHANGED not in {look.finding for look in seen}, "our own and harmless commits are no drift"
    assert watch.look() == Look(Finding.UNTOUCHED)


def test_a_commit_while_it_looks_is_looked_at_the_next_time() -> None:
    kernel = Kernel()
    watch = Watch(kernel.activity, kernel.read)
    watch.begin()
    kernel.harmless()
    # Three reads of three parts each; the last theft comes after its part was read.
    kernel.others = [kernel.harmless] * 8 + [lambda: kernel.steal(FIRST)]
    assert watch.look() == Look(Finding.NOTHING_SEEN)
    assert watch.look() == Look(Finding.CHANGED, "ip ours first has 1 element less")
