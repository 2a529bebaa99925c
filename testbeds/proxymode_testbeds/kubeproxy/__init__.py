"""What kube-proxy does to a node's kernel, done again: for where there is no kube-proxy binary.

`replay` has the rules of each of its modes as kube-proxy 1.36 writes them, for plain Services (cluster IP, NodePort,
several endpoints or none); no session affinity, source ranges or traffic policies. `python -m
proxymode_testbeds.kubeproxy` runs as one: a process of that name that answers on /proxyMode, puts back what others
remove, and leaves everything when it ends, as kube-proxy does.
"""

from proxymode_testbeds.kubeproxy.model import ProxyMode, Service, Variant
from proxymode_testbeds.kubeproxy.replay import script

__all__ = ["ProxyMode", "Service", "Variant", "script"]
