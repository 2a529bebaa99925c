"""Updates of the maps, on the model of :mod:`nft_model`: at no moment does a packet miss, whatever changes."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from nft_model import CLUSTER_IP, LAYOUT, World, space_of, wants
from proxymode_agent.dataplane.nftables import ids as ids_module
from proxymode_agent.dataplane.nftables import units
from proxymode_agent.dataplane.nftables.draws import LOCAL_BASE, Draw, Kind
from proxymode_agent.dataplane.nftables.elements import number, protocol_of
from proxymode_agent.dataplane.nftables.ids import group_of
from proxymode_agent.dataplane.nftables.members import References
from proxymode_agent.dataplane.nftables.paths import REFUSE
from proxymode_agent.dataplane.nftables.pools import assign
from proxymode_agent.dataplane.nftables.wants import Group, Refusal, Wanted

Target = dict[bytes, Wanted]

SERVICE_KEYS = [bytes([10, 96, 0, address, 17, 0, 0, 0, 0, 53, 0, 0]) for address in (1, 2, 3)]
NODEPORT_KEYS = [bytes([protocol, 0, 0, 0, 117, 48, 0, 0]) for protocol in (6, 17)]
ENDPOINTS = [bytes([10, 244, 0, pod, 31, port, 0, 0]) for pod in range(1, 6) for port in (144, 145)]
RANGES = [(bytes([first, 0, 0, 0]), bytes([first, 255, 255, 255])) for first in (10, 20, 30)]


def packed(endpoints: set[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(endpoints))


PODS = st.sets(st.sampled_from(ENDPOINTS), max_size=8).map(packed)
STICKY = st.sampled_from([None, None, 60, 10800])


class Port(NamedTuple):
    """What all frontends of a Service port have in common."""

    name: str
    cluster: tuple[bytes, ...]
    local: tuple[bytes, ...]
    sticky: int | None


@st.composite
def ports(draw: st.DrawFn, name: str) -> Port:
    cluster, local, sticky = draw(PODS), draw(PODS), draw(STICKY)
    return Port(name, cluster or local, local, sticky)  # who has endpoints here has endpoints at all


@st.composite
def frontends(draw: st.DrawFn, key: bytes, port: Port) -> Wanted:
    """What a frontend may be wanted to do."""
    is_service = key in SERVICE_KEYS
    kind = draw(st.sampled_from([*CLUSTER_IP] * is_service + [Kind.EXTERNAL, Kind.LOCAL]))
    local = port.local if kind.base == LOCAL_BASE else ()
    cluster = () if kind is Kind.HERE else port.cluster
    refusal = None
    if not (local if kind.base == LOCAL_BASE else cluster):
        refusal = Refusal.DROP if cluster else draw(st.sampled_from(Refusal))
        if kind in CLUSTER_IP and refusal is Refusal.REJECT:
            refusal = None
    ranges = draw(st.sets(st.sampled_from(RANGES))) if is_service and kind not in CLUSTER_IP else ()
    sources = tuple(sorted(key + a + key + b for a, b in ranges))
    return Wanted(kind, cluster, local, port.sticky, refusal, sources, port.name)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Two Service ports of UDP, any of whose frontends may change hands, and one of TCP."""
    of = {17: [draw(ports("one")), draw(ports("other"))], 6: [draw(ports("tcp"))]}
    keys = draw(st.sets(st.sampled_from((*SERVICE_KEYS, *NODEPORT_KEYS))))
    return {key: draw(frontends(key, draw(st.sampled_from(of[protocol_of(key)[0]])))) for key in sorted(keys)}


TARGETS = targets()


def internal(*endpoints: bytes, sticky: int | None = None, group: Group = "web") -> Wanted:
    return Wanted(Kind.INTERNAL, packed(set(endpoints)), (), sticky, None, (), group)


def external(*endpoints: bytes, sticky: int | None = None, refusal: Refusal | None = None) -> Wanted:
    return Wanted(Kind.EXTERNAL, packed(set(endpoints)), (), sticky, refusal, (), "web")


