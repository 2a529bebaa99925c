"""The ipvs mode beside the tools that can do no more than load it: `ipvsadm -R` and `ip -batch`."""
