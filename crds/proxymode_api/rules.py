"""What the API server itself refuses, and in which words: CEL rules that the CRDs carry beside their schema.

Solves: a wrong ProxyMode is never stored, and whoever wrote it reads the field, the value and what would be right.
The models name the rule at the field that it guards; the CRD generator copies it. Not solved here: typos in field names
(kubectl's strict field validation) and bounds and enums, which the schema says better.

CEL as of Kubernetes 1.31, which brought isCIDR(); see "Validation rules" in the CustomResourceDefinition reference.
Every list, map and string that a rule walks has a bound in its model, else the API server refuses the CRD for the
rule's estimated cost. A rule's message is itself CEL; the API server puts the field's path and value before it. It
estimates what join(), string() and a field of a filtered list give as unbounded, so no message has those.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

KEY: Final = "x-kubernetes-validations"


class Rule(NamedTuple):
    """One rule: a CEL expression that must hold, and a CEL expression for the words when it does not."""

    holds: str
    message: str


def extra(*rules: Rule, **keywords: Any) -> dict[str, Any]:
    """The rules, and other x-kubernetes keywords with underscores for dashes, as pydantic's json_schema_extra."""
    named: dict[str, Any] = {f"x-kubernetes-{name.replace('_', '-')}": value for name, value in keywords.items()}
    if rules:
        named[KEY] = [{"rule": rule.holds, "messageExpression": rule.message} for rule in rules]
    return named


DURATION: Final = Rule(
    "self != '' && self.matches('^(0|([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?)$')",
    "'\"' + self + '\" is not a duration: write hours, minutes and seconds as in 1h30m, 10m or 45s; not negative'",
)

NOT_ZERO: Final = Rule("self.matches('[1-9]')", "'\"' + self + '\" is no time at all: write more than 0, as in 10m'")

AT_MOST_A_WEEK: Final = Rule(
    "!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || self == '' || duration(self) <= duration('168h')",
    "'\"' + self + '\" is more than a week: write at most 168h'",
)

AT_MOST_FIVE_MINUTES: Final = Rule(
    "!self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') || self == '' || duration(self) <= duration('5m')",
    "'\"' + self + '\" is more than five minutes: write at most 5m'",
)

SCHEDULE: Final = Rule(
    "self.matches('^[0-9A-Za-z*,/-]+( +[0-9A-Za-z*,/-]+){4}$')",
    "'\"' + self + '\" is not a cron schedule: write minute, hour, day, month and weekday, as in 0 22 * * mon-fri'",
)

CIDR: Final = Rule("isCIDR(self)", "'\"' + self + '\" is not a CIDR: write one as in 10.244.0.0/16 or fd00:10::/64'")

NODE_PORT_ADDRESSES: Final = Rule(
    "self == ['primary'] || self.all(a, isCIDR(a))",
    "'\"' + self.filter(a, !isCIDR(a))[0] + '\" must not stand here: NodePorts answer on CIDRs as in 192.168.0.0/16, "
    "or on the one word primary'",
)

DETECT_LOCAL: Final = (
    Rule(
        "!(self.mode in ['InterfaceNamePrefix', 'BridgeInterface']) || has(self.interface)",
        "'mode ' + self.mode + ' needs interface: the ' + "
        "(self.mode == 'BridgeInterface' ? 'name of the bridge, as in cni0' : 'beginning of the names, as in veth')",
    ),
    Rule(
        "self.mode in ['InterfaceNamePrefix', 'BridgeInterface'] || !has(self.interface)",
        "'interface ' + self.interface + ' would be ignored in mode ' + self.mode + "
        "': leave it out, or choose mode InterfaceNamePrefix or BridgeInterface'",
    ),
    Rule(
        "self.mode == 'ClusterCIDR' || !has(self.clusterCIDRs) || self.clusterCIDRs.size() == 0",
        "'clusterCIDRs would be ignored in mode ' + self.mode + ': leave them out, or choose mode ClusterCIDR'",
    ),
)

