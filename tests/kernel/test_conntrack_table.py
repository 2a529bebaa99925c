"""The kernel understands the hand-over's requests: what they create is dumped as it was meant."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from conntrack_entries import INFO, SEEN, leave, through_ipvs
from nftables_bed import namespace
from proxymode_agent.dataplane.conntrack import messages
from proxymode_agent.dataplane.conntrack.flow import Status
from proxymode_agent.dataplane.conntrack.table import Checked, ConntrackTable

if TYPE_CHECKING:
    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_testbeds.topology import Topology

__all__ = ["namespace"]

ALL = [
    through_ipvs(protocol, length, masqueraded=masqueraded)
    for protocol in INFO
    for length in (4, 16)
    for masqueraded in (False, True)
]
PAIRS = [ALL[at::2] for at in (0, 1)]  # masqueraded or not they have the same addresses and ports


@pytest.mark.parametrize("wanted", PAIRS, ids=["plain", "masqueraded"])
def test_entries_of_ipvs_become_entries_of_nat_and_can_be_put_back(namespace: Topology, wanted: list[Flow]) -> None:
    def moved() -> None:
        leave(wanted)
        replies = {messages.original_of(flow): messages.reply_of(flow) for flow in wanted}
        with ConntrackTable() as table:
            before = list(table.flows())
            assert all(flow.by_ipvs and flow.open for flow in before)
            assert {messages.original_of(flow): messages.reply_of(flow) for flow in before} == replies
            assert [flow.info for flow in table.flows(untranslated=True)] == [flow.info for flow in before]
            assert len(table.check(replies).others) == len(wanted)

            moves = dict(map(messages.move, before))
            table.replace(messages.requests_in(move, original) for original, move in moves.items())
            assert all(flow.by_nftables for flow in table.flows(untranslated=True))  # kernels before 5.18 give all
            assert table.check(replies) == Checked({}, [])
            after = {messages.original_of(flow): flow for flow in table.flows()}
            for flow in before:
                one = after[messages.original_of(flow)]
                assert one.mark == flow.mark
                assert one.info[:36] == flow.info[:36], "TCP's flags apart"
                assert bool(one.status & Status.SRC_NAT) is flow.masqueraded
                assert one.status & SEEN == SEEN

            creates = [messages.create_in(move, original) for original, move in moves.items()]
            assert table.create(creates) == len(wanted), "there are such entries"
            table.delete(list(after.values()))
            assert list(table.flows()) == []
            assert table.create(creates) == 0
            assert table.check(replies).rest == {}

    namespace.call("node1", moved)


def test_what_the_kernel_refuses_for_another_reason_is_told(namespace: Topology) -> None:
    original, move = messages.move(ALL[0])
    request = bytearray(messages.create_in(move, original))
    request[20 + 2] ^= 0x7  # another attribute's number in the place of CTA_TUPLE_ORIG

    def create() -> None:
        with ConntrackTable() as table:
            table.create([bytes(request)])

    with pytest.raises(OSError, match="conntrack entry not created") as refused:
        namespace.call("node1", create)
    assert refused.value.errno == errno.EINVAL
