"""The rollout engine: what to tell which node next, as pure functions over frozen values.

Nothing here reads a clock, a socket or an API object's JSON; time comes in as an argument, objects as `model` values.
"""
