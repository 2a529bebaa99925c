"""Writes what is generated from operator and agent together: docs/metrics.md and Grafana's dashboard.

Deliberately not part of the product: operator and agent do not know each other, and this knows both.
"""
