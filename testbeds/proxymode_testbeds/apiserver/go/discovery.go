package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/klog/v2"
)

// withGroupDiscovery answers GET /apis with all API groups.
//
// In a cluster that path belongs to the aggregation layer, which knows built-in groups and custom resources alike; the
// library serves custom resources only. The aggregated discovery document has both, so the plain list is made from it.
func withGroupDiscovery(server func() *genericapiserver.GenericAPIServer) func(http.Handler, *genericapiserver.Config) http.Handler {
	return func(next http.Handler, config *genericapiserver.Config) http.Handler {
		groups := http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
			if request.URL.Path != "/apis" || server() == nil {
				next.ServeHTTP(w, request)
				return
			}
			aggregated := server().AggregatedDiscoveryGroupManager
			if strings.Contains(request.Header.Get("Accept"), "as=APIGroupDiscoveryList") {
				aggregated.ServeHTTP(w, request)
				return
			}
			servePlainGroups(aggregated, w, request)
		})
		return genericapiserver.DefaultBuildHandlerChain(groups, config)
	}
}

func servePlainGroups(aggregated http.Handler, w http.ResponseWriter, request *http.Request) {
	inner := request.Clone(request.Context())
	inner.Header = http.Header{"Accept": {"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}}
	recorder := httptest.NewRecorder()
	aggregated.ServeHTTP(recorder, inner)
	var discovered apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(recorder.Body.Bytes(), &discovered); err != nil {
		http.Error(w, "discovery: "+err.Error(), http.StatusInternalServerError)
		return
	}
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, group := range discovered.Items {
		versions := make([]metav1.GroupVersionForDiscovery, 0, len(group.Versions))
		for _, version := range group.Versions {
			versions = append(versions, metav1.GroupVersionForDiscovery{GroupVersion: group.Name + "/" + version.Version, Version: version.Version})
		}
		if len(versions) > 0 {
			list.Groups = append(list.Groups, metav1.APIGroup{Name: group.Name, Versions: versions, PreferredVersion: versions[0]})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		klog.ErrorS(err, "writing the list of API groups")
	}
}
