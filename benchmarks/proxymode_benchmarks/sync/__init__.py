"""How fast the agent brings Services into the kernel in mode nftables, beside kube-proxy's ruleset."""
