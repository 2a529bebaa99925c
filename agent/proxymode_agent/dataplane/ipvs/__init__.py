"""The ipvs mode: virtual servers, their addresses on kube-ipvs0, and a small nf_tables table beside them."""
