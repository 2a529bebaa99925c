// A Kubernetes API server for tests: custom resources, admission policies and the core kinds that proxymode touches.
//
// It is put together from the same libraries as kube-apiserver (k8s.io/apiserver, k8s.io/apiextensions-apiserver), so
// schemas, CEL, server-side apply, watches, status subresources, tables, discovery and OpenAPI are the real thing.
// What lives in k8s.io/kubernetes itself, which is not a library, is missing: most validation (but see validation.go) and
// most defaults of core kinds, TokenRequest, allocation of cluster IPs, and every controller: nothing collects garbage, deleting a Namespace
// leaves what was in it. The RBAC authorizer is written anew in rbac.go.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/klog/v2"
)

// kubeVersion is what /version answers by default: the version of the libraries, set by the build (-X main.kubeVersion).
var kubeVersion = "v0.0.0-unset"

func main() {
	var options serverOptions
	flag.StringVar(&options.etcd, "etcd-servers", "http://127.0.0.1:2379", "address of etcd")
	flag.TextVar(&options.bindAddress, "bind-address", net.IPv4(127, 0, 0, 1), "address to listen on")
	flag.IntVar(&options.port, "secure-port", 6443, "port to listen on, HTTPS only")
	flag.StringVar(&options.certDir, "cert-dir", "", "folder for apiserver.crt and apiserver.key, made if missing")
	flag.StringVar(&options.tokenFile, "token-file", "", "JSON file {token: {name, uid, groups, extra}}, read again whenever it changes")
	flag.StringVar(&options.auditPolicy, "audit-policy-file", "", "what to write to the audit log (audit.k8s.io/v1 Policy)")
	flag.StringVar(&options.auditLog, "audit-log-path", "", "file of the audit log, one JSON object a line")
	flag.StringVar(&options.kubeVersion, "kube-version", kubeVersion, "what /version answers, such as v1.39.0; changes nothing else")
	klog.InitFlags(nil)
	flag.Parse()
	if options.certDir == "" || options.tokenFile == "" {
		fmt.Fprintln(os.Stderr, "--cert-dir and --token-file are needed")
		os.Exit(2)
	}
	if err := run(genericapiserver.SetupSignalContext(), options); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
