"""Pages on Events that agents post about a Service or EndpointSlice."""

from __future__ import annotations

from typing import Final

from proxymode_api.reasons.codes import Reason
from proxymode_api.reasons.page import SERVICE_EVENT, Mood, Page

PAGES: Final = (
    Page(
        Reason.LOCALHOST_NODE_PORT_TAKEN,
        Mood.LOOK,
        (SERVICE_EVENT,),
        "spec.localhostNodePorts asks for the NodePort on loopback too, but another program of the node listens on "
        "that port there. On the node's other addresses the NodePort works.",
        "Stop the other program (ss -ltnp on the node shows it), or give the Service another nodePort.",
    ),
    Page(
        Reason.UNUSABLE_FIELD,
        Mood.LOOK,
        (SERVICE_EVENT, "Event on the EndpointSlice"),
        "A field of the object cannot be used as it is, for instance a loopback address in externalIPs. That part is "
        "left out; the rest is programmed.",
        "The note names the field and the value. Correct the object.",
    ),
    Page(
        Reason.REFUSED_BY_KERNEL,
        Mood.LOOK,
        (SERVICE_EVENT,),
        "The kernel of the node does not take this Service port. Other Services are programmed; this port gets "
        "nothing there until it changes.",
        "The note has the kernel's words. Two Services with one address and port are a frequent cause.",
    ),
    Page(
        Reason.FAILED_TO_START_SERVICE_HEALTHCHECK,
        Mood.LOOK,
        (SERVICE_EVENT,),
        "The node cannot listen on the Service's healthCheckNodePort, so load balancers take the node for dead. Reason "
        "and words are kube-proxy's. The agent tries again.",
        "See what else listens on the port: ss -ltnp on the node. A kube-proxy that still runs is a frequent cause.",
    ),
)
