"""Writes what is generated from the packages together: docs/reference/, docs/metrics.md and Grafana's dashboard.

Deliberately not part of the product: operator, agent and plugin do not know each other, and this knows all three.
"""
