"""The agent's side of NodeProxyMode: does what its spec asks, writes what is into its status, posts Events.

Imported only where the agent follows a NodeProxyMode; a standalone agent needs none of it, nor pydantic.
"""
