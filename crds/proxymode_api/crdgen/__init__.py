"""YAML that must agree with the models and the deprecation table: the CRDs, and the policy that warns of a mode.

Solves: one source for each fact. `python -m proxymode_api.crdgen` writes the files, `--check` fails when one is stale.
Pure but for __main__. A tool of this repository: product code imports nothing from here, and PyYAML is needed for it.
"""
