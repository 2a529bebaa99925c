"""Pure: which of a dump's entries are carried over, and all that is made of them at once, many or one at a time.

One way to it goes flow by flow, and knows every case. The other takes the rows of a block that are nothing special:
open, to a Service, the right way round. What the first makes of such a flow is copied column by column, for all that
are of one kind (`stencils`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxymode_agent.dataplane.conntrack import messages, stencils
from proxymode_agent.dataplane.conntrack.layout import BY_LENGTH
from proxymode_agent.dataplane.conntrack.shapes import Block
from proxymode_agent.switch.connections import concerned
from proxymode_agent.switch.handover import flows
from proxymode_agent.switch.handover.maps import Packed, pack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxymode_agent.dataplane.conntrack.flow import Flow
    from proxymode_agent.dataplane.conntrack.stencils import Stencil
    from proxymode_agent.switch.connections import Frontends, Held

_LEAST: Final = 8  # rows of one kind; fewer are done sooner flow by flow

_Kind = tuple[bytes, tuple[int, ...], bool]
"""A shape's frame, the words that decide, and whether it is masqueraded."""


class _Stencils(NamedTuple):
    """How the move of a flow, and its elements of the two maps, come out of a row."""

    move: Stencil
    destinations: Stencil
    sources: Stencil


class Taken:
    """What is known of the flows that are handed over, by CTA_TUPLE_ORIG.

    `moves`: of those that are put back where they are missing; `moving`: those that IPVS translates; `held`: which of
    the latter are established, with CTA_TUPLE_REPLY. `not_open`: flows whose packets are caught, and that is all.
    """

    def __init__(self, services: Frontends, moves: dict[bytes, bytes]) -> None:
        self._services = services
        self._stencils: dict[_Kind, _Stencils] = {}
        self._packed = {length: Packed([], []) for length in BY_LENGTH}
        self._catches = flows.nothing_caught()
        self.moves = moves
        self.moving: list[bytes] = []
        self.held: Held = {}
        self.not_open: set[bytes] = set()

    def take(self, found: Iterable[Block | Flow]) -> None:
        """Add what is to be carried over, and what netfilter's NAT carries already."""
        for one in found:
            for flow in self._sift(one) if isinstance(one, Block) else (one,):
                self._take_flow(flow)

    def packed(self) -> dict[int, Packed]:
        """The maps' elements, by length of addresses."""
        for length, catches in self._catches.items():
            one_by_one = pack(length, catches)
            self._packed[length].destinations.extend(one_by_one.destinations)
            self._packed[length].sources.extend(one_by_one.sources)
        self._catches = flows.nothing_caught()
        return self._packed

    def _take_flow(self, found: Flow) -> None:
        flow = flows.on_ipvs(found, self._services) or flows.on_nat(found, self._services)
        if flow is None:
            return
        flows.catch(flow, self._catches)
        original, move = messages.move(flow)
        if not flow.open:
            self.not_open.add(original)
            return
        self.moves[original] = move
        if not flow.by_nftables:
            self.moving.append(original)
            if flow.info:
                self.held[original] = messages.reply_in(move, original)

    def _sift(self, block: Block) -> list[Flow]:
        """Take those rows that are nothing special; the others that may be of concern."""
        special: list[Flow] = []
        for kind, alike in block.by_kind():
            if not alike.open()[0] or 0 in alike.column(alike.shape.timeout):
                special += alike.picked(concerned(alike, self._services)).flows()
                continue
            rows, others = self._to_services(alike)
            for masqueraded, some in rows.items():
                if len(some) < _LEAST:
                    others += some
                else:
                    self._take_block(alike.picked(some), kind, masqueraded)
            special += alike.picked(others).flows()
        return special

    def _to_services(self, block: Block) -> tuple[dict[bool, list[int]], list[int]]:
        """Which rows are connections to Services that the client's packet made, by whether they are masqueraded; and
        which may be such that the endpoint's made."""
        kind = block.shape.length, block.shape.protocol
        addressed, node_ports = self._services.addressed[kind], self._services.node_ports[kind]
        translated = block.translated()[0]
        rows: dict[bool, list[int]] = {False: [], True: []}
        others: list[int] = []
        for at, (source, to, _, port, to_port, back, seen_as, back_port, seen_as_port) in enumerate(block.ends()):
            if (to + to_port in addressed or to_port in node_ports) and (
                translated or back != to or back_port != to_port
            ):
                rows[seen_as != source or seen_as_port != port].append(at)
            elif seen_as + seen_as_port in addressed or seen_as_port in node_ports:
                others.append(at)
        return rows, others

    def _take_block(self, block: Block, kind: tuple[int, ...], masqueraded: bool) -> None:
        shape = block.shape
        stencil = self._learned(block, kind, masqueraded)
        moves = struct.iter_unpack(f"{len(stencil.move.template)}s", stencil.move.fill(block))
        pairs = list(block.tuples())
        originals = [original for original, _ in pairs]
        self.moves.update(zip(originals, (move for (move,) in moves), strict=True))
        packed = self._packed[shape.length]
        packed.destinations.append(stencil.destinations.fill(block))
        packed.sources.append(stencil.sources.fill(block))
        if not block.translated()[0]:
            self.moving += originals
            if shape.state:
                self.held.update(pairs)

    def _learned(self, block: Block, kind: tuple[int, ...], masqueraded: bool) -> _Stencils:
        key = block.shape.frame, kind, masqueraded
        if key not in self._stencils:
            self._stencils[key] = _Stencils(
                *(
                    stencils.learn(block, make, masqueraded=masqueraded)
                    for make in (lambda flow: messages.move(flow)[1], _destinations, _sources)
                )
            )
        return self._stencils[key]


def _caught(flow: Flow) -> Packed:
    catches = flows.nothing_caught()
    flows.catch(flow, catches)
    length = len(flow.source)
    return pack(length, catches[length])


def _destinations(flow: Flow) -> bytes:
    return b"".join(_caught(flow).destinations)


def _sources(flow: Flow) -> bytes:
    return b"".join(_caught(flow).sources)
