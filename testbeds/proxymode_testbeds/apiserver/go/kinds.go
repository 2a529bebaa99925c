package main

import (
	"fmt"
	"reflect"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	extensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// kind is one built-in kind that this server stores.
type kind struct {
	version      schema.GroupVersion
	alsoServedAs []schema.GroupVersion // other groups that show the same stored objects
	resource     string
	shortNames   []string
	object, list runtime.Object
	namespaced   bool
	generation   bool                            // whether metadata.generation counts changes of what is desired
	fields       func(runtime.Object) fields.Set // selectable fields besides metadata.name and metadata.namespace
}

var kinds = []*kind{
	{version: corev1.SchemeGroupVersion, resource: "namespaces", shortNames: []string{"ns"}, object: &corev1.Namespace{}, list: &corev1.NamespaceList{}},
	{version: corev1.SchemeGroupVersion, resource: "nodes", shortNames: []string{"no"}, object: &corev1.Node{}, list: &corev1.NodeList{}},
	{version: corev1.SchemeGroupVersion, resource: "pods", shortNames: []string{"po"}, object: &corev1.Pod{}, list: &corev1.PodList{}, namespaced: true, generation: true, fields: podFields},
	{version: corev1.SchemeGroupVersion, resource: "services", shortNames: []string{"svc"}, object: &corev1.Service{}, list: &corev1.ServiceList{}, namespaced: true, fields: serviceFields},
	{version: corev1.SchemeGroupVersion, resource: "endpoints", shortNames: []string{"ep"}, object: &corev1.Endpoints{}, list: &corev1.EndpointsList{}, namespaced: true},
	{version: corev1.SchemeGroupVersion, resource: "configmaps", shortNames: []string{"cm"}, object: &corev1.ConfigMap{}, list: &corev1.ConfigMapList{}, namespaced: true},
	{version: corev1.SchemeGroupVersion, resource: "secrets", object: &corev1.Secret{}, list: &corev1.SecretList{}, namespaced: true, fields: secretFields},
	{version: corev1.SchemeGroupVersion, resource: "serviceaccounts", shortNames: []string{"sa"}, object: &corev1.ServiceAccount{}, list: &corev1.ServiceAccountList{}, namespaced: true},
	{version: corev1.SchemeGroupVersion, alsoServedAs: []schema.GroupVersion{eventsv1.SchemeGroupVersion}, resource: "events", shortNames: []string{"ev"}, object: &corev1.Event{}, list: &corev1.EventList{}, namespaced: true, fields: eventFields},
	{version: appsv1.SchemeGroupVersion, resource: "daemonsets", shortNames: []string{"ds"}, object: &appsv1.DaemonSet{}, list: &appsv1.DaemonSetList{}, namespaced: true, generation: true},
	{version: appsv1.SchemeGroupVersion, resource: "deployments", shortNames: []string{"deploy"}, object: &appsv1.Deployment{}, list: &appsv1.DeploymentList{}, namespaced: true, generation: true},
	{version: coordinationv1.SchemeGroupVersion, resource: "leases", object: &coordinationv1.Lease{}, list: &coordinationv1.LeaseList{}, namespaced: true},
	{version: discoveryv1.SchemeGroupVersion, resource: "endpointslices", object: &discoveryv1.EndpointSlice{}, list: &discoveryv1.EndpointSliceList{}, namespaced: true, generation: true},
	{version: networkingv1.SchemeGroupVersion, resource: "servicecidrs", object: &networkingv1.ServiceCIDR{}, list: &networkingv1.ServiceCIDRList{}},
	{version: policyv1.SchemeGroupVersion, resource: "poddisruptionbudgets", shortNames: []string{"pdb"}, object: &policyv1.PodDisruptionBudget{}, list: &policyv1.PodDisruptionBudgetList{}, namespaced: true, generation: true},
	{version: rbacv1.SchemeGroupVersion, resource: "clusterroles", object: &rbacv1.ClusterRole{}, list: &rbacv1.ClusterRoleList{}},
	{version: rbacv1.SchemeGroupVersion, resource: "clusterrolebindings", object: &rbacv1.ClusterRoleBinding{}, list: &rbacv1.ClusterRoleBindingList{}},
	{version: rbacv1.SchemeGroupVersion, resource: "roles", object: &rbacv1.Role{}, list: &rbacv1.RoleList{}, namespaced: true},
	{version: rbacv1.SchemeGroupVersion, resource: "rolebindings", object: &rbacv1.RoleBinding{}, list: &rbacv1.RoleBindingList{}, namespaced: true},
	{version: admissionv1.SchemeGroupVersion, resource: "validatingadmissionpolicies", object: &admissionv1.ValidatingAdmissionPolicy{}, list: &admissionv1.ValidatingAdmissionPolicyList{}, generation: true},
	{version: admissionv1.SchemeGroupVersion, resource: "validatingadmissionpolicybindings", object: &admissionv1.ValidatingAdmissionPolicyBinding{}, list: &admissionv1.ValidatingAdmissionPolicyBindingList{}, generation: true},
}

var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
)

