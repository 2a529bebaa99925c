"""The Kubernetes API as the agent needs it: kubeconfig, requests, list+watch, and the few fields it reads.

Deliberately not a general client: no discovery, no typed API, no retries hidden in requests. It exists because the
usual client's model classes cost twenty times as much per EndpointSlice as decoding only what is used.
"""
