"""What runs inside a guest: `init.sh`, the first process, and a daemon that runs the host's commands.

A package of its own beside `proxymode_testbeds.vm`, because it is imported under emulation, where every module
costs: it needs nothing outside the standard library and stays away from asyncio.
"""
