"""The proxymode.io API: what users write, what operator and agents tell each other.

Models (pydantic), the deprecation table of kube-proxy's modes, and the generator of the CRDs. Pure: no I/O,
no Kubernetes client. Operator, agent and cli import it; it imports none of them.
"""

from typing import Final

GROUP: Final = "proxymode.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "proxymode.io/v1alpha1"
