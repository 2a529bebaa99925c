package main

import (
	"context"
	"reflect"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// strategy says what clients may write to an object, as the API conventions have it: spec through the resource itself,
// status through its status subresource, metadata.generation through neither.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind      *kind
	forStatus bool
}

func newStrategy(k *kind, forStatus bool) strategy {
	return strategy{ObjectTyper: scheme, NameGenerator: names.SimpleNameGenerator, kind: k, forStatus: forStatus}
}

func (s strategy) NamespaceScoped() bool { return s.kind.namespaced }

func (s strategy) PrepareForCreate(_ context.Context, object runtime.Object) {
	switch created := object.(type) {
	case *corev1.Node: // a kubelet registers its node with its status
	case *corev1.Namespace:
		created.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	case *corev1.Pod:
		created.Status = corev1.PodStatus{Phase: corev1.PodPending}
	default:
		if status := fieldOf(object, "Status"); status.IsValid() {
			status.SetZero()
		}
	}
	if set, ok := object.(*appsv1.DaemonSet); ok {
		countTemplates(set, nil)
	}
	if s.kind.generation {
		accessor(object).SetGeneration(1)
	}
}

func (s strategy) PrepareForUpdate(_ context.Context, object, old runtime.Object) {
	metadata, oldMetadata := accessor(object), accessor(old)
	metadata.SetGeneration(oldMetadata.GetGeneration())
	if s.forStatus {
		fieldOf(object, "Spec").Set(fieldOf(old, "Spec"))
		metadata.SetLabels(oldMetadata.GetLabels())
		return
	}
	if status := fieldOf(object, "Status"); status.IsValid() {
		status.Set(fieldOf(old, "Status"))
	}
	if set, ok := object.(*appsv1.DaemonSet); ok {
		countTemplates(set, old.(*appsv1.DaemonSet))
	}
	if s.kind.generation && !sameDesire(object, old) {
		metadata.SetGeneration(oldMetadata.GetGeneration() + 1)
	}
}

func (s strategy) Validate(ctx context.Context, object runtime.Object) field.ErrorList {
	return validate(ctx, object)
}

func (s strategy) ValidateUpdate(ctx context.Context, object, _ runtime.Object) field.ErrorList {
	return validate(ctx, object)
}

func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (strategy) Canonicalize(runtime.Object) {}

func (strategy) AllowCreateOnUpdate() bool { return false }

func (strategy) AllowUnconditionalUpdate() bool { return true }

// GetResetFields names what PrepareForUpdate resets, so that server-side apply gives nobody ownership of it.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	reset := "status"
	if s.forStatus {
		reset = "spec"
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(s.kind.version.String()): fieldpath.NewSet(fieldpath.MakePathOrDie(reset)),
	}
}

// sameDesire tells whether two objects of one kind differ in nothing but type, metadata and status.
func sameDesire(a, b runtime.Object) bool {
	valueA, valueB := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range valueA.NumField() {
		switch valueA.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
		default:
			if !equality.Semantic.DeepEqual(valueA.Field(i).Interface(), valueB.Field(i).Interface()) {
				return false
			}
		}
	}
	return true
}

func accessor(object runtime.Object) metav1.Object {
	metadata, err := meta.Accessor(object)
	if err != nil {
		panic(err) // every kind in the table has metadata
	}
	return metadata
}
