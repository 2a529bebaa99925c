"""Updates of the maps, on the model of :mod:`nft_model`: at no moment does a packet miss, whatever changes."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nft_model import LAYOUT, World, space_of, wants
from proxymode_agent.dataplane.nftables import units
from proxymode_agent.dataplane.nftables.draws import Draw, Kind
from proxymode_agent.dataplane.nftables.elements import number, protocol_of
from proxymode_agent.dataplane.nftables.members import References
from proxymode_agent.dataplane.nftables.paths import REFUSE
from proxymode_agent.dataplane.nftables.pools import assign
from proxymode_agent.dataplane.nftables.wants import Refusal, Wanted

Target = dict[bytes, Wanted]

SERVICE_KEYS = [bytes([10, 96, 0, address, 17, 0, 0, 0, 0, 53, 0, 0]) for address in (1, 2, 3)]
NODEPORT_KEYS = [bytes([protocol, 0, 0, 0, 117, 48, 0, 0]) for protocol in (6, 17)]
ENDPOINTS = [bytes([10, 244, 0, pod, 31, port, 0, 0]) for pod in range(1, 6) for port in (144, 145)]
RANGES = [(bytes([first, 0, 0, 0]), bytes([first, 255, 255, 255])) for first in (10, 20, 30)]


def packed(endpoints: set[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(endpoints))


PODS = st.sets(st.sampled_from(ENDPOINTS), max_size=8).map(packed)
STICKY = st.sampled_from([None, None, 60, 10800])


@st.composite
def frontends(draw: st.DrawFn, key: bytes) -> Wanted:
    """What a frontend may be wanted to do, as PackedPort would say it."""
    is_service = key in SERVICE_KEYS
    kind = draw(st.sampled_from([Kind.INTERNAL] * is_service + [Kind.EXTERNAL, Kind.LOCAL]))
    cluster, sticky = draw(PODS), draw(STICKY)
    local = draw(PODS) if kind is Kind.LOCAL else ()
    cluster = cluster or local  # who has endpoints here has endpoints at all
    refusal = None
    if not (local if kind is Kind.LOCAL else cluster):
        refusal = Refusal.DROP if cluster else draw(st.sampled_from(Refusal))
        if kind is Kind.INTERNAL and refusal is Refusal.REJECT:
            refusal = None
    ranges = draw(st.sets(st.sampled_from(RANGES))) if is_service and kind is not Kind.INTERNAL else ()
    return Wanted(kind, cluster, local, sticky, refusal, tuple(sorted(key + a + key + b for a, b in ranges)))


TARGETS = st.fixed_dictionaries({}, optional={key: frontends(key) for key in (*SERVICE_KEYS, *NODEPORT_KEYS)})


def internal(*endpoints: bytes, sticky: int | None = None) -> Wanted:
    return Wanted(Kind.INTERNAL, packed(set(endpoints)), (), sticky, None, ())


SERVED = {NODEPORT_KEYS[0]: Wanted(Kind.EXTERNAL, packed(set(ENDPOINTS[:2])), (), None, None, ())}
REFUSED = {NODEPORT_KEYS[0]: Wanted(Kind.EXTERNAL, (), (), None, Refusal.REJECT, ())}


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
    assert set(world.kernel.state.maps["endpoints-by-id"]) == {protocol_of(other) + number(id_) for id_ in (4, 5, 6)}


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
    external = Wanted(Kind.EXTERNAL, packed(set(ENDPOINTS[:3])), (), None, None, ())
    local = external._replace(kind=Kind.LOCAL, local=packed(set(ENDPOINTS[:1])))
    first, second = {key: external}, {key: local}
    world.execute(world.change(first), first)
    assert [str(command) for one in world.state.plan(wants(first, second)).make[-1:] for command in one.commands] == [
        "add 1 element of map ip proxymode nodeport-endpoints",
        "add 1 element of map ip proxymode nodeports-from-inside",
        "delete 1 element of map ip proxymode nodeports",
        "add 1 element of map ip proxymode nodeports",
    ]


def test_whom_policy_cluster_remembered_with_an_endpoint_elsewhere_policy_local_does_not_send_there() -> None:
    world = World()
    key = NODEPORT_KEYS[1]
    external = Wanted(Kind.EXTERNAL, packed(set(ENDPOINTS[:3])), (), 60, None, ())
    local = external._replace(kind=Kind.LOCAL, local=packed(set(ENDPOINTS[:1])))
    world.execute(world.change({key: external}), {key: external})
    remembered = set(world.kernel.state.maps["endpoints-by-id"])
    world.execute(world.change({key: local}), {key: local})
    assert not remembered & set(world.kernel.state.maps["endpoints-by-id"])
    # From there on those whom the short-circuit serves stay with their endpoint.
    served = set(world.kernel.state.maps["endpoints-by-id"])
    fewer = local._replace(cluster=packed(set(ENDPOINTS[:2])))
    world.execute(world.change({key: fewer}), {key: fewer})
    assert set(world.kernel.state.maps["endpoints-by-id"]) < served


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
