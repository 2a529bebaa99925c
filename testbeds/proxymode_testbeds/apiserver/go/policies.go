package main

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// validatePolicy compiles every expression of a policy, so that one with a mistake is refused when it is applied, as
// kube-apiserver does, and not found out (or, with failurePolicy Ignore, never found out) when it is evaluated.
func validatePolicy(policy *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	var errors field.ErrorList
	spec := field.NewPath("spec")
	check := func(path *field.Path, accessor cel.ExpressionAccessor, result cel.CompilationResult) {
		if result.Error != nil {
			errors = append(errors, field.Invalid(path, accessor.GetExpression(), result.Error.Error()))
		}
	}
	everything := cel.OptionalVariableDeclarations{HasParams: policy.Spec.ParamKind != nil, HasAuthorizer: true}
	withoutAuthorizer := cel.OptionalVariableDeclarations{HasParams: everything.HasParams}

	for i := range policy.Spec.MatchConditions {
		condition := (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i])
		check(spec.Child("matchConditions").Index(i).Child("expression"), condition, compiler.CompileCELExpression(condition, everything, environment.NewExpressions))
	}
	for i, variable := range policy.Spec.Variables {
		accessor := &validating.Variable{Name: variable.Name, Expression: variable.Expression}
		check(spec.Child("variables").Index(i).Child("expression"), accessor, compiler.CompileAndStoreVariable(accessor, everything, environment.NewExpressions))
	}
	for i, validation := range policy.Spec.Validations {
		path := spec.Child("validations").Index(i)
		accessor := &validating.ValidationCondition{Expression: validation.Expression}
		check(path.Child("expression"), accessor, compiler.CompileCELExpression(accessor, everything, environment.NewExpressions))
		if validation.MessageExpression != "" {
			accessor := &validating.MessageExpressionCondition{MessageExpression: validation.MessageExpression}
			check(path.Child("messageExpression"), accessor, compiler.CompileCELExpression(accessor, withoutAuthorizer, environment.NewExpressions))
		}
	}
	return errors
}
