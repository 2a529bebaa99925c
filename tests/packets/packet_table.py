"""The table: what a user writes down about Services, and where packets then go. Values and parsing; no packets here.

A file of cases/ is a list of cases. A case has Services as one writes them in YAML, the pods behind them, options of
the node, and flows, one a line:

    pod -> web:80 = local1 remote1             a pod of the node; either endpoint answers, and sees the pod's address
    client -> web.lb:80/tcp,udp = local1 masq  from outside the cluster; the endpoint sees an address of the node
    pod -> web:81 = rejected                   told so at once: a TCP reset or an ICMP error
    client -> node:30080 = dropped             no answer at all
    pod -> sticky:80 = one of local1 local2    every time the same one
    local1 -> web:80 = local1(masq) remote1    only who reaches itself is masqueraded

An endpoint answers on port 8080 where the line says nothing else (`local1:8443`). `then` changes Services in place:
what is there is a merge patch (RFC 7396) of the Services before.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

FAMILIES: Final = ("IPv4", "IPv6")
USUAL_PORT: Final = 8080
_FLOW: Final = re.compile(r"(?P<source>\S+) -> (?P<address>\S+):(?P<port>\d+)(/(?P<protocols>[a-z,]+))? = (?P<what>.+)")
_PROTOCOLS: Final = ("tcp", "udp", "sctp")
# Of a random choice among two, one is not seen in so many tries once in 4,000 times; an endpoint that should not
# answer does not escape more often than that.
_LEAST_TRIES: Final = 12
_MOST_TRIES: Final = 500


class TableError(ValueError):
    """A case that cannot be read; the message names the case and what is wrong."""


class Server(NamedTuple):
    """Who answers: a pod or machine by its name in the table, and the port it was reached on."""

    name: str
    port: int

    def __str__(self) -> str:
        return self.name if self.port == USUAL_PORT else f"{self.name}:{self.port}"


class Refusal(Enum):
    """How a packet gets no further."""

    REJECTED = "rejected"
    DROPPED = "dropped"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Answered:
    """These servers answer, no other does, and all of them in turn, or with `sticky` always the same one. Those in
    `masqueraded` see an address of the node, the others the sender's own."""

    servers: frozenset[Server]
    masqueraded: frozenset[Server] = frozenset()
    sticky: bool = False

    def __str__(self) -> str:
        everywhere = self.masqueraded == self.servers
        names = (f"{one}(masq)" if one in self.masqueraded and not everywhere else str(one) for one in self.servers)
        return ("one of " if self.sticky else "") + " ".join(sorted(names)) + (" masq" if everywhere else "")


Outcome = Answered | Refusal


class Flow(NamedTuple):
    """Packets from `source` to a port of `address`; both are names that the network resolves in each family."""

    source: str
    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.address}:{self.port}" + ("" if self.protocol == "tcp" else f"/{self.protocol}")


class Step(NamedTuple):
    """The Services, by name, and what then happens to packets. `title` is empty for the first step."""

    title: str
    services: Mapping[str, Mapping[str, Any]]
    flows: Mapping[Flow, Outcome]


@dataclass(frozen=True, slots=True)
class Options:
    """What the node is told, as the flags and fields of these names.

    `detect_local`: ClusterCIDR, NodeCIDR, InterfaceNamePrefix, BridgeInterface or empty for none. `zone` is the node's.
    `service_cidrs`: the networks of the cluster's ServiceCIDR objects; true: the usual ones; false: there are none, or
    the agent does not see them.
    """

    detect_local: str = "ClusterCIDR"
    masquerade_all: bool = False
    masquerade_bit: int = 14
    node_port_addresses: tuple[str, ...] | None = None
    service_cidrs: bool | tuple[str, ...] = True
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One case; `published` says where the behaviour is written down."""

    title: str
    published: tuple[str, ...]
    families: tuple[str, ...]
    options: Options
    steps: tuple[Step, ...]


class Observed(NamedTuple):
    """One try's end: who answered and the source that it saw, or the refusal; neither: `source` is what went wrong."""

    server: Server | None
    source: str
    refusal: Refusal | None

    def __str__(self) -> str:
        if self.server is not None:
            return f"{self.server} saw {self.source}"
        return str(self.refusal or self.source)


