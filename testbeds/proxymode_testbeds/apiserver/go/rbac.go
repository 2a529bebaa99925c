package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// rbacAuthorizer decides by the Roles, ClusterRoles and bindings that are stored here, as kube-apiserver's authorizer
// does, which lives in k8s.io/kubernetes (plugin/pkg/auth/authorizer/rbac) and is no library. Members of system:masters
// never get here. What is missing: aggregated ClusterRoles, and the check that nobody hands out more than he has.
type rbacAuthorizer struct {
	clusterBindings rbaclisters.ClusterRoleBindingLister
	clusterRoles    rbaclisters.ClusterRoleLister
	bindings        rbaclisters.RoleBindingLister
	roles           rbaclisters.RoleLister
}

func newRBACAuthorizer(factory informers.SharedInformerFactory) *rbacAuthorizer {
	rbac := factory.Rbac().V1()
	return &rbacAuthorizer{
		clusterBindings: rbac.ClusterRoleBindings().Lister(),
		clusterRoles:    rbac.ClusterRoles().Lister(),
		bindings:        rbac.RoleBindings().Lister(),
		roles:           rbac.Roles().Lister(),
	}
}

func (a *rbacAuthorizer) Authorize(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	clusterBindings, err := a.clusterBindings.List(labels.Everything())
	if err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	for _, binding := range clusterBindings {
		if isSubject(request.GetUser(), binding.Subjects, "") && allows(a.rules(binding.RoleRef, ""), request) {
			return allowed("ClusterRoleBinding", binding.Name, binding.RoleRef)
		}
	}
	namespace := request.GetNamespace()
	if namespace == "" {
		return authorizer.DecisionNoOpinion, "", nil
	}
	bindings, err := a.bindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil {
		return authorizer.DecisionNoOpinion, "", err
	}
	for _, binding := range bindings {
		if isSubject(request.GetUser(), binding.Subjects, namespace) && allows(a.rules(binding.RoleRef, namespace), request) {
			return allowed("RoleBinding", binding.Name, binding.RoleRef)
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func allowed(kind, name string, role rbacv1.RoleRef) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, fmt.Sprintf("RBAC: allowed by %s %q of %s %q", kind, name, role.Kind, role.Name), nil
}

// rules of a role; a binding may name one that is not there, and then gives nothing.
func (a *rbacAuthorizer) rules(reference rbacv1.RoleRef, namespace string) []rbacv1.PolicyRule {
	if reference.Kind == "Role" {
		if role, err := a.roles.Roles(namespace).Get(reference.Name); err == nil {
			return role.Rules
		}
	} else if role, err := a.clusterRoles.Get(reference.Name); err == nil {
		return role.Rules
	}
	return nil
}

func isSubject(who user.Info, subjects []rbacv1.Subject, namespace string) bool {
	return slices.ContainsFunc(subjects, func(subject rbacv1.Subject) bool {
		switch subject.Kind {
		case rbacv1.UserKind:
			return subject.Name == who.GetName()
		case rbacv1.GroupKind:
			return slices.Contains(who.GetGroups(), subject.Name)
		case rbacv1.ServiceAccountKind:
			home := subject.Namespace
			if home == "" {
				home = namespace
			}
			return who.GetName() == "system:serviceaccount:"+home+":"+subject.Name
		default:
			return false
		}
	})
}

func allows(rules []rbacv1.PolicyRule, request authorizer.Attributes) bool {
	return slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
		if !contains(rule.Verbs, request.GetVerb()) {
			return false
		}
		if !request.IsResourceRequest() {
			return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
				prefix, isPrefix := strings.CutSuffix(pattern, "*")
				return pattern == request.GetPath() || isPrefix && strings.HasPrefix(request.GetPath(), prefix)
			})
		}
		return contains(rule.APIGroups, request.GetAPIGroup()) &&
			namesResource(rule.Resources, request.GetResource(), request.GetSubresource()) &&
			(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, request.GetName()))
	})
}

func namesResource(resources []string, resource, subresource string) bool {
	if subresource == "" {
		return contains(resources, resource)
	}
	return contains(resources, resource+"/"+subresource) || slices.Contains(resources, "*/"+subresource)
}

func contains(values []string, value string) bool {
	return slices.Contains(values, "*") || slices.Contains(values, value)
}

// createDiscoveryRole lets everybody who has a token find out what is served, as every cluster does.
func createDiscoveryRole(ctx context.Context, client kubernetes.Interface) error {
	name := metav1.ObjectMeta{Name: "system:discovery"}
	urls := []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}
	role := &rbacv1.ClusterRole{ObjectMeta: name, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: urls}}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: name,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: user.AllAuthenticated}},
	}
	if _, err := client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ClusterRole %s: %w", name.Name, err)
	}
	if _, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("ClusterRoleBinding %s: %w", name.Name, err)
	}
	return nil
}
