"""Carrying established connections from IPVS over to netfilter's NAT, flow by flow, without either side noticing.

`flows` decides which entries are carried and what is missing, `taken` makes all that is needed of them, many at a time,
`maps` catches packets that come while a flow has no conntrack entry, `carrier` moves the entries and puts back what the
end of IPVS takes away.
"""
