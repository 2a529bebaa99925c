"""A table of iptables-legacy without some of its chains, against a model of chains and rules."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxymode_agent.takeover.blob import Blob, chains, drops_forwarded, without

HOOK_NAMES = {1: "INPUT", 2: "FORWARD", 3: "OUTPUT"}
VALID = sum(1 << hook for hook in HOOK_NAMES)
RETURN, ACCEPT, DROP = -5, -2, -1
SIZES = {4: (112, 88), 16: (168, 140)}


class Table(NamedTuple):
    """Rules by chain: a rule is the chain that it jumps to, or a verdict. `policies` by hook."""

    rules: dict[str, list[str | int]]
    policies: dict[int, int]


def entry(length: int, name: bytes, data: bytes) -> bytes:
    size, at = SIZES[length]
    target = struct.pack("=H29sB", 32 + len(data), name, 0) + data
    head = bytearray(size)
    struct.pack_into("=HH", head, at, size, size + len(target))
    return bytes(head) + target


def verdict(length: int, value: int) -> bytes:
    return entry(length, b"", struct.pack("=i4x", value))


def header(length: int, name: str) -> bytes:
    return entry(length, b"ERROR", name.encode().ljust(32, b"\0"))


def encode(table: Table, length: int = 4) -> Blob:
    """The table as iptables-legacy lays it out: built-in chains, then those of own names, then the end."""
    step, mark = len(verdict(length, 0)), len(header(length, ""))
    starts: dict[str, int] = {}
    at = 0
    for name, rules in table.rules.items():
        own = name not in HOOK_NAMES.values()
        starts[name] = at + (mark if own else 0)
        at = starts[name] + step * (len(rules) + 1)
    parts, entries, underflow = [], [0] * 5, [0] * 5
    for name, rules in table.rules.items():
        hook = next((number for number, found in HOOK_NAMES.items() if found == name), None)
        if hook is None:
            parts.append(header(length, name))
        parts += [verdict(length, starts[rule] if isinstance(rule, str) else rule) for rule in rules]
        parts.append(verdict(length, RETURN if hook is None else table.policies[hook]))
        if hook is not None:
            entries[hook], underflow[hook] = starts[name], starts[name] + step * len(rules)
    parts.append(header(length, "ERROR"))
    return Blob(length, VALID, tuple(entries), tuple(underflow), len(parts), b"".join(parts))


names = st.sampled_from(["KUBE-A", "KUBE-B", "KUBE-C", "MINE", "YOURS"])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Chains lead only to later ones: the kernel takes no loops."""
    own = draw(st.lists(names, unique=True))
    order = [*HOOK_NAMES.values(), *own]
    rules: dict[str, list[str | int]] = {}
    for name in order:
        targets = own[own.index(name) + 1 :] if name in own else own
        rule: list[str | int] = [*targets, ACCEPT, DROP]
        rules[name] = draw(st.lists(st.sampled_from(rule), max_size=3))
    return Table(rules, {hook: draw(st.sampled_from([ACCEPT, DROP])) for hook in HOOK_NAMES})


def goes(name: str) -> bool:
    return name.startswith("KUBE-")


def model(table: Table) -> Table:
    """What is to be left, by names."""
    own = set(table.rules) - set(HOOK_NAMES.values())
    kept = {name for name in own if not goes(name)}
    while more := {to for name in kept for to in table.rules[name] if isinstance(to, str)} - kept:
        kept |= more
    gone = own - kept
    rules = {
        name: [rule for rule in found if rule not in gone] for name, found in table.rules.items() if name not in gone
    }
    return Table(rules, table.policies)


@settings(deadline=None)
@given(tables(), st.sampled_from([4, 16]))
def test_what_is_left_is_the_table_without_these_chains_and_the_jumps_to_them(table: Table, length: int) -> None:
    assert without(encode(table, length), goes) == encode(model(table), length)


@settings(deadline=None)
@given(tables())
def test_chains_and_policies_are_read(table: Table) -> None:
    blob = encode(table)
    assert chains(blob) == tuple(name for name in table.rules if name not in HOOK_NAMES.values())
    assert drops_forwarded(blob) is (table.policies[2] == DROP)
    assert drops_forwarded(blob._replace(valid_hooks=0)) is False


def test_a_chain_whose_name_is_no_text_is_no_error_and_stays() -> None:
    blob = encode(Table({"INPUT": ["Zug?nge"], "Zug?nge": [], "KUBE-SVC-X": []}, {1: ACCEPT}))
    blob = blob._replace(entries=blob.entries.replace(b"Zug?nge", b"Zug\xe4nge"))
    assert chains(blob) == ("Zug\\xe4nge", "KUBE-SVC-X")
    left = without(blob, lambda name: name.startswith("KUBE-"))
    assert chains(left) == ("Zug\\xe4nge",)
    assert b"Zug\xe4nge\0" in left.entries


@pytest.mark.parametrize("length", [4, 16])
def test_a_table_without_such_chains_is_the_same(length: int) -> None:
    blob = encode(
        Table({"INPUT": ["MINE"], "FORWARD": [], "OUTPUT": [], "MINE": [DROP]}, dict.fromkeys(HOOK_NAMES, ACCEPT)),
        length,
    )
    assert without(blob, goes) == blob
