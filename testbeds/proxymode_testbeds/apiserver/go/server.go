package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	extoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apimachineryversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	authorizerunion "k8s.io/apiserver/pkg/authorization/union"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	utilcompatibility "k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	basecompatibility "k8s.io/component-base/compatibility"

	noopoteltrace "go.opentelemetry.io/otel/trace/noop"
	generated "proxymode.io/apiserver/openapi"
)

// guestAddress is where a qemu guest with user networking finds the host's loopback interface.
var guestAddress = net.IPv4(10, 0, 2, 2)

type serverOptions struct {
	etcd        string
	bindAddress net.IP
	port        int
	certDir     string
	tokenFile   string
	auditPolicy string
	auditLog    string
	kubeVersion string
}

// run serves until ctx ends.
func run(ctx context.Context, options serverOptions) error {
	extension := extoptions.NewCustomResourceDefinitionsServerOptions(os.Stdout, os.Stderr)
	recommended := extension.RecommendedOptions
	config, err := newConfig(options, extension)
	if err != nil {
		return err
	}
	client, err := addAuthorization(config, recommended)
	if err != nil {
		return err
	}

	// The server does not exist yet when its handler chain is declared.
	var server *genericapiserver.GenericAPIServer
	config.BuildHandlerChainFunc = withGroupDiscovery(func() *genericapiserver.GenericAPIServer { return server })
	extensions := &apiserver.Config{GenericConfig: config, ExtraConfig: apiserver.ExtraConfig{
		CRDRESTOptionsGetter: extoptions.NewCRDRESTOptionsGetter(*recommended.Etcd, config.ResourceTransformers, config.StorageObjectCountTracker),
		MasterCount:          1,
		ServiceResolver:      noServices{},
		AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, config.LoopbackClientConfig, noopoteltrace.NewTracerProvider()),
	}}
	crds, err := extensions.Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	server = crds.GenericAPIServer
	if err := installCoreKinds(server, config, *recommended.Etcd); err != nil {
		return err
	}
	server.AddPostStartHookOrDie("namespaces", func(hook genericapiserver.PostStartHookContext) error {
		return createNamespaces(hook, client, "default", "kube-system")
	})
	server.AddPostStartHookOrDie("discovery-role", func(hook genericapiserver.PostStartHookContext) error {
		return createDiscoveryRole(hook, client)
	})
	return server.PrepareRun().RunWithContext(ctx)
}

func newConfig(options serverOptions, extension *extoptions.CustomResourceDefinitionsServerOptions) (*genericapiserver.RecommendedConfig, error) {
	recommended := extension.RecommendedOptions
	recommended.Etcd.StorageConfig.Transport.ServerList = strings.Split(options.etcd, ",")
	recommended.SecureServing.BindAddress = options.bindAddress
	recommended.SecureServing.BindPort = options.port
	recommended.SecureServing.ServerCert.CertDirectory = options.certDir
	recommended.SecureServing.ServerCert.PairName = "apiserver"
	recommended.Audit.PolicyFile = options.auditPolicy
	recommended.Audit.LogOptions.Path = options.auditLog
	// These delegate to another API server, or need one to run on; this one is alone.
	recommended.Authentication = nil
	recommended.Authorization = nil
	recommended.CoreAPI = nil
	recommended.Admission = nil
	recommended.EgressSelector = nil
	recommended.Features.EnablePriorityAndFairness = false
	if err := extension.Complete(); err != nil {
		return nil, err
	}
	addresses := []net.IP{net.IPv4(127, 0, 0, 1), guestAddress}
	if err := recommended.SecureServing.MaybeDefaultWithSelfSignedCerts("localhost", nil, addresses); err != nil {
		return nil, err
	}

	config := genericapiserver.NewRecommendedConfig(apiserver.Codecs)
	if err := extension.ServerRunOptions.ApplyTo(&config.Config); err != nil {
		return nil, err
	}
	if err := recommended.ApplyTo(config); err != nil {
		return nil, err
	}
	if err := extension.APIEnablement.ApplyTo(&config.Config, apiserver.DefaultAPIResourceConfigSource(), apiserver.Scheme); err != nil {
		return nil, err
	}
	pretended, err := apimachineryversion.ParseSemantic(options.kubeVersion)
	if err != nil {
		return nil, fmt.Errorf("--kube-version %q: must look like v1.36.4: %w", options.kubeVersion, err)
	}
	config.EffectiveVersion = pretendedVersion{utilcompatibility.DefaultBuildEffectiveVersion(), pretended}
	config.Authentication.Authenticator = group.NewAuthenticatedGroupAdder(bearertoken.New(&tokenFile{path: options.tokenFile}))

	definitions := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generated.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(scheme, apiserver.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIConfig.Info.Title = "proxymode test API server"
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	config.OpenAPIV3Config.Info.Title = config.OpenAPIConfig.Info.Title
	return config, nil
}

// addAuthorization sets up RBAC, namespace lifecycle and ValidatingAdmissionPolicy, on a client of this very server.
func addAuthorization(config *genericapiserver.RecommendedConfig, recommended *genericoptions.RecommendedOptions) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(config.LoopbackClientConfig)
	if err != nil {
		return nil, err
	}
	dynamicClient, err := dynamic.NewForConfig(config.LoopbackClientConfig)
	if err != nil {
		return nil, err
	}
	config.SharedInformerFactory = informers.NewSharedInformerFactory(client, 10*time.Minute)
	config.Authorization.Authorizer = authorizerunion.New(
		authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup), // tests' administrators, and this server itself
		newRBACAuthorizer(config.SharedInformerFactory),
	)
	admission := genericoptions.NewAdmissionOptions()
	// Their configuration kinds are not served here, and their informers would wait for them for ever.
	admission.DisablePlugins = []string{"MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"}
	return client, admission.ApplyTo(&config.Config, config.SharedInformerFactory, client, dynamicClient, recommended.FeatureGate, config.EffectiveVersion)
}

