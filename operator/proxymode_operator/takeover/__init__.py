"""Nodes between kube-proxy and the agents: who runs on which, and kube-proxy's DaemonSet kept off the agents' nodes.

`membership` decides which nodes get the label and which lose it, `daemonset` how the DaemonSet is to look; both are
pure. `loop` reads and writes.
"""
