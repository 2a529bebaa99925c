"""The operator: carries a ProxyMode's intent to the fleet's NodeProxyModes, stage by stage.

`rollout` decides (pure functions), everything else here watches, writes and keeps time. See README.md beside this file.
"""