def enough(outcome: Outcome, seen: Sequence[Observed]) -> bool:
    """Whether a flow need not be tried again: everything awaited was seen often enough, or something else was."""
    if isinstance(outcome, Refusal):
        return bool(seen)  # refusals are no matter of chance, and take their time
    if seen and seen[-1].server not in outcome.servers:
        return True
    if outcome.sticky or len(outcome.servers) == 1:
        return len(seen) >= (_LEAST_TRIES if outcome.sticky else _LEAST_TRIES // 2)
    return len(seen) >= _MOST_TRIES or (
        len(seen) >= _LEAST_TRIES and outcome.servers == {observed.server for observed in seen}
    )


def wrong(outcome: Outcome, seen: Sequence[Observed], own: frozenset[str], node: frozenset[str]) -> str | None:
    """What is not as awaited; None if all is. `own` are the addresses that an answerer sees of who is not masqueraded,
    `node` the node's."""
    if isinstance(outcome, Refusal):
        if any(observed.refusal is not outcome for observed in seen):
            return "; ".join(sorted({str(observed) for observed in seen}))
        return None
    servers = {observed.server for observed in seen}
    right = servers <= outcome.servers and (len(servers) == 1 if outcome.sticky else servers == outcome.servers)
    if right and all(observed.source in (node if observed.server in outcome.masqueraded else own) for observed in seen):
        return None
    return "; ".join(sorted({str(observed) for observed in seen}))


def read(files: Sequence[Path]) -> dict[Path, tuple[Case, ...]]:
    """The cases of each file, in order. Raises TableError."""
    known: dict[str, Case] = {}
    found = {}
    for file in files:
        before = len(known)
        for entry in yaml.load(file.read_text(), yaml.CSafeLoader):
            case = _case(entry, known)
            if case.title in known:
                raise TableError(f"{case.title!r}: there are two cases with this title")
            known[case.title] = case
        found[file] = tuple(known.values())[before:]
    return found


def flow_lines(flows: Mapping[Flow, Outcome]) -> list[str]:
    """The flows as lines that can be read again, protocols of one line together, aligned."""
    grouped: dict[tuple[str, str, int, str], list[str]] = {}
    for flow, outcome in flows.items():
        grouped.setdefault((flow.source, flow.address, flow.port, str(outcome)), []).append(flow.protocol)
    left = []
    for (source, address, port, _), protocols in grouped.items():
        left.append(f"{source} -> {address}:{port}" + ("" if protocols == ["tcp"] else f"/{','.join(protocols)}"))
    width = max(map(len, left))
    return [f"{text:{width}} = {outcome}" for text, (*_, outcome) in zip(left, grouped, strict=True)]


def with_differences(cases: Sequence[Case], differences: Sequence[Mapping[str, str]]) -> tuple[Case, ...]:
    """The cases for another dataplane: each difference names a case, a flow line with the outcome that this dataplane
    has, and the reason. Raises TableError for one that names nothing or is none."""
    changed = {case.title: case for case in cases}
    for difference in differences:
        title = difference["case"]
        if title not in changed:
            raise TableError(f"difference in {title!r}: there is no such case")
        if not difference.get("because"):
            raise TableError(f"difference in {title!r}: it has no reason (`because`)")
        case = changed[title]
        steps = list(case.steps)
        index = next((i for i, step in enumerate(steps) if step.title == difference.get("step", "")), None)
        if index is None:
            raise TableError(f"difference in {title!r}: there is no step {difference['step']!r}")
        steps[index] = steps[index]._replace(flows=_override(title, steps[index].flows, difference["flow"]))
        changed[title] = dataclasses.replace(case, steps=tuple(steps))
    return tuple(changed.values())


def _case(entry: Mapping[str, Any], others: Mapping[str, Case]) -> Case:
    title = entry["case"]
    unknown = entry.keys() - {"case", "published", "families", "options", "services", "flows", "then", "like"}
    if unknown:
        raise TableError(f"{title!r}: unknown {', '.join(sorted(unknown))}")
    if not entry.get("published") or not all(isinstance(source, str) for source in entry["published"]):
        raise TableError(f"{title!r}: `published` must be a list of texts that say where this is written down")
    try:
        options = Options(**{_snake(name): _tuple(value) for name, value in entry.get("options", {}).items()})
    except TypeError as error:
        raise TableError(f"{title!r}: {error}") from None
    if "like" in entry:
        base = others.get(entry["like"])
        if base is None:
            raise TableError(f"{title!r}: no case {entry['like']!r} comes before it")
        services = base.steps[0].services
        flows = _override(title, base.steps[0].flows, entry["flows"])
    else:
        services = entry["services"]
        flows = dict(_flows(title, entry["flows"]))
    steps = [Step("", services, flows)]
    for change in entry.get("then", ()):
        services = merge(services, change.get("services", {}))
        steps.append(Step(change["change"], services, dict(_flows(title, change["flows"]))))
    return Case(title, tuple(entry["published"]), tuple(entry.get("families", FAMILIES)), options, tuple(steps))


def _override(title: str, flows: Mapping[Flow, Outcome], text: str) -> Mapping[Flow, Outcome]:
    changed = dict(flows)
    for flow, outcome in _flows(title, text):
        if flow not in flows:
            raise TableError(f"{title!r}: {flow} is not in the case that it differs from")
        if flows[flow] == outcome:
            raise TableError(f"{title!r}: {flow} has the same outcome there")
        changed[flow] = outcome
    return changed


def _flows(title: str, text: str) -> Iterator[tuple[Flow, Outcome]]:
    seen = set()
    for line in text.splitlines():
        words = " ".join(line.partition("#")[0].split())
        if not words:
            continue
        match = _FLOW.fullmatch(words)
        if match is None:
            raise TableError(f"{title!r}: {line.strip()!r} is not 'source -> address:port/protocol = outcome'")
        for protocol in (match["protocols"] or "tcp").split(","):
            if protocol not in _PROTOCOLS:
                raise TableError(f"{title!r}: {line.strip()!r}: no protocol {protocol!r}")
            flow = Flow(match["source"], match["address"], int(match["port"]), protocol)
            if flow in seen:
                raise TableError(f"{title!r}: {flow} is there twice")
            seen.add(flow)
            yield flow, _outcome(match["what"])


def _outcome(text: str) -> Outcome:
    for refusal in Refusal:
        if text == str(refusal):
            return refusal
    sticky = text.startswith("one of ")
    words = text.removeprefix("one of ").split()
    everywhere = words[-1] == "masq"
    servers: set[Server] = set()
    masqueraded: set[Server] = set()
    for word in words[:-1] if everywhere else words:
        name, _, port = word.removesuffix("(masq)").partition(":")
        server = Server(name, int(port or USUAL_PORT))
        servers.add(server)
        if everywhere or word.endswith("(masq)"):
            masqueraded.add(server)
    return Answered(frozenset(servers), frozenset(masqueraded), sticky)


def merge(target: Any, patch: Any) -> Any:
    """A JSON merge patch applied (RFC 7396); neither argument is changed."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])[A-Z]+", lambda match: "_" + match[0].lower(), name)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
