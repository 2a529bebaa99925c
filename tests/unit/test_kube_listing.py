"""ListDecoder: however a list is cut up on its way, each item comes out once, in order."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_agent.kube import listing
from proxymode_agent.kube.listing import ListDecoder, ListMeta, raw_items

names = st.text(min_size=1, max_size=8)
# What looks like the seam between two items, within items too.
nested: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.integers(), st.just('},{"metadata":{'), st.just('{"metadata":{"name":"x"}}'), names),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.fixed_dictionaries({"metadata": st.dictionaries(names, inner, max_size=2)})
    ),
    max_leaves=6,
)
items = st.lists(
    st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"name": names}), "spec": nested}), max_size=9
)


def take(body: bytes, cuts: list[int]) -> tuple[list[Any], ListMeta]:
    decoder = ListDecoder(raw_items)
    found: list[msgspec.Raw] = []
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    for start, end in pairwise(edges):
        found += decoder.feed(body[start:end])
    rest, meta = decoder.finish()
    return [json.loads(bytes(raw)) for raw in (*found, *rest)], meta


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a list of a few hundred bytes is worth a look."""
    monkeypatch.setattr(listing, "_PIECE", 60)


@given(items=items, cuts=st.lists(st.integers(0, 10_000), max_size=12), first=st.booleans())
def test_all_items_in_order_however_it_is_cut(items: list[dict[str, Any]], cuts: list[int], first: bool) -> None:
    meta = {"metadata": {"resourceVersion": "7", "continue": "more"}}
    parts: list[dict[str, Any]] = [{"kind": "List"}, meta, {"items": items}]
    if not first:
        parts.reverse()
    body = json.dumps({key: value for part in parts for key, value in part.items()}, separators=(",", ":")).encode()
    found, said = take(body, cuts)
    assert found == items
    assert said == ListMeta("7", "more")


def test_items_come_before_the_list_is_complete() -> None:
    body = b'{"metadata":{"resourceVersion":"7"},"items":[' + b",".join(
        b'{"metadata":{"name":"object-%d"},"spec":{}}' % number for number in range(50)
    )
    decoder = ListDecoder(raw_items)
    early = [raw for start in range(0, len(body), 100) for raw in decoder.feed(body[start : start + 100])]
    assert len(early) >= 45
    found = [*early, *decoder.feed(b"]}"), *decoder.finish()[0]]
    assert [json.loads(bytes(raw))["metadata"]["name"] for raw in found] == [f"object-{n}" for n in range(50)]


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"[]", b'{"items":[]}', b'{"metadata":{},"items":[{}', b'{"metadata":{}}}']
)
def test_what_is_no_list(body: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        take(body, [])


def test_a_list_that_is_cut_short_is_no_list() -> None:
    body = json.dumps({"metadata": {}, "items": [{"metadata": {"name": "a" * 50}}] * 9}, separators=(",", ":")).encode()
    for end in range(len(body)):
        with pytest.raises(msgspec.MsgspecError):
            take(body[:end], list(range(0, end, 7)))


def test_a_list_of_nothing() -> None:
    assert take(b'{"metadata":{"resourceVersion":"3"},"items":null}', []) == ([], ListMeta("3"))
