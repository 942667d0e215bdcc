// cuBLASLt's calls that runtime/cuda/matmul.cuh makes, on the host: a plain product in the result's type, then the epilogue.
// Matrices are column-major. Operands and results have to lie in device memory whole, or the call fails.
#include "../cuda/cublaslt_api.h"
#include "host_api.h"
#include "scheduler.h"
#include "types.h"

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque {
  cublasComputeType_t compute;
  int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
};
struct cublasLtMatrixLayoutOpaque {
  cudaDataType type;
  int64_t rows, columns, ld;
  int32_t batch = 1;
  int64_t next = 0;
};
struct cublasLtMatmulPreferenceOpaque {
  size_t workspace = 0;
};

namespace tsr::emulation {
bool on_device(const void* p, size_t bytes, const char* what);

namespace {
constexpr size_t kProductWorkspace = 4096;  // what the stand-in claims to need, so that a caller which gives none is found out

template <class T>
T epilogue(T x, cublasLtEpilogue_t kind) {
  if (kind == CUBLASLT_EPILOGUE_RELU || kind == CUBLASLT_EPILOGUE_RELU_BIAS) return x < 0 ? T(0) : x;
  if (kind != CUBLASLT_EPILOGUE_GELU && kind != CUBLASLT_EPILOGUE_GELU_BIAS) return x;
  return T(0.5) * x * (1 + T(tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x))));
}

template <class T, class In, class Out>
void multiply(const cublasLtMatmulDescOpaque& op, T alpha, T beta, const In* a, const cublasLtMatrixLayoutOpaque& la, const In* b, const cublasLtMatrixLayoutOpaque& lb, const Out* c,
              const cublasLtMatrixLayoutOpaque& lc, Out* d, const cublasLtMatrixLayoutOpaque& ld) {
  const int64_t m = ld.rows, n = ld.columns, k = op.transpose_a != CUBLAS_OP_N ? la.rows : la.columns;
  const int64_t a_row = op.transpose_a != CUBLAS_OP_N ? la.ld : 1, a_depth = op.transpose_a != CUBLAS_OP_N ? 1 : la.ld;
  const int64_t b_depth = op.transpose_b != CUBLAS_OP_N ? lb.ld : 1, b_column = op.transpose_b != CUBLAS_OP_N ? 1 : lb.ld;
  std::vector<T> sums(static_cast<size_t>(m));
  for (int64_t j = 0; j < n; ++j) {
    std::fill(sums.begin(), sums.end(), T(0));
    for (int64_t p = 0; p < k; ++p) {
      const T factor = T(b[p * b_depth + j * b_column]);
      for (int64_t i = 0; i < m; ++i) sums[size_t(i)] += T(a[i * a_row + p * a_depth]) * factor;
    }
    for (int64_t i = 0; i < m; ++i) {
      T x = alpha * sums[size_t(i)];
      if (beta != 0) x += beta * T(c[i + j * lc.ld]);
      if (op.bias != nullptr && (op.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) x += static_cast<const T*>(op.bias)[i];
      d[i + j * ld.ld] = Out(epilogue(x, op.epilogue));
    }
  }
}

size_t size_of(cudaDataType type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_16BF ? 2 : 4; }

bool whole(const void* p, const cublasLtMatrixLayoutOpaque& l) {
  const int64_t last = (l.batch - 1) * l.next + (l.columns - 1) * l.ld + l.rows;
  return on_device(p, size_t(last) * size_of(l.type), "cublasLtMatmul");
}

template <class T, class In, class Out>
void multiply_batch(const cublasLtMatmulDescOpaque& op, double alpha, double beta, const void* a, const cublasLtMatrixLayoutOpaque& la, const void* b,
                    const cublasLtMatrixLayoutOpaque& lb, const void* c, const cublasLtMatrixLayoutOpaque& lc, void* d, const cublasLtMatrixLayoutOpaque& ld) {
  for (int64_t i = 0; i < ld.batch; ++i)
    multiply<T, In, Out>(op, T(alpha), T(beta), static_cast<const In*>(a) + i * la.next, la, static_cast<const In*>(b) + i * lb.next, lb, static_cast<const Out*>(c) + i * lc.next, lc,
                static_cast<Out*>(d) + i * ld.next, ld);
}
}  // namespace
}  // namespace tsr::emulation

