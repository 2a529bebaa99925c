"""Real backends and real clients, to see what a change of the dataplane does to connections.

    python -m proxymode_testbeds.traffic server --name pod1 --tcp 8080 --udp 53
    python -m proxymode_testbeds.traffic client 10.96.0.10 --tcp 80 --established 50 --new-rate 20

Both run in any network namespace, print JSON lines (see `report`) and stop on SIGTERM. They use the standard library
only and one thread, because they run a dozen at a time on an emulated CPU: this is no benchmark, and the rates they
can offer are modest.
"""
