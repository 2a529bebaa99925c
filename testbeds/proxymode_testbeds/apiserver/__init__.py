"""An API server to test against: real API machinery, no cluster.

`ApiServer.start` runs etcd and an API server on free ports of this machine; `build` makes the binaries. What this
server lacks compared with a real one is written at the top of `go/main.go`; where `KUBEBUILDER_ASSETS` names a folder
with a real kube-apiserver, etcd and kubectl, those run instead.
"""

from __future__ import annotations

from .server import ApiServer, KubectlError, StartError

__all__ = ["ApiServer", "KubectlError", "StartError"]
