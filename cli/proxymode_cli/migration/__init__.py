"""What changes for users of a cluster when nodes move from one mode to another. Pure: API objects in, findings out.

`objects` are the few fields that matter of what the API server answers; each rule is one function over a `Situation`;
`table` lists the rules and applies them. Reading from a cluster is not done here, and no rule looks into a kernel: that
is preflight, which each agent does on its own node.
"""
