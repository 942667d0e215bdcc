// Matrix products on tensor cores (sm_80): bf16 or fp16 operands, or float ones rounded to tf32, with sums in float. For products
// that take more along than cuBLASLt does: what reads the left operand may change it (prologue), what writes the result may do
// anything with it (epilogue). Sums over the terms run in rising order, in steps of one multiplication, whatever the tile.
//
// The warps of a block share a tile of the result. The operands come through a ring of stages in shared memory, copied
// ahead of the stage that is computed with.
#pragma once
#include "matmul.cuh"
#include "product_operand.cuh"

namespace tsr::mma {

/// A block's tile of the result is Rows x Columns; its warps, Down x Across, share it. At least `Blocks` fit a multiprocessor.
template <int Rows, int Columns, int Down, int Across, int Blocks>
struct ProductCut {
  static constexpr int rows = Rows, columns = Columns, across = Across, threads = 32 * Down * Across, blocks = Blocks;
  static constexpr int stages = 4, stage_bytes = 64;  // of a line, along the terms
  static constexpr int warp_rows = Rows / Down, warp_columns = Columns / Across;
};

/// A prologue that changes nothing.
struct AsItIs {
  static constexpr bool kNothing = true;
};

/// Elements of the left operand pass through `op`: x -> op(x), rounded again.
template <class Op>
struct Mapped {
  static constexpr bool kNothing = false;
  __device__ float operator()(int64_t, int, int, float x) const { return Op()(x); }
};

/// The epilogue that stores: activation(product + bias) + residual. Null pointers are left out; the residual lies as the result does.
template <class Out>
struct Finish {
  Out* c;
  const float *bias, *residual;
  int64_t ld, next;  // distance of rows and of the batch's matrices
  cuda::Epilogue kind;

