// Matrix products: cuBLASLt where it takes the shape, else (or built with TSR_NO_CUBLASLT) a tiled kernel of our own, so
// that nothing is unsupported. Matrices are row-major.
#pragma once
#include "context.cuh"
#include "math.cuh"

namespace tsr::cuda {

/// What happens to an element of the product before it is stored; the order is bias, then activation.
enum class Epilogue : int { none, bias, relu, bias_relu, gelu_tanh, bias_gelu_tanh };

/// c[i][j] = sum over p of a[i][p] * b[p][j], `batch` times.
struct Matmul {
  int64_t m, n, k;
  int64_t lda, ldb, ldc;  // distance of rows in memory
  bool transposed;        // a is stored as k rows of m
  int64_t batch, next_a, next_b, next_c;  // number of products, and their distance
  Epilogue epilogue;
};

constexpr int kProductTile = 64, kProductDepth = 16;

/// Our own product: 64 x 64 results per block of 256 threads, 4 x 4 per thread. Grid: tiles of columns x of rows, batch.
/// Sums are of type T; In and Out are T, or __nv_bfloat16 with sums in float.
template <class T, class In, class Out>
__global__ void __launch_bounds__(256) product_tile(Matmul s, const In* __restrict__ a, const In* __restrict__ b, const T* __restrict__ bias, Out* __restrict__ c) {
  __shared__ T a_tile[kProductDepth][kProductTile + 1], b_tile[kProductDepth][kProductTile];
  const int64_t across = (s.n + kProductTile - 1) / kProductTile;
  const int64_t row = blockIdx.x / across * kProductTile, column = blockIdx.x % across * kProductTile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  for (int64_t item = blockIdx.y; item < s.batch; item += gridDim.y) {
    const In* const a_item = a + item * s.next_a;
    const In* const b_item = b + item * s.next_b;
    T sum[4][4] = {};
    for (int64_t first = 0; first < s.k; first += kProductDepth) {
      for (int i = threadIdx.x; i < kProductTile * kProductDepth; i += 256) {
        // Neighbouring threads read neighbouring elements, along whichever axis those lie.
        const int r = s.transposed ? i % kProductTile : i / kProductDepth, p = s.transposed ? i / kProductTile : i % kProductDepth;
        const bool inside = row + r < s.m && first + p < s.k;
        a_tile[p][r] = inside ? T(a_item[s.transposed ? (first + p) * s.lda + row + r : (row + r) * s.lda + first + p]) : T(0);
        const int q = i / kProductTile, j = i % kProductTile;
        b_tile[q][j] = first + q < s.k && column + j < s.n ? T(b_item[(first + q) * s.ldb + column + j]) : T(0);
      }
      __syncthreads();
#pragma unroll
      for (int p = 0; p < kProductDepth; ++p)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] += a_tile[p][ty * 4 + i] * b_tile[p][j * 16 + tx];
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t y = row + ty * 4 + i, x = column + j * 16 + tx;
        if (y >= s.m || x >= s.n) continue;
        T value = sum[i][j];
        if (bias != nullptr) value += bias[x];
        if (s.epilogue == Epilogue::relu || s.epilogue == Epilogue::bias_relu) value = tsr_relu(value);
        if (s.epilogue == Epilogue::gelu_tanh || s.epilogue == Epilogue::bias_gelu_tanh) value = tsr_gelu_tanh(value);
        c[item * s.next_c + y * s.ldc + x] = Out(value);
      }
    }
  }
}

