package main

import (
	"context"
	"fmt"
	"strconv"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	labelvalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// validate refuses what kube-apiserver refuses (k8s.io/kubernetes pkg/apis/*/validation, which is no library) of those
// built-in kinds that the product writes: Events, its Lease, kube-proxy's DaemonSet; and policies, which it is installed
// with. Of DaemonSets only what an edit of its affinity and update strategy can make wrong.
func validate(ctx context.Context, object runtime.Object) field.ErrorList {
	switch object := object.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return validatePolicy(object)
	case *corev1.Event:
		return validateEvent(object, throughEventsV1(ctx))
	case *coordinationv1.Lease:
		return validateLease(object)
	case *appsv1.DaemonSet:
		return validateDaemonSet(object)
	default:
		return nil
	}
}

func throughEventsV1(ctx context.Context) bool {
	request, known := genericapirequest.RequestInfoFrom(ctx)
	return known && request.APIGroup == eventsv1.GroupName
}

// validateEvent: Events with an eventTime have rules, those made through events.k8s.io/v1 have more.
func validateEvent(event *corev1.Event, strict bool) field.ErrorList {
	var errors field.ErrorList
	regarding := field.NewPath("involvedObject", "namespace")
	switch about := event.InvolvedObject.Namespace; {
	case about != "" && about != event.Namespace && event.EventTime.IsZero(),
		about == "" && event.Namespace != metav1.NamespaceDefault && (event.EventTime.IsZero() || event.Namespace != metav1.NamespaceSystem):
		errors = append(errors, field.Invalid(regarding, about, "does not match event.namespace"))
	}
	if !event.EventTime.IsZero() {
		for _, said := range validation.IsQualifiedName(event.ReportingController) {
			errors = append(errors, field.Invalid(field.NewPath("reportingController"), event.ReportingController, said))
		}
		for _, limited := range []struct {
			name, value string
			required    bool
			most        int
		}{
			{"reportingInstance", event.ReportingInstance, true, 128},
			{"action", event.Action, true, 128},
			{"reason", event.Reason, true, 128},
			{"message", event.Message, false, 1024},
		} {
			path := field.NewPath(limited.name)
			if limited.required && limited.value == "" {
				errors = append(errors, field.Required(path, ""))
			}
			if len(limited.value) > limited.most {
				errors = append(errors, field.Invalid(path, "", fmt.Sprintf("can have at most %d characters", limited.most)))
			}
		}
	}
	if !strict {
		return errors
	}
	errors = append(errors, metavalidation.ValidateObjectMeta(&event.ObjectMeta, true, metavalidation.NameIsDNSSubdomain, field.NewPath("metadata"))...)
	if event.EventTime.IsZero() {
		errors = append(errors, field.Required(field.NewPath("eventTime"), ""))
	}
	if event.Type != corev1.EventTypeNormal && event.Type != corev1.EventTypeWarning {
		errors = append(errors, field.Invalid(field.NewPath("type"), "", "has invalid value: "+event.Type))
	}
	if series := event.Series; series != nil && series.Count < 2 {
		errors = append(errors, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	unset := map[string]bool{
		"firstTimestamp": event.FirstTimestamp.IsZero(),
		"lastTimestamp":  event.LastTimestamp.IsZero(),
		"count":          event.Count == 0,
		"source":         event.Source == corev1.EventSource{},
	}
	for name, is := range unset {
		if !is {
			errors = append(errors, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	return errors
}

func validateLease(lease *coordinationv1.Lease) field.ErrorList {
	var errors field.ErrorList
	spec := field.NewPath("spec")
	if seconds := lease.Spec.LeaseDurationSeconds; seconds != nil && *seconds <= 0 {
		errors = append(errors, field.Invalid(spec.Child("leaseDurationSeconds"), *seconds, "must be greater than 0"))
	}
	if transitions := lease.Spec.LeaseTransitions; transitions != nil && *transitions < 0 {
		errors = append(errors, field.Invalid(spec.Child("leaseTransitions"), *transitions, "must be greater than or equal to 0"))
	}
	return errors
}

func validateDaemonSet(set *appsv1.DaemonSet) field.ErrorList {
	var errors field.ErrorList
	spec := field.NewPath("spec")
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(set.Spec.Template.Labels)) {
		errors = append(errors, field.Invalid(spec.Child("template", "metadata", "labels"), set.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	strategy := spec.Child("updateStrategy")
	switch set.Spec.UpdateStrategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if set.Spec.UpdateStrategy.RollingUpdate == nil {
			errors = append(errors, field.Required(strategy.Child("rollingUpdate"), ""))
		}
	default:
		errors = append(errors, field.NotSupported(strategy, set.Spec.UpdateStrategy.Type, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType,
		}))
	}
	affinity := set.Spec.Template.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return errors
	}
	terms := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	path := spec.Child("template", "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if len(terms) == 0 {
		errors = append(errors, field.Required(path, "must have at least one node selector term"))
	}
	for i, term := range terms {
		for j, expression := range term.MatchExpressions {
			errors = append(errors, validateExpression(expression, path.Index(i).Child("matchExpressions").Index(j))...)
		}
	}
	return errors
}

func validateExpression(expression corev1.NodeSelectorRequirement, path *field.Path) field.ErrorList {
	var errors field.ErrorList
	values := path.Child("values")
	switch expression.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(expression.Values) == 0 {
			errors = append(errors, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(expression.Values) > 0 {
			errors = append(errors, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(expression.Values) != 1 {
			errors = append(errors, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errors = append(errors, field.Invalid(path.Child("operator"), expression.Operator, "not a valid selector operator"))
	}
	return append(errors, labelvalidation.ValidateLabelName(expression.Key, path.Child("key"))...)
}

// countTemplates keeps the annotation in which kube-apiserver counts changes of a DaemonSet's Pod template: there it is a
// field of the internal type, and this its view in apps/v1. Admission policies see the new count.
func countTemplates(set, old *appsv1.DaemonSet) {
	count := int64(1)
	if old != nil {
		count, _ = strconv.ParseInt(old.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64) // what we wrote
		if !equality.Semantic.DeepEqual(set.Spec.Template, old.Spec.Template) {
			count++
		}
	}
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(count, 10)
}