extern "C" {
using namespace tsr::emulation;
constexpr cublasStatus_t kInvalid = cublasStatus_t(7);  // CUBLAS_STATUS_INVALID_VALUE

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return *handle = new cublasLtContext, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return delete handle, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* out, cublasComputeType_t compute, cudaDataType) {
  *out = new cublasLtMatmulDescOpaque{compute};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t op) { return delete op, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t which, const void* value, size_t bytes) {
  void* to = nullptr;
  size_t room = 4;
  if (which == CUBLASLT_MATMUL_DESC_TRANSA) to = &op->transpose_a;
  if (which == CUBLASLT_MATMUL_DESC_TRANSB) to = &op->transpose_b;
  if (which == CUBLASLT_MATMUL_DESC_EPILOGUE) to = &op->epilogue;
  if (which == CUBLASLT_MATMUL_DESC_BIAS_POINTER) to = &op->bias, room = sizeof op->bias;
  if (to == nullptr || bytes != room) return kInvalid;
  memcpy(to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* out, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld) {
  if (ld < int64_t(rows)) return kInvalid;
  *out = new cublasLtMatrixLayoutOpaque{type, int64_t(rows), int64_t(columns), ld};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return delete layout, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t which, const void* value, size_t bytes) {
  if (which == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && bytes == 4) return memcpy(&layout->batch, value, bytes), CUBLAS_STATUS_SUCCESS;
  if (which == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && bytes == 8) return memcpy(&layout->next, value, bytes), CUBLAS_STATUS_SUCCESS;
  return kInvalid;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* out) { return *out = new cublasLtMatmulPreferenceOpaque, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return delete p, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t which, const void* value, size_t bytes) {
  if (which != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES || bytes != sizeof p->workspace) return kInvalid;
  return memcpy(&p->workspace, value, bytes), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t* found, int* count) {
  *count = 0;
  if (wanted < 1 || preference->workspace < kProductWorkspace) return CUBLAS_STATUS_SUCCESS;
  *found = {};
  found->workspaceSize = kProductWorkspace;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t op, const void* alpha, const void* a, cublasLtMatrixLayout_t la, const void* b, cublasLtMatrixLayout_t lb,
                              const void* beta, const void* c, cublasLtMatrixLayout_t lc, void* d, cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t*, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const bool wide = ld->type == CUDA_R_64F;
  const double x = wide ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha), y = wide ? *static_cast<const double*>(beta) : *static_cast<const float*>(beta);
  const bool brief = la->type == CUDA_R_16BF && (ld->type == CUDA_R_32F || ld->type == CUDA_R_16BF), rounded = brief && ld->type == CUDA_R_16BF;  // 16 bits, added in float
  if (lb->type != la->type || lc->type != ld->type || (la->type != ld->type && !brief) || (ld->type != CUDA_R_64F && ld->type != CUDA_R_32F && !rounded)) return kInvalid;
  if (rounded && op->bias != nullptr) return kInvalid;  // of 16 bits, too: nobody calls it so
  if (workspace_bytes < kProductWorkspace || !on_device(workspace, workspace_bytes, "cublasLtMatmul's workspace")) return kInvalid;
  if (!whole(a, *la) || !whole(b, *lb) || !whole(d, *ld) || (y != 0 && !whole(c, *lc))) return kInvalid;
  if (op->bias != nullptr && !on_device(op->bias, size_t(ld->rows) * size_of(ld->type), "cublasLtMatmul's bias")) return kInvalid;
  enqueue(stream, [=, op = *op, la = *la, lb = *lb, lc = *lc, ld = *ld] {
    if (wide) multiply_batch<double, double, double>(op, x, y, a, la, b, lb, c, lc, d, ld);
    else if (rounded) multiply_batch<float, __nv_bfloat16, __nv_bfloat16>(op, x, y, a, la, b, lb, c, lc, d, ld);
    else if (brief) multiply_batch<float, __nv_bfloat16, float>(op, x, y, a, la, b, lb, c, lc, d, ld);
    else multiply_batch<float, float, float>(op, x, y, a, la, b, lb, c, lc, d, ld);
  });
  return CUBLAS_STATUS_SUCCESS;
}
}
