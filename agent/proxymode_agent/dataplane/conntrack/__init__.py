"""Conntrack entries over ctnetlink, and the connections of IPVS: counted, compared, carried over."""