#ifndef TSR_NO_CUBLASLT
/// Chooses how cuBLASLt computes a product. It thinks in columns, so it is given c^T = b^T a^T.
template <class T, class In, class Out>
void plan_product(Context& context, const Matmul& s, ProductPlan& plan) {
  if (context.blas == nullptr) return;
  const cudaDataType type = sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_64F, read = sizeof(In) == 2 ? CUDA_R_16BF : type, written = sizeof(Out) == 2 ? CUDA_R_16BF : type;
  const cublasComputeType_t compute = sizeof(T) == 4 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F;
  const cublasOperation_t plain = CUBLAS_OP_N, transpose = CUBLAS_OP_T;
  constexpr cublasLtEpilogue_t epilogues[] = {CUBLASLT_EPILOGUE_DEFAULT,   CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU,
                                              CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS};
  const cublasLtEpilogue_t epilogue = epilogues[int(s.epilogue)];
  const int32_t batch = int32_t(s.batch);
  bool good = s.batch <= INT32_MAX;
  auto need = [&](cublasStatus_t status) { good = good && status == CUBLAS_STATUS_SUCCESS; };
  auto layout = [&](cublasLtMatrixLayout_t* out, cudaDataType element, int64_t rows, int64_t columns, int64_t ld, int64_t next) {
    need(cublasLtMatrixLayoutCreate(out, element, uint64_t(rows), uint64_t(columns), ld));
    if (!good || batch == 1) return;
    need(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch));
    need(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof next));
  };
  need(cublasLtMatmulDescCreate(&plan.operation, compute, type));
  if (!good) return;
  need(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, &plain, sizeof plain));
  need(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, s.transposed ? &transpose : &plain, sizeof plain));
  need(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
  layout(&plan.b, read, s.n, s.k, s.ldb, s.next_b);
  layout(&plan.a, read, s.transposed ? s.m : s.k, s.transposed ? s.k : s.m, s.lda, s.next_a);
  layout(&plan.c, written, s.n, s.m, s.ldc, s.next_c);
  cublasLtMatmulPreference_t preference = nullptr;
  need(cublasLtMatmulPreferenceCreate(&preference));
  if (good) {
    const size_t limit = context.has_workspace() ? Context::kBlasWorkspace : 0;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    need(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof limit));
    need(cublasLtMatmulAlgoGetHeuristic(context.blas, plan.operation, plan.b, plan.a, plan.c, plan.c, preference, 1, &found, &count));
    plan.own = !good || count == 0;
    plan.algorithm = found.algo;
    plan.workspace = found.workspaceSize;
  }
  if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
}

/// Whether cuBLASLt took the product.
template <class T, class In, class Out>
bool blas_matmul(Context& context, ProductPlan& plan, const In* a, const In* b, const T* bias, Out* c) {
  if (plan.own) return false;
  const T one = 1, zero = 0;
  plan.own = bias != nullptr && cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias) != CUBLAS_STATUS_SUCCESS;
  plan.own = plan.own || cublasLtMatmul(context.blas, plan.operation, &one, b, plan.b, a, plan.a, &zero, c, plan.c, c, plan.c, &plan.algorithm, context.blas_workspace, plan.workspace,
                                        context.stream) != CUBLAS_STATUS_SUCCESS;
  return !plan.own;  // refused after all: from now on our kernel
}
#endif

/// Puts a product on the context's stream. `shape` must outlive the context's use of it: it is a constant of the program.
/// Operands are of type T, or of 16 bits, which are multiplied exactly and added in T. So is the result, which then takes no bias.
template <class T, class In, class Out>
void matmul(Context& context, const Matmul& shape, const In* a, const In* b, const T* bias, Out* c) {
#ifndef TSR_NO_CUBLASLT
  std::unique_ptr<ProductPlan>& plan = context.plans[&shape];
  if (plan == nullptr) {
    plan = std::make_unique<ProductPlan>();
    plan_product<T, In, Out>(context, shape, *plan);
  }
  if (blas_matmul(context, *plan, a, b, bias, c)) return;
#endif
  const int64_t tiles = ((shape.m + kProductTile - 1) / kProductTile) * ((shape.n + kProductTile - 1) / kProductTile);
  const dim3 grid(unsigned(tiles), unsigned(shape.batch < 65535 ? shape.batch : 65535));
  product_tile<T, In, Out><<<grid, 256, 0, context.stream>>>(shape, a, b, bias, c);
}

}  // namespace tsr::cuda
