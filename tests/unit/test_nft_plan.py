"""Updates of the maps, on a model of the kernel: at no moment does a packet miss, whatever changes.

A packet sees the rules of the generation in which it began, and elements as they are when it looks them up: a chain
must be a generation older than the first verdict that leads to it. A packet makes two steps: it reads its frontend's
verdict, and later, maybe some transactions later but within the same grace period, it draws an index and reads the
endpoint; then its source and destination are looked up in `hairpin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nft_fake_kernel import FakeKernel, State, target
from proxymode_agent.dataplane.nfnetlink import Connection, Transaction
from proxymode_agent.dataplane.nftables import units
from proxymode_agent.dataplane.nftables.elements import index_of, indices
from proxymode_agent.dataplane.nftables.layout import Balancer, layout
from proxymode_agent.dataplane.nftables.plan import ObservedElements, Plan, TableState
from proxymode_agent.dataplane.nftables.readback import Base, read_elements
from proxymode_agent.dataplane.nftables.slots import References, assign
from proxymode_agent.services.model import DataplaneConfig, Family

if TYPE_CHECKING:
    from collections.abc import Sequence

Wanted = dict[bytes, tuple[bytes, ...]]

LAYOUT = layout(Family.IPV4, DataplaneConfig(), "0")
SERVICE_KEYS = [bytes([10, 96, 0, address, 6, 0, 0, 0, 0, port, 0, 0]) for address in (1, 2) for port in (53, 80)]
NODEPORT_KEYS = [bytes([protocol, 0, 0, 0, 117, 48, 0, 0]) for protocol in (6, 17)]
ENDPOINTS = [bytes([10, 244, 0, pod, 31, port, 0, 0]) for pod in range(1, 9) for port in (144, 145)]


def packed(endpoints: set[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(endpoints))


def wanted(keys: list[bytes]) -> st.SearchStrategy[Wanted]:
    return st.dictionaries(st.sampled_from(keys), st.sets(st.sampled_from(ENDPOINTS), max_size=8).map(packed))


@dataclass(frozen=True)
class Target:
    """All that is wanted at one time."""

    services: Wanted
    nodeports: Wanted


TARGETS = st.builds(Target, wanted(SERVICE_KEYS), wanted(NODEPORT_KEYS))


def drawn(state: State, balancer: Balancer, key: bytes, count: int) -> list[bytes | None]:
    """What a packet of a frontend can get in the chain for `count` endpoints: by index, None where it misses."""
    endpoints = state.maps[balancer.endpoints.name]
    return [endpoints.get(key + index) for index in indices(count)[:count]]


def count_at(state: State, balancer: Balancer, key: bytes) -> int | None:
    """The number of endpoints that the frontend's verdict stands for; None: no verdict."""
    verdict = state.maps[balancer.verdicts.name].get(key)
    return None if verdict is None else balancer.count_of(target(verdict))


