"""The evidence of a rollout, finished or under way, as one file to keep: HTML, Markdown or JSON. Pure.

`evidence` puts together what is known; `timeline` draws it; `html` and `markdown` write it down. Only what operator and
agents have written is in it: Kubernetes keeps Events for an hour or so, and of a node its last switch.
"""