  __device__ float value(int64_t at, int column, float x) const {
    if (bias != nullptr) x += bias[column];
    if (kind == cuda::Epilogue::relu || kind == cuda::Epilogue::bias_relu) x = tsr_relu(x);
    if (kind == cuda::Epilogue::gelu_tanh || kind == cuda::Epilogue::bias_gelu_tanh) x = tsr_gelu_tanh(x);
    return residual != nullptr ? x + residual[at] : x;
  }
  /// Two neighbouring elements of a row, of which the second may lie beyond it.
  __device__ void operator()(int64_t item, int row, int column, float x, float y, bool both) const {
    const int64_t at = item * next + row * ld + column;
    x = value(at, column, x);
    if (both) y = value(at + 1, column + 1, y);
    if (both && reinterpret_cast<uintptr_t>(c + at) % (2 * sizeof(Out)) == 0) {
      store_two(c + at, x, y);
    } else {
      c[at] = Out(x);
      if (both) c[at + 1] = Out(y);
    }
  }
};

template <class Cut, class E, bool LeftAlong, bool RightAlong>
struct ProductMemory {
  static constexpr int depth = Cut::stage_bytes / int(sizeof(E));
  using Left = Operand<E, LeftAlong, Cut::rows, depth>;
  using Right = Operand<E, RightAlong, Cut::columns, depth>;
  static constexpr int stage = Left::kBytes + Right::kBytes, bytes = Cut::stages * stage;
};

/// One product of the batch. LeftAlong, RightAlong: see Operand. Grid: tiles of the result, batch.
template <class Cut, class E, bool LeftAlong, bool RightAlong, bool Aligned, class Prologue, class Epilogue>
__global__ void __launch_bounds__(Cut::threads, Cut::blocks) product(cuda::Matmul s, const E* __restrict__ a, const E* __restrict__ b, Prologue prologue, Epilogue epilogue) {
  using Memory = ProductMemory<Cut, E, LeftAlong, RightAlong>;
  using Left = typename Memory::Left;
  using Right = typename Memory::Right;
  constexpr int M = Cut::warp_rows / 16, N = Cut::warp_columns / 8, high = 8;
  extern __shared__ __align__(128) char memory[];
  const int rows = int(s.m), columns = int(s.n), terms = int(s.k), steps = (terms + Memory::depth - 1) / Memory::depth;
  // Neighbouring blocks take tiles of `high` rows below each other, so that what they read is read by several of them.
  const int down = (rows + Cut::rows - 1) / Cut::rows, across = (columns + Cut::columns - 1) / Cut::columns;
  const int top = blockIdx.x / (high * across) * high, within = blockIdx.x % (high * across), height = down - top < high ? down - top : high;
  const int row = (top + within % height) * Cut::rows, column = within / height * Cut::columns;
  const int warp = threadIdx.x / 32, own_row = warp / Cut::across * Cut::warp_rows, own_column = warp % Cut::across * Cut::warp_columns;
  for (int64_t item = blockIdx.y; item < s.batch; item += gridDim.y) {
    auto stage = [&](int step) { return memory + step % Cut::stages * Memory::stage; };
    auto fetch = [&](int step) {
      if (step < steps) {
        const int term = step * Memory::depth;
        Left(stage(step)).template fetch<Aligned, Cut::threads>(a + item * s.next_a, s.lda, row, rows, term, terms);
        Right(stage(step) + Left::kBytes).template fetch<Aligned, Cut::threads>(b + item * s.next_b, s.ldb, column, columns, term, terms);
      }
      ptx::copy_async_commit();
    };
    float sums[M][N][4] = {};
    __syncthreads();  // the item before this one is done with
    for (int ahead = 0; ahead < Cut::stages - 1; ++ahead) fetch(ahead);
    for (int step = 0; step < steps; ++step) {
      ptx::copy_async_wait<Cut::stages - 2>();
      __syncthreads();  // the stage is here for all, and the one before it is done with
      fetch(step + Cut::stages - 1);
      const Left left(stage(step));
      const Right right(stage(step) + Left::kBytes);
#pragma unroll
      for (int part = 0; part < Memory::depth / Left::kStep; ++part) {
        uint32_t fragments[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) {
          left.left(fragments[m], own_row + 16 * m, part);
          if constexpr (!Prologue::kNothing) {
            const int r = row + own_row + 16 * m, term = step * Memory::depth + part * Left::kStep;
            Left::map(fragments[m], [&](int i, int j, float x) { return prologue(item, r + i, term + j, x); });
          }
          Left::round(fragments[m]);
        }
#pragma unroll
        for (int n = 0; n < N; n += 2) {
          Columns pair = right.right(own_column + 8 * n, part);
          Right::round(pair);
#pragma unroll
          for (int m = 0; m < M; ++m) {
            Left::multiply(sums[m][n], fragments[m], pair.b[0]);
            Left::multiply(sums[m][n + 1], fragments[m], pair.b[1]);
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int y = row + own_row + 16 * m + threadIdx.x % 32 / 4 + 8 * half;
        if (y >= rows) continue;
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const int x = column + own_column + 8 * n + threadIdx.x % 4 * 2;
          if (x < columns) epilogue(item, y, x, sums[m][n][2 * half], sums[m][n][2 * half + 1], x + 1 < columns);
        }
      }
  }
}

template <class Cut, class E, bool LeftAlong, bool RightAlong, bool Aligned, class Prologue, class Epilogue>
void launch_product(cudaStream_t stream, const cuda::Matmul& s, const E* a, const E* b, const Prologue& prologue, const Epilogue& epilogue) {
  constexpr int bytes = ProductMemory<Cut, E, LeftAlong, RightAlong>::bytes;
  const int64_t tiles = ((s.m + Cut::rows - 1) / Cut::rows) * ((s.n + Cut::columns - 1) / Cut::columns);
  const dim3 grid(unsigned(tiles), unsigned(s.batch < 65535 ? s.batch : 65535));
  if (bytes > 48 * 1024)
    cudaFuncSetAttribute(product<Cut, E, LeftAlong, RightAlong, Aligned, Prologue, Epilogue>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  product<Cut, E, LeftAlong, RightAlong, Aligned, Prologue, Epilogue><<<grid, Cut::threads, bytes, stream>>>(s, a, b, prologue, epilogue);
}

/// Puts a product on a stream. Transposed: a is stored as k rows of m (`s.transposed` is not read); RightAlong: b as n rows of k.
/// Small results take smaller tiles, so that they occupy more of the device.
template <class E, bool Transposed, bool RightAlong, class Prologue, class Epilogue>
void product_mma(cudaStream_t stream, const cuda::Matmul& s, const E* a, const E* b, const Prologue& prologue, const Epilogue& epilogue) {
  constexpr int64_t unit = 16 / int64_t(sizeof(E));
  const bool aligned = (s.lda | s.ldb | s.next_a | s.next_b) % unit == 0 && (reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) % 16 == 0;
  const bool large = (s.m + 127) / 128 * ((s.n + 127) / 128) * s.batch >= 128;
  using Large = ProductCut<128, 128, 2, 4, 1>;
  using Small = ProductCut<64, 64, 2, 2, 3>;
  if (large && aligned) launch_product<Large, E, !Transposed, RightAlong, true>(stream, s, a, b, prologue, epilogue);
  else if (large) launch_product<Large, E, !Transposed, RightAlong, false>(stream, s, a, b, prologue, epilogue);
  else if (aligned) launch_product<Small, E, !Transposed, RightAlong, true>(stream, s, a, b, prologue, epilogue);
  else launch_product<Small, E, !Transposed, RightAlong, false>(stream, s, a, b, prologue, epilogue);
}

}  // namespace tsr::mma
