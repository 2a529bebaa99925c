"""A simulator of a fleet: the operator as shipped, a real API server, and agents that move no packet.

It shows what thousands of nodes cost the operator, and that what the operator promises holds at every single write.
"""