SELECTOR_REQUIREMENT: Final = (
    Rule(
        "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
        "'operator ' + self.operator + ' on label ' + self.key + ' needs at least one of values'",
    ),
    Rule(
        "self.operator in ['In', 'NotIn'] || !has(self.values) || self.values.size() == 0",
        "'operator ' + self.operator + ' on label ' + self.key + ' takes no values: leave them out or use In or NotIn'",
    ),
)

MAX_UNAVAILABLE: Final = Rule(
    "type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",
    "'\"' + string(self) + '\" is neither a number of nodes from 1 nor a percentage from 1% to 100%; "
    "to hold a rollout set paused: true'",
)

STAGE_REACH: Final = Rule(
    "[has(self.selector), has(self.count), has(self.percent)].filter(given, given).size() == 1",
    "'stage ' + self.name + ' needs exactly one of selector, count and percent'",
)

STAGES: Final = (
    Rule("self.all(s, self.exists_one(t, t.name == s.name))", "'each stage needs a name of its own'"),
    Rule(
        "self.size() == 0 || [self[self.size() - 1]].all(last, (has(last.percent) && last.percent == 100) || "
        "(has(last.selector) && (!has(last.selector.matchLabels) || last.selector.matchLabels.size() == 0) && "
        "(!has(last.selector.matchExpressions) || last.selector.matchExpressions.size() == 0)))",
        "'the last stage, ' + self[self.size() - 1].name + ', must reach every selected node: "
        "give it percent: 100 or an empty selector, or add such a stage after it'",
    ),
    Rule(
        "self.filter(s, has(s.percent)).map(s, s.percent).isSorted()",
        "'stages are cumulative: percent must be at least that of the stages before'",
    ),
    Rule(
        "self.filter(s, has(s.count)).map(s, s.count).isSorted()",
        "'stages are cumulative: count must be at least that of the stages before'",
    ),
)

STAGE_UNIQUE_REACH: Final = (
    Rule(
        "self.filter(s, has(s.percent)).all(s, self.exists_one(t, has(t.percent) && t.percent == s.percent))",
        "'stages are cumulative: two of the same percent are one; give each a percent of its own'",
    ),
    Rule(
        "self.filter(s, has(s.count)).all(s, self.exists_one(t, has(t.count) && t.count == s.count))",
        "'stages are cumulative: two of the same count are one; give each a count of its own'",
    ),
)

GATE_URL: Final = Rule(
    "isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != '' && "
    "!self.contains('@') && !self.contains('?') && !self.contains('#')",
    "'\"' + self + '\" is not the address of an HTTP server: write it as in https://prometheus.monitoring.svc:9090, "
    "without user, query and fragment'",
)

GATE_HTTPS: Final = (
    Rule(
        "!has(self.bearerTokenSecret) || self.url.startsWith('https://')",
        "'bearerTokenSecret would be sent in clear text to ' + self.url + ': use https or leave it out'",
    ),
    Rule(
        "!has(self.ca) || self.ca == '' || self.url.startsWith('https://')",
        "'ca means nothing for ' + self.url + ': use https or leave it out'",
    ),
)

GATE_KIND: Final = Rule(
    "has(self.prometheus) != has(self.webhook)",
    "'gate ' + self.name + ' needs exactly one of prometheus and webhook'",
)

GATES: Final = Rule("self.all(g, self.exists_one(h, h.name == g.name))", "'each gate needs a name of its own'")

TOPOLOGY: Final = Rule(
    "!has(self.topologyPolicy) || self.topologyPolicy != 'OneDomain' || has(self.topologyKey)",
    "'topologyPolicy OneDomain needs topologyKey: the node label that tells domains apart'",
)

HAND_BACK: Final = Rule(
    "self.mode == 'nftables' || !has(self.kubeProxy) || !has(self.kubeProxy.policy) || "
    "self.kubeProxy.policy != 'HandBack'",
    "'kubeProxy.policy HandBack needs mode nftables: nodes pass through it on their way back to kube-proxy'",
)

SHORT_NAME: Final = Rule("self.metadata.name.size() <= 63", "'metadata.name must have at most 63 characters'")
