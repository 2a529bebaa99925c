"""Annotations of a ProxyMode by which people steer a rollout that is under way. Pure; part of the API.

They are said once about one revision and are no lasting wish, hence no fields of the spec. The operator's own notes are
not here: nobody else reads them.
"""

from __future__ import annotations

from typing import Final

PROMOTE_ANNOTATION: Final = "proxymode.io/promote"
"""On a ProxyMode: the name of a stage that waits for approval, or PROMOTE_ALL. The operator takes it away again."""

PROMOTE_ALL: Final = "all"

ABORT_ANNOTATION: Final = "proxymode.io/abort"
"""On a ProxyMode: the number of the revision that shall start nothing more."""