func init() {
	utilruntime.Must(clientscheme.AddToScheme(scheme))
	utilruntime.Must(extensionsv1.AddToScheme(scheme)) // only for the names of the OpenAPI definitions
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, k := range kinds {
		for _, served := range append([]schema.GroupVersion{k.version}, k.alsoServedAs...) {
			// kube-apiserver keeps a second, internal Go type for every kind. Here the v1 type is its own internal one.
			scheme.AddKnownTypes(schema.GroupVersion{Group: served.Group, Version: runtime.APIVersionInternal}, k.object, k.list)
		}
		utilruntime.Must(scheme.AddFieldLabelConversionFunc(k.version.WithKind(k.name()), k.fieldLabel))
	}
	addEventConversions(scheme)
	addDefaults(scheme)
}

// name is the kind's name in manifests, such as Node.
func (k *kind) name() string { return reflect.TypeOf(k.object).Elem().Name() }

// singular is the resource's name for one object, such as node.
func (k *kind) singular() string { return strings.ToLower(k.name()) }

// hasStatus tells whether the kind has a status, and so a status subresource.
func (k *kind) hasStatus() bool { return fieldOf(k.object, "Status").IsValid() }

// fieldOf is a top-level field of the object, invalid if its kind has none of that name.
func fieldOf(object runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(object).Elem().FieldByName(name)
}

// fieldLabel checks a field that a client selects by.
func (k *kind) fieldLabel(label, value string) (string, string, error) {
	known := label == "metadata.name" || label == "metadata.namespace"
	if !known && k.fields != nil {
		known = k.fields(k.object).Has(label)
	}
	if !known {
		return "", "", fmt.Errorf("field label not supported: %s", label)
	}
	return label, value, nil
}

func podFields(object runtime.Object) fields.Set {
	pod := object.(*corev1.Pod)
	return fields.Set{
		"spec.nodeName":           pod.Spec.NodeName,
		"spec.serviceAccountName": pod.Spec.ServiceAccountName,
		"status.phase":            string(pod.Status.Phase),
	}
}

func serviceFields(object runtime.Object) fields.Set {
	service := object.(*corev1.Service)
	return fields.Set{"spec.clusterIP": service.Spec.ClusterIP, "spec.type": string(service.Spec.Type)}
}

func secretFields(object runtime.Object) fields.Set {
	return fields.Set{"type": string(object.(*corev1.Secret).Type)}
}

func eventFields(object runtime.Object) fields.Set {
	event := object.(*corev1.Event)
	return fields.Set{
		"involvedObject.kind":      event.InvolvedObject.Kind,
		"involvedObject.name":      event.InvolvedObject.Name,
		"involvedObject.namespace": event.InvolvedObject.Namespace,
		"involvedObject.uid":       string(event.InvolvedObject.UID),
		"reason":                   event.Reason,
		"reportingComponent":       event.ReportingController,
		"source":                   event.Source.Component,
		"type":                     event.Type,
	}
}
