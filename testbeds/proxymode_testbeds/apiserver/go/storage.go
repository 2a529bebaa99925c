package main

import (
	"context"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// newResources makes the REST endpoints of one kind, by path: the resource, and its status where it has one.
func newResources(k *kind, options generic.RESTOptionsGetter) (map[string]rest.Storage, error) {
	attributes := func(object runtime.Object) (labels.Set, fields.Set, error) {
		metadata := accessor(object)
		selectable := fields.Set{"metadata.name": metadata.GetName(), "metadata.namespace": metadata.GetNamespace()}
		if k.fields != nil {
			for name, value := range k.fields(object) {
				selectable[name] = value
			}
		}
		return metadata.GetLabels(), selectable, nil
	}
	groupResource := schema.GroupResource{Group: k.version.Group, Resource: k.resource}
	main := newStrategy(k, false)
	store := &registry.Store{
		NewFunc:     func() runtime.Object { return newLike(k.object) },
		NewListFunc: func() runtime.Object { return newLike(k.list) },
		PredicateFunc: func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attributes}
		},
		DefaultQualifiedResource:  groupResource,
		SingularQualifiedResource: schema.GroupResource{Group: k.version.Group, Resource: k.singular()},
		CreateStrategy:            main,
		UpdateStrategy:            main,
		DeleteStrategy:            main,
		ResetFieldsStrategy:       main,
		TableConvertor:            rest.NewDefaultTableConvertor(groupResource),
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: attributes}); err != nil {
		return nil, err
	}
	resources := map[string]rest.Storage{k.resource: &resource{store, k}}
	if k.hasStatus() {
		statusStore := *store
		status := newStrategy(k, true)
		statusStore.UpdateStrategy = status
		statusStore.ResetFieldsStrategy = status
		resources[k.resource+"/status"] = &statusResource{&statusStore}
	}
	return resources, nil
}

func newLike(object runtime.Object) runtime.Object {
	return reflect.New(reflect.TypeOf(object).Elem()).Interface().(runtime.Object)
}

type resource struct {
	*registry.Store
	kind *kind
}

func (r *resource) ShortNames() []string { return r.kind.shortNames }

// statusResource hides everything of a store but reading and updating one object.
type statusResource struct{ store *registry.Store }

func (r *statusResource) New() runtime.Object { return r.store.New() }

func (r *statusResource) Destroy() {} // the store is the resource's to destroy

func (r *statusResource) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

func (r *statusResource) Update(ctx context.Context, name string, update rest.UpdatedObjectInfo, onCreate rest.ValidateObjectFunc, onUpdate rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	const forceAllowCreate = false // a status cannot come before its object
	return r.store.Update(ctx, name, update, onCreate, onUpdate, forceAllowCreate, options)
}

func (r *statusResource) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *statusResource) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}
