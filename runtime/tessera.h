/* C interface of a compiled unit (lib<unit>.so). Plain C99: opaque contexts, numeric error codes, no
 * global state, no exit. One context may be used by one thread at a time; contexts are independent.
 * Arrays passed in and out are dense and row-major in the types that tessera_tensor reports. */
#ifndef TESSERA_H
#define TESSERA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TESSERA_API_VERSION 2
#define TESSERA_MAX_RANK 8

/* Return codes. */
enum {
  TESSERA_OK = 0,
  TESSERA_BAD_DATA = 1,     /* a file, a tensor or a value is wrong; see tessera_last_error */
  TESSERA_USAGE = 2,        /* a wrong argument: null pointer, index out of range, unknown name */
  TESSERA_INTERNAL = 3,     /* a defect of the library; please report it */
  TESSERA_NO_MEMORY = 4
};

/* Element types, the values of tessera_tensor.dtype. */
enum {
  TESSERA_F32, TESSERA_F64, TESSERA_BF16, TESSERA_F16, TESSERA_I8, TESSERA_I16, TESSERA_I32, TESSERA_I64,
  TESSERA_U8, TESSERA_BOOL, TESSERA_C64, TESSERA_C128
};

/* Which function an input or output belongs to. */
enum { TESSERA_TRAIN = 0, TESSERA_INFER = 1 };

typedef struct tessera_context tessera_context;

typedef struct tessera_options {
  int32_t threads;          /* 0: OMP_NUM_THREADS, else the processors available. Results depend on it in rounding. */
  int32_t forward_only;     /* not 0: no gradients, no optimizer state, less memory */
  uint64_t seed;            /* of the initial parameters and of random operations */
  const char* optimizer;    /* "sgd", "momentum", "adam", "adamw"; NULL: the source's, else "adamw" */
  double momentum, beta1, beta2, eps, weight_decay;  /* NaN: the default of that optimizer */
  double clip;              /* largest global gradient norm; 0: none */
} tessera_options;

typedef struct tessera_tensor {
  const char* name;
  int32_t dtype, rank;
  int64_t shape[TESSERA_MAX_RANK];
  int64_t row_stride;       /* elements between rows of the last axis, in `data` and `grad` */
  int64_t plane_bytes;      /* complex parameters: `data` and `grad` hold the real parts, and so many bytes later the imaginary ones */
  void* data;               /* parameters: their storage, valid while the context lives; else NULL */
  void* grad;               /* parameters: their gradient after tessera_value_and_grad; NULL when forward_only */
  int64_t index_bound;      /* integer inputs: values are 0 .. index_bound-1; 0: unchecked */
  int64_t ignore_index;     /* a further allowed value; INT64_MIN: none */
  int32_t batched;          /* the first axis counts samples */
} tessera_tensor;

/* The programs of this unit. */
int tessera_api_version(void);
int tessera_program_count(void);
const char* tessera_program_name(int index);          /* NULL when out of range */

/* Fills *options with the defaults. */
void tessera_default_options(tessera_options* options);

/* Creates a context with initialised parameters. options may be NULL. On failure *context is NULL and
 * the message is copied to error (cut to error_size, may be NULL). */
int tessera_create(const char* program, const tessera_options* options, tessera_context** context, char* error, size_t error_size);
void tessera_destroy(tessera_context* context);       /* NULL is allowed */

/* Message of the last call that failed on this context; "" before. Valid until the next call. */
const char* tessera_last_error(const tessera_context* context);

int tessera_param_count(const tessera_context* context);
int tessera_param_info(const tessera_context* context, int index, tessera_tensor* out);
int tessera_get_param(tessera_context* context, int index, void* dense);
int tessera_set_param(tessera_context* context, int index, const void* dense);
int tessera_get_grad(tessera_context* context, int index, void* dense);

int tessera_has_function(const tessera_context* context, int function);
int tessera_input_count(const tessera_context* context, int function);
int tessera_input_info(const tessera_context* context, int function, int index, tessera_tensor* out);
int tessera_output_count(const tessera_context* context, int function);
int tessera_output_info(const tessera_context* context, int function, int index, tessera_tensor* out);

/* inputs: one pointer per input of the train function. values: one double per output, the loss first,
 * then the metrics. Gradients stay in the context. Integer inputs are checked against their bounds. */
int tessera_value_and_grad(tessera_context* context, const void* const* inputs, double* values);

/* The same, then one optimizer update at learning rate lr. grad_norm may be NULL. */
int tessera_train_step(tessera_context* context, const void* const* inputs, double lr, double* values, double* grad_norm);
int64_t tessera_step_count(const tessera_context* context);   /* updates done */

/* samples: how many of the batch to compute (0: all); arrays hold the whole batch or that many samples. */
int tessera_infer(tessera_context* context, const void* const* inputs, void* const* outputs, int64_t samples);

/* Weights as safetensors; a checkpoint can be loaded, too. Saving is atomic. */
int tessera_load_weights(tessera_context* context, const char* path);
int tessera_save_weights(tessera_context* context, const char* path);

#ifdef __cplusplus
}
#endif

#endif