class World:
    """A fake kernel with the planner's state of it, and the rules of the game checked at every generation."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(LAYOUT.sets)
        self.state = TableState(LAYOUT, ObservedElements())
        self.now = Target({}, {})
        self.residue: Wanted = {}  # what a crash half-way may have left, by frontend

    def restart(self) -> None:
        """Forget all, read the kernel back."""
        services, nodeports = (
            frozenset(count for chain in self.kernel.state.chains if (count := balancer.count_of(chain)) is not None)
            for balancer in LAYOUT.balancers
        )
        base = Base(Transaction(()), False, (services, nodeports), Transaction(()))
        self.state = TableState(LAYOUT, read_elements(cast("Connection", self.kernel), LAYOUT, base))

    def change(self, to: Target) -> Plan:
        """The plan for what is different."""
        plans = []
        for old, new in ((self.now.services, to.services), (self.now.nodeports, to.nodeports)):
            plans.append({key: new.get(key) for key in {*old, *new} if old.get(key) != new.get(key)})
        return self.state.plan(*plans)

    def execute(self, plan: Plan, to: Target, stop_after: int | None = None) -> None:
        """Commit the plan and check every moment of it; die after some transactions if asked to."""
        transactions = [*plan.make, *plan.clear][:stop_after]
        generations = [self.kernel.state]
        for number, transaction in enumerate(transactions):
            if number == len(plan.make):
                generations = [self.kernel.state]  # a grace period: nobody has read anything older
            self.kernel.commit(transaction)
            generations.append(self.kernel.state)
            self.check_packets(generations, to)
        if stop_after is None:
            self.now = to
            self.residue = {}
            self.check_final()

    def check_packets(self, generations: Sequence[State], to: Target) -> None:
        before, newest = generations[-2:]
        for balancer in LAYOUT.balancers:
            for verdict in newest.maps[balancer.verdicts.name].values():
                assert target(verdict) in before.chains, "a packet that began before sees the chain's rules"
        for balancer, old, new in (
            (LAYOUT.services, self.now.services, to.services),
            (LAYOUT.nodeports, self.now.nodeports, to.nodeports),
        ):
            for key in {*old, *new}:
                if old.get(key) and new.get(key):
                    assert count_at(newest, balancer, key), "a frontend with endpoints before and after has a verdict"
                allowed = {*old.get(key, ()), *new.get(key, ()), *self.residue.get(key, ())}
                for earlier in generations:
                    count = count_at(earlier, balancer, key)
                    if count is None:
                        continue
                    endpoints = drawn(newest, balancer, key, count)
                    assert set(endpoints) <= allowed, "every index that can be drawn is there, and points to its own"
                    for endpoint in endpoints:
                        if endpoint in new.get(key, ()):
                            assert endpoint is not None
                            assert endpoint[:4] * 2 in newest.maps["hairpin"]
        for key, endpoints_ in to.services.items():
            if key in self.now.services and not endpoints_ and not self.now.services[key]:
                assert key[:4] in newest.maps["cluster-ips"], "a Service without endpoints refuses all the time"

    def check_final(self) -> None:
        """The maps hold what is wanted and nothing else."""
        maps = self.kernel.state.maps
        for balancer, frontends in ((LAYOUT.services, self.now.services), (LAYOUT.nodeports, self.now.nodeports)):
            found: dict[bytes, dict[int, bytes]] = {}
            for key, endpoint in maps[balancer.endpoints.name].items():
                found.setdefault(key[:-4], {})[index_of(key[-4:])] = endpoint
            assert {key: sorted(row) for key, row in found.items()} == {
                key: list(range(len(row))) for key, row in frontends.items() if row
            }
            assert {key: packed(set(row.values())) for key, row in found.items()} == {
                key: row for key, row in frontends.items() if row
            }
            assert maps[balancer.verdicts.name] == {
                key: balancer.target(len(row)) for key, row in frontends.items() if row
            }
        everywhere = {e for row in (*self.now.services.values(), *self.now.nodeports.values()) for e in row}
        assert set(maps["hairpin"]) == {endpoint[:4] * 2 for endpoint in everywhere}
        assert set(maps["cluster-ips"]) == {key[:4] for key in self.now.services}
        assert set(maps["nodeports-without-endpoints"]) == {key for key, row in self.now.nodeports.items() if not row}


@pytest.fixture(params=[units.TRANSACTION_BYTES, 100], ids=["whole transactions", "every command alone"])
def transaction_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100 bytes a transaction nothing is together but what must be."""
    monkeypatch.setattr(units.pack, "__defaults__", (request.param,))


