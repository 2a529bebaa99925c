"""Labels by which Services and EndpointSlices say what concerns a Service proxy (k8s.io/api)."""

from __future__ import annotations

from typing import Final

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
PROXY_NAME_LABEL: Final = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL: Final = "service.kubernetes.io/headless"
OURS_SELECTOR: Final = f"!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}"
"""Label selector that spares the API server sending what is not ours (the endpoint slice controller copies the first
label from the Service and sets the second one)."""
