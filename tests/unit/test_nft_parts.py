"""What a map should hold, in turns: every element has its turn, none twice in a round."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.dataplane.nfnetlink import IP_DADDR, NfProto, Set, Table
from proxymode_agent.dataplane.nftables.parts import Indexed, Row, Whole

Pool = dict[bytes, Row]
SET = Set(Table(NfProto.IPV4, "ours"), "endpoints", (IP_DADDR,))
ROWS = st.dictionaries(st.binary(min_size=4, max_size=4), st.lists(st.just(b"pod"), max_size=7).map(tuple), max_size=9)


@given(ROWS, ROWS, st.integers(1, 12))
def test_a_round_of_turns_has_every_element_once(
    cluster: dict[bytes, Row], local: dict[bytes, Row], limit: int
) -> None:
    part = Indexed(SET, {0: cluster, 1 << 16: local})
    seen = []
    turns, following = 0, -1
    while following:
        taken, following = part.after(max(0, following), limit)
        assert len(taken) < limit + 7, "no more than a frontend too many"
        seen += taken
        turns += 1
    assert sorted(seen) == sorted(part.elements())
    assert len(seen) == part.size
    assert turns <= 1 + part.size // limit


@given(ROWS, ROWS)
def test_what_differs_is_said_if_anything_does(held: dict[bytes, Row], found: dict[bytes, Row]) -> None:
    part, other = Indexed(SET, {0: held}), Indexed(SET, {0: found})
    said = list(part.differences({0: found}))
    assert bool(said) == (sorted(part.elements()) != sorted(other.elements()))
    assert not list(Whole(SET, {b"a": b"1"}).differences({b"a": b"1"}))