@pytest.mark.usefixtures("transaction_bytes")
@given(st.lists(TARGETS, min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_no_packet_misses_at_any_moment_of_any_change(targets: list[Target]) -> None:
    world = World()
    for to in targets:
        world.execute(world.change(to), to)


@pytest.mark.usefixtures("transaction_bytes")
@given(st.lists(TARGETS, max_size=3), TARGETS, st.integers(0, 12), TARGETS)
@settings(max_examples=100, deadline=None)
def test_a_restart_after_a_crash_at_any_moment_loses_nothing(
    before: list[Target], interrupted: Target, transactions: int, after: Target
) -> None:
    world = World()
    for to in before:
        world.execute(world.change(to), to)
    world.execute(world.change(interrupted), interrupted, stop_after=transactions)
    old, new = ({**target.services, **target.nodeports} for target in (world.now, interrupted))
    world.residue = {key: old.get(key, ()) + new.get(key, ()) for key in {*old, *new}}
    # Only what had endpoints all the time can be asked to have a verdict all the time.
    steady = {key for key in old if old[key] and new.get(key)}
    world.now = Target(*({key: row for key, row in part.items() if key in steady} for part in vars(world.now).values()))
    world.restart()
    world.execute(world.state.plan_all(after.services, after.nodeports), after)
    world.restart()
    assert world.state.plan_all(after.services, after.nodeports) == Plan((), ())


@given(st.lists(TARGETS, min_size=1, max_size=4))
@settings(deadline=None)
def test_a_restart_writes_nothing(targets: list[Target]) -> None:
    world = World()
    for to in targets:
        world.execute(world.change(to), to)
    world.restart()
    assert world.state.plan_all(world.now.services, world.now.nodeports) == Plan((), ())


@given(TARGETS, st.data())
@settings(deadline=None)
def test_what_others_did_to_the_maps_is_put_right(to: Target, data: st.DataObject) -> None:
    world = World()
    world.execute(world.change(to), to)
    for of in LAYOUT.sets:
        held = world.kernel.state.maps[of.name]
        for key in data.draw(st.lists(st.sampled_from(sorted(held)), unique=True) if held else st.just([])):
            del held[key]
    world.kernel.state.maps["endpoints"][SERVICE_KEYS[0] + b"\xff" * 4] = ENDPOINTS[0]
    world.kernel.state.maps["cluster-ips"][b"\x7f\0\0\1"] = b""
    world.kernel.state.maps["services"][b"\x7f\0\0\1" + SERVICE_KEYS[0][4:]] = LAYOUT.services.target(1)
    world.restart()
    plan = world.state.plan_all(to.services, to.nodeports)
    for transaction in (*plan.make, *plan.clear):
        world.kernel.commit(transaction)
    world.check_final()


def test_one_replaced_endpoint_is_one_delete_and_one_add_and_the_hairpin_pair() -> None:
    world = World()
    key, other = SERVICE_KEYS[:2]
    first = Target({key: packed(set(ENDPOINTS[:4])), other: packed(set(ENDPOINTS[:2]))}, {})
    world.execute(world.change(first), first)
    second = Target({**first.services, key: packed({*ENDPOINTS[:3], ENDPOINTS[6]})}, {})
    plan = world.change(second)
    assert [str(command) for transaction in plan.make for command in transaction.commands] == [
        "add 1 element of set ip proxymode hairpin",
        "delete 1 element of map ip proxymode endpoints",
        "add 1 element of map ip proxymode endpoints",
    ]
    assert plan.clear == ()
    world.execute(plan, second)


def test_fewer_endpoints_are_cleared_after_the_grace_period() -> None:
    world = World()
    key = SERVICE_KEYS[0]
    first = Target({key: packed(set(ENDPOINTS[:3]))}, {})
    world.execute(world.change(first), first)
    second = Target({key: packed(set(ENDPOINTS[1:3]))}, {})
    plan = world.change(second)
    assert [str(transaction) for transaction in plan.clear] == ["delete 1 element of map ip proxymode endpoints"]
    world.execute(plan, second)


def test_chains_are_made_ahead_while_the_map_is_empty_and_stay() -> None:
    world = World()
    key = SERVICE_KEYS[0]
    for count in (4, 2, 8, 1):
        to = Target({key: packed(set(ENDPOINTS[:count]))}, {})
        world.execute(world.change(to), to)
    rules = len(LAYOUT.services.rules(1))
    assert world.kernel.state.chains == {f"one-of-{count}": rules for count in (1, 2, 3, 4, 5, 6, 8)}


PODS = st.lists(st.sampled_from(ENDPOINTS), unique=True)


@given(st.lists(st.none() | st.sampled_from(ENDPOINTS)), PODS)
@settings(deadline=None)
def test_assigned_indices_keep_whoever_can_stay(current: list[bytes | None], pods: list[bytes]) -> None:
    result = assign(current, pods)
    assert sorted(result) == sorted(pods)
    stayed = [one for one, other in zip(result, current, strict=False) if one == other]
    could = {endpoint for endpoint in current[: len(pods)] if endpoint in pods}
    assert set(stayed) == could
    assert assign(result, sorted(pods)) == result


STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(ENDPOINTS), st.booleans()))


@given(st.sets(st.sampled_from(ENDPOINTS)), STEPS)
@settings(deadline=None)
def test_references_add_with_the_first_need_and_delete_with_the_last(
    existing: set[bytes], steps: list[tuple[bool, bytes, bool]]
) -> None:
    references, held, needs = References(existing), set(existing), dict.fromkeys(ENDPOINTS, 0)
    for take, key, flush in steps:
        if take:
            references.take([key])
            needs[key] += 1
        elif needs[key]:
            references.drop([key])
            needs[key] -= 1
        if flush:
            added, removed = references.changes()
            assert not held & set(added)
            assert set(removed) <= held
            held = (held | set(added)) - set(removed)
            assert held == {key for key, count in needs.items() if count}
