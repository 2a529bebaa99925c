"""Measurements of the product against its peers; see benchmarks/README.md."""