// installCoreKinds adds the table of kinds.go to the server, one API group after the other.
func installCoreKinds(server *genericapiserver.GenericAPIServer, config *genericapiserver.RecommendedConfig, etcd genericoptions.EtcdOptions) error {
	groups := map[schema.GroupVersion]map[string]rest.Storage{}
	for _, k := range kinds {
		etcd.StorageConfig.Codec = codecs.LegacyCodec(k.version)
		etcd.StorageConfig.Prefix = "/registry"
		etcd.StorageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
		getter := etcd.CreateRESTOptionsGetter(&genericoptions.SimpleStorageFactory{StorageConfig: etcd.StorageConfig}, nil)
		resources, err := newResources(k, getter)
		if err != nil {
			return fmt.Errorf("%s: %w", k.resource, err)
		}
		for _, served := range append([]schema.GroupVersion{k.version}, k.alsoServedAs...) {
			if groups[served] == nil {
				groups[served] = map[string]rest.Storage{}
			}
			for path, storage := range resources {
				groups[served][path] = storage
			}
		}
	}
	for version, resources := range groups {
		info := genericapiserver.NewDefaultAPIGroupInfo(version.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
		info.PrioritizedVersions = []schema.GroupVersion{version}
		info.VersionedResourcesStorageMap[version.Version] = resources
		install := server.InstallAPIGroup
		if version.Group == "" {
			install = func(info *genericapiserver.APIGroupInfo) error { return server.InstallLegacyAPIGroup("/api", info) }
		}
		if err := install(&info); err != nil {
			return fmt.Errorf("API group %q: %w", version.Group, err)
		}
	}
	return nil
}

func createNamespaces(ctx context.Context, client kubernetes.Interface, names ...string) error {
	for _, name := range names {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("namespace %s: %w", name, err)
		}
	}
	return nil
}

// pretendedVersion changes only what /version answers; features and CEL libraries stay those of the build.
type pretendedVersion struct {
	basecompatibility.EffectiveVersion
	version *apimachineryversion.Version
}

func (p pretendedVersion) Info() *version.Info {
	info := p.EffectiveVersion.Info()
	info.Major = fmt.Sprint(p.version.Major())
	info.Minor = fmt.Sprint(p.version.Minor())
	info.GitVersion = "v" + p.version.String()
	return info
}

// noServices refuses webhooks that are reached through a Service: there is no Service network to reach it by.
type noServices struct{}

func (noServices) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	return nil, fmt.Errorf("Service %s/%s:%d: this API server reaches no Services", namespace, name, port)
}
