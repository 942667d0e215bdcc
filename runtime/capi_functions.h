// The exported functions of tessera.h; included by capi.h only.
#pragma once

#define TESSERA_EXPORT __attribute__((visibility("default")))

extern "C" {

TESSERA_EXPORT int tessera_api_version(void) { return TESSERA_API_VERSION; }
TESSERA_EXPORT int tessera_program_count(void) { return tsr::unit_programs().count; }
TESSERA_EXPORT const char* tessera_program_name(int index) {
  const tsr::ProgramList list = tsr::unit_programs();
  return index >= 0 && index < list.count ? list.programs[index]->name : nullptr;
}

TESSERA_EXPORT void tessera_default_options(tessera_options* options) {
  if (!options) return;
  *options = tessera_options();
  options->momentum = options->beta1 = options->beta2 = options->eps = options->weight_decay = NAN;
}

TESSERA_EXPORT int tessera_create(const char* program, const tessera_options* options, tessera_context** context, char* error, size_t error_size) {
  if (!context) return TESSERA_USAGE;
  *context = nullptr;
  tessera_options defaults;
  tessera_default_options(&defaults);
  std::string message;
  const int code = tsr::capi::guarded(&message, [&] {
    if (!program) throw tsr::capi::wrong_argument("the program's name is a null pointer");
    tsr::capi::create(program, options ? *options : defaults, context);
  });
  if (error && error_size > 0) {
    strncpy(error, message.c_str(), error_size - 1);
    error[error_size - 1] = 0;
  }
  return code;
}

TESSERA_EXPORT void tessera_destroy(tessera_context* context) { delete context; }
TESSERA_EXPORT const char* tessera_last_error(const tessera_context* context) { return context ? context->message.c_str() : "the context is a null pointer"; }

TESSERA_EXPORT int tessera_param_count(const tessera_context* context) { return context ? context->session.program().param_count : 0; }

TESSERA_EXPORT int tessera_param_info(const tessera_context* context, int index, tessera_tensor* out) {
  return tsr::capi::on(const_cast<tessera_context*>(context), [&] {
    const tsr::Session& session = context->session;
    const tsr::Tensor& param = tsr::capi::element(session.program().params, session.program().param_count, index);
    if (!out) throw tsr::capi::wrong_argument("out is a null pointer");
    tsr::capi::describe(param, out);
    out->data = session.params() + param.offset;
    out->grad = context->forward ? nullptr : session.grads() + param.offset;
  });
}

TESSERA_EXPORT int tessera_get_param(tessera_context* context, int index, void* dense) {
  return tsr::capi::on(context, [&] {
    const tsr::Tensor& param = tsr::capi::element(context->session.program().params, context->session.program().param_count, index);
    if (!dense) throw tsr::capi::wrong_argument("dense is a null pointer");
    tsr::pack(param, context->session.params(), dense);
  });
}

TESSERA_EXPORT int tessera_set_param(tessera_context* context, int index, const void* dense) {
  return tsr::capi::on(context, [&] {
    const tsr::Tensor& param = tsr::capi::element(context->session.program().params, context->session.program().param_count, index);
    if (!dense) throw tsr::capi::wrong_argument("dense is a null pointer");
    tsr::unpack(param, dense, context->session.params());
  });
}

TESSERA_EXPORT int tessera_get_grad(tessera_context* context, int index, void* dense) {
  return tsr::capi::on(context, [&] {
    const tsr::Tensor& param = tsr::capi::element(context->session.program().params, context->session.program().param_count, index);
    tsr::capi::function_of(context, TESSERA_TRAIN);
    if (!dense) throw tsr::capi::wrong_argument("dense is a null pointer");
    tsr::pack(param, context->session.grads(), dense);
  });
}

TESSERA_EXPORT int tessera_has_function(const tessera_context* context, int function) {
  return context && ((function == TESSERA_TRAIN && !context->forward) || (function == TESSERA_INFER && context->session.program().infer));
}

TESSERA_EXPORT int tessera_input_count(const tessera_context* context, int function) {
  return tessera_has_function(context, function) ? tsr::capi::function_of(context, function).input_count : 0;
}
TESSERA_EXPORT int tessera_output_count(const tessera_context* context, int function) {
  return tessera_has_function(context, function) ? tsr::capi::function_of(context, function).output_count : 0;
}

TESSERA_EXPORT int tessera_input_info(const tessera_context* context, int function, int index, tessera_tensor* out) {
  return tsr::capi::on(const_cast<tessera_context*>(context), [&] {
    const tsr::Function& f = tsr::capi::function_of(context, function);
    if (!out) throw tsr::capi::wrong_argument("out is a null pointer");
    tsr::capi::describe(tsr::capi::element(f.inputs, f.input_count, index), out);
  });
}
TESSERA_EXPORT int tessera_output_info(const tessera_context* context, int function, int index, tessera_tensor* out) {
  return tsr::capi::on(const_cast<tessera_context*>(context), [&] {
    const tsr::Function& f = tsr::capi::function_of(context, function);
    if (!out) throw tsr::capi::wrong_argument("out is a null pointer");
    tsr::capi::describe(tsr::capi::element(f.outputs, f.output_count, index), out);
  });
}

TESSERA_EXPORT int tessera_value_and_grad(tessera_context* context, const void* const* inputs, double* values) {
  return tsr::capi::on(context, [&] { tsr::capi::value_and_grad(context, inputs, values); });
}

TESSERA_EXPORT int tessera_train_step(tessera_context* context, const void* const* inputs, double lr, double* values, double* grad_norm) {
  return tsr::capi::on(context, [&] {
    if (!(lr >= 0)) throw tsr::capi::wrong_argument(tsr::format("the learning rate is %g", lr));
    tsr::capi::value_and_grad(context, inputs, values);
    const double norm = context->session.update(context->updater.get(), context->steps, lr);
    ++context->steps;
    if (grad_norm) *grad_norm = norm;
  });
}

TESSERA_EXPORT int64_t tessera_step_count(const tessera_context* context) { return context ? context->steps : 0; }

TESSERA_EXPORT int tessera_infer(tessera_context* context, const void* const* inputs, void* const* outputs, int64_t samples) {
  return tsr::capi::on(context, [&] {
    const tsr::Function& function = tsr::capi::function_of(context, TESSERA_INFER);
    const int64_t count = samples == 0 ? function.batch : samples;
    if (count < 0 || count > function.batch) throw tsr::capi::wrong_argument(tsr::format("samples is %lld; it must be 1 .. %lld", static_cast<long long>(samples), static_cast<long long>(function.batch)));
    tsr::capi::check_inputs(function, inputs, count);
    for (int i = 0; i < function.output_count; ++i)
      if (!outputs || !outputs[i]) throw tsr::capi::wrong_argument("output '" + std::string(function.outputs[i].name) + "' is a null pointer");
    const uint64_t step = static_cast<uint64_t>(context->steps);
    if (count < function.batch) context->partial.infer(&context->session, inputs, outputs, count, context->seed, step);
    else context->session.infer(inputs, outputs, count, context->seed, step);
  });
}

TESSERA_EXPORT int tessera_load_weights(tessera_context* context, const char* path) {
  return tsr::capi::on(context, [&] {
    if (!path) throw tsr::capi::wrong_argument("path is a null pointer");
    tsr::load_weights(context->session.program(), path, context->session.params());
  });
}

TESSERA_EXPORT int tessera_save_weights(tessera_context* context, const char* path) {
  return tsr::capi::on(context, [&] {
    if (!path) throw tsr::capi::wrong_argument("path is a null pointer");
    tsr::save_weights(context->session.program(), context->session.params(), path);
  });
}

}  // extern "C"
