"""The kubectl plugin `kubectl proxymode`: see what a fleet runs, what would change, watch a rollout, steer it.

It reads API objects and sets two annotations and two fields of a ProxyMode; every decision stays the operator's.
"""
