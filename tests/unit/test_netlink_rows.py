"""Which datagrams of a dump are tables of rows that are equally long."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.dataplane.netlink import equally_long

HEADER = struct.Struct("=IHHII")

messages = st.tuples(st.sampled_from([0, 4, 60, 61]), st.sampled_from([3, 0x100]), st.sampled_from([7, 8]))


def datagram(sent: list[tuple[int, int, int]]) -> bytes:
    """Of messages with so many bytes after the header, of that type and with that sequence number."""
    return b"".join(
        (HEADER.pack(HEADER.size + size, kind, 2, sequence, 0) + b"\xff" * size).ljust(
            -(-size // 4) * 4 + HEADER.size, b"\0"
        )
        for size, kind, sequence in sent
    )


@given(
    st.one_of(
        st.lists(messages, min_size=1, max_size=5),
        st.integers(1, 5).flatmap(lambda n: messages.map(lambda one: [one] * n)),
    )
)
def test_messages_are_rows_if_all_are_alike(sent: list[tuple[int, int, int]]) -> None:
    size = equally_long(memoryview(datagram(sent)))
    alike = len(set(sent)) == 1 and sent[0][0] % 4 == 0
    assert size == (HEADER.size + sent[0][0] if alike else 0)
