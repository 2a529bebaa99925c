"""The main job on one machine: a staged rollout on real kernels, with traffic flowing, and the way back.

An API server and the operator run on this host; the nodes are network namespaces of one VM with Debian's stock kernel,
each with its own IPVS, nftables, conntrack and agent. What a control plane does elsewhere (Pods, EndpointSlices) is
written by hand in `objects`; what is shown is the product.
"""