SERVED = {NODEPORT_KEYS[0]: external(*ENDPOINTS[:2])}
REFUSED = {NODEPORT_KEYS[0]: external(refusal=Refusal.REJECT)}


@pytest.fixture(params=[units.TRANSACTION_BYTES, 100], ids=["whole transactions", "every command alone"])
def transaction_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 100 bytes a transaction nothing is together but what must be."""
    monkeypatch.setattr(units.pack, "__defaults__", (request.param,))


@pytest.mark.usefixtures("transaction_bytes")
@given(st.lists(TARGETS, min_size=1, max_size=5))
@example([REFUSED, SERVED, REFUSED])
@settings(max_examples=80, deadline=None)
def test_no_packet_misses_at_any_moment_of_any_change(targets: list[Target]) -> None:
    world = World()
    for to in targets:
        world.execute(world.change(to), to)


@pytest.mark.usefixtures("transaction_bytes")
@given(st.lists(TARGETS, max_size=2), TARGETS, st.integers(0, 20), TARGETS)
@settings(max_examples=80, deadline=None)
def test_a_restart_after_a_crash_at_any_moment_loses_nothing(
    before: list[Target], interrupted: Target, transactions: int, after: Target
) -> None:
    world = World()
    for to in before:
        world.execute(world.change(to), to)
    world.execute(world.change(interrupted), interrupted, stop_after=transactions)
    both = (*world.now.values(), *interrupted.values())
    world.residue = {endpoint for one in both for endpoint in (*one.cluster, *one.local)} | {b""}
    # Only what is wanted of a frontend all the time can be asked of it all the time.
    world.now = {key: one for key, one in world.now.items() if interrupted.get(key) == one}
    world.restart()
    world.execute(world.change(after), after)
    world.restart()
    assert world.change(after).objects == 0


@given(st.lists(TARGETS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_restart_writes_nothing(targets: list[Target]) -> None:
    world = World()
    for to in targets:
        world.execute(world.change(to), to)
        world.restart()
        plan = world.change(to)
        assert plan.objects == 0
        world.execute(plan, to)


@given(TARGETS, st.data())
@settings(max_examples=60, deadline=None)
def test_what_others_did_to_the_maps_is_put_right(to: Target, data: st.DataObject) -> None:
    world = World()
    world.execute(world.change(to), to)
    maps = world.kernel.state.maps
    for of in LAYOUT.sets:
        held = maps[of.name]
        for key in data.draw(st.lists(st.sampled_from(sorted(held)), unique=True) if held else st.just([])):
            del held[key]
    maps["endpoints"][SERVICE_KEYS[0] + b"\xff" * 4] = ENDPOINTS[0]
    maps["sticky-ids"][SERVICE_KEYS[1] + b"\0" * 4] = number(77)
    maps["endpoints-by-id"][protocol_of(SERVICE_KEYS[1]) + number(77)] = ENDPOINTS[1]
    maps["local-endpoints-by-id"][protocol_of(SERVICE_KEYS[1]) + number(77)] = ENDPOINTS[2]
    maps["cluster-ips"][b"\x7f\0\0\1"] = b""
    maps["allowed-sources"].update({SERVICE_KEYS[2] + bytes(4) + SERVICE_KEYS[2] + bytes([9] * 4): b""})
    maps["services"][b"\x7f\0\0\1" + SERVICE_KEYS[0][4:]] = LAYOUT.services.target(Draw(Kind.INTERNAL, 1))
    maps["nodeports-refused"][NODEPORT_KEYS[0]] = Refusal.DROP.value
    world.restart()
    for transaction in [*(plan := world.change(to)).make, *plan.clear]:
        world.kernel.commit(transaction)
    world.check_final()


@given(STICKY.filter(bool), PODS, PODS, st.booleans())
@settings(deadline=None)
def test_clients_stay_with_their_endpoint_whatever_happens_to_others(
    sticky: int, before: tuple[bytes, ...], after: tuple[bytes, ...], restarted: bool
) -> None:
    world = World()
    key = SERVICE_KEYS[0]

    def ids() -> dict[bytes, bytes]:
        return {endpoint: id_ for id_, endpoint in world.kernel.state.maps["endpoints-by-id"].items()}

    first, second = ({key: internal(*pods, sticky=sticky)} for pods in (before, after))
    world.execute(world.change(first), first)
    old = ids()
    if restarted:
        world.restart()
    world.execute(world.change(second), second)
    assert {endpoint: id_ for endpoint, id_ in ids().items() if endpoint in before} == {
        endpoint: id_ for endpoint, id_ in old.items() if endpoint in after
    }


def test_an_id_is_not_given_out_again_after_a_restart_while_clients_are_remembered_by_it() -> None:
    world = World()
    key, other = SERVICE_KEYS[:2]
    first = {key: internal(*ENDPOINTS[:3], sticky=60)}
    world.execute(world.change(first), first)
    world.execute(world.change({}), {})
    world.restart()
    second = {other: internal(*ENDPOINTS[:3], sticky=60)}
    world.execute(world.change(second), second)
    assert set(world.kernel.state.maps["endpoints-by-id"]) == {protocol_of(other) + made_up(2, n) for n in range(3)}


def made_up(group: int, endpoint: int) -> bytes:
    """The id of those numbers."""
    return number(group << 16 | endpoint)


def test_all_frontends_of_a_service_port_draw_the_same_ids_also_after_a_restart() -> None:
    world = World()
    key, other, node_port = SERVICE_KEYS[0], SERVICE_KEYS[1], NODEPORT_KEYS[1]
    first = {key: internal(*ENDPOINTS[:3], sticky=60)}
    world.execute(world.change(first), first)
    ids = rows_of(world, "sticky-ids")[key]
    second = {key: first[key], other: external(*ENDPOINTS[:3], sticky=60)}
    world.execute(world.change(second), second)
    world.restart()
    third = second | {node_port: external(*ENDPOINTS[:3], sticky=60)}
    world.execute(world.change(third), third)
    assert rows_of(world, "sticky-ids") == {key: ids, other: ids}
    assert rows_of(world, "nodeport-sticky-ids") == {node_port: ids}
    # Whoever takes a frontend over has clients of its own.
    fourth = third | {other: internal(*ENDPOINTS[:3], sticky=60, group="dns")}
    world.execute(world.change(fourth), fourth)
    assert not rows_of(world, "sticky-ids")[other] & ids


def rows_of(world: World, name: str) -> dict[bytes, set[bytes]]:
    found: dict[bytes, set[bytes]] = {}
    for key, value in world.kernel.state.maps[name].items():
        found.setdefault(key[:-4], set()).add(value)
    return found


def test_an_endpoint_of_both_policies_has_one_id_and_each_policy_its_own_map() -> None:
    world = World()
    key = NODEPORT_KEYS[1]
    here = packed(set(ENDPOINTS[:1]))
    to = {key: replace(external(*ENDPOINTS[:3], sticky=60), kind=Kind.LOCAL, local=here)}
    world.execute(world.change(to), to)
    everywhere, local = (world.kernel.state.maps[name] for name in ("endpoints-by-id", "local-endpoints-by-id"))
    assert sorted(everywhere.values()) == sorted(ENDPOINTS[:3])
    assert local == {known: endpoint for known, endpoint in everywhere.items() if endpoint in here}
    assert {group_of(id_) for id_ in rows_of(world, "nodeport-sticky-ids")[key]} == {1}


def test_numbers_that_are_used_up_are_given_out_again_and_where_there_are_none_nobody_is_sticky(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ids_module, "MAX_GROUPS", 2)
    world = World()
    key, other, third = SERVICE_KEYS
    for n in range(5):
        to = {key: internal(*ENDPOINTS[:2], sticky=60, group=n)}
        world.execute(world.change(to), to)
        world.ids.clear()
        assert {group_of(id_) for id_ in rows_of(world, "sticky-ids")[key]} == {n % 2 + 1}
    many = {one: internal(*ENDPOINTS[:2], sticky=60, group=one) for one in (key, other, third)}
    for transaction in [*(plan := world.change(many)).make, *plan.clear]:
        world.kernel.commit(transaction)
    assert len(rows_of(world, "sticky-ids")) == 1  # the number of who had `key` before is free only afterwards
    assert len(rows_of(world, "endpoints")) == 2


def test_numbers_of_endpoints_are_given_out_again_when_all_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "_LARGEST", 3)
    world = World()
    key = SERVICE_KEYS[0]
    for first in range(len(ENDPOINTS) - 1):
        to = {key: internal(*ENDPOINTS[first : first + 2], sticky=60)}
        world.execute(world.change(to), to)
        world.ids.clear()


def test_one_replaced_endpoint_is_one_delete_and_one_add_and_the_hairpin_pair() -> None:
    world = World()
    key, other = SERVICE_KEYS[:2]
    first = {key: internal(*ENDPOINTS[:4]), other: internal(*ENDPOINTS[:2])}
    world.execute(world.change(first), first)
    second = {**first, key: internal(*ENDPOINTS[:3], ENDPOINTS[6])}
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
    first = {key: internal(*ENDPOINTS[:3])}
    world.execute(world.change(first), first)
    second = {key: internal(*ENDPOINTS[1:3])}
    plan = world.change(second)
    assert [str(transaction) for transaction in plan.clear] == ["delete 1 element of map ip proxymode endpoints"]
    world.execute(plan, second)


def test_another_traffic_policy_leaves_the_pool_of_policy_cluster_alone() -> None:
    world = World()
    key = NODEPORT_KEYS[1]
    cluster = external(*ENDPOINTS[:3])
    local = replace(cluster, kind=Kind.LOCAL, local=packed(set(ENDPOINTS[:1])))
    first, second = {key: cluster}, {key: local}
    world.execute(world.change(first), first)
    assert [str(command) for one in world.state.plan(wants(first, second)).make[-1:] for command in one.commands] == [
        "add 1 element of map ip proxymode nodeport-endpoints",
        "add 1 element of map ip proxymode nodeports-from-inside",
        "delete 1 element of map ip proxymode nodeports",
        "add 1 element of map ip proxymode nodeports",
    ]


def test_chains_are_made_ahead_while_there_are_none_and_stay() -> None:
    world = World()
    key = SERVICE_KEYS[0]
    for count in (4, 2, 8, 1):
        to = {key: internal(*ENDPOINTS[:count])}
        world.execute(world.change(to), to)
    rules = len(LAYOUT.services.rules(Draw(Kind.INTERNAL, 1)))
    assert world.kernel.state.chains == {REFUSE: 0} | {f"one-of-{count}": rules for count in (1, 2, 3, 4, 5, 6, 8)}


def test_the_name_of_a_chain_tells_its_draw() -> None:
    for key in (SERVICE_KEYS[0], NODEPORT_KEYS[0]):
        space = space_of(key)
        for kind in space.preludes:
            for draw in (Draw(kind, 0), Draw(kind, 7), Draw(kind, 65536, 10800)):
                assert space.draw_of(space.name(draw)) == draw
    assert LAYOUT.services.draw_of("nodeport-local-one-of-1") is None
    assert LAYOUT.nodeports.draw_of("one-of-1") is None
    assert LAYOUT.services.draw_of("their-one-of-1") is None


@given(st.lists(st.none() | st.sampled_from(ENDPOINTS)), st.lists(st.sampled_from(ENDPOINTS), unique=True))
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
    references, held, needs = References(LAYOUT.hairpin, existing), set(existing), dict.fromkeys(ENDPOINTS, 0)
    for take, key, flush in steps:
        if take:
            references.take([key])
            needs[key] += 1
        elif needs[key]:
            references.drop([key])
            needs[key] -= 1
        if flush:
            make, remove = references.changes()
            added, removed = (sum(command.objects for unit in one for command in unit) for one in (make, remove))
            wanted = {key for key, count in needs.items() if count}
            assert (added, removed) == (len(wanted - held), len(held - wanted))
            held = wanted
