// What an emitted program tells the runtime about itself: tables of tensors, sizes of its
// memory, and the functions to call. Emitted code fills one constant Program per entry; the
// runtime (training loop, checkpoints, command line, C interface) is written against this
// header alone and holds no knowledge of any particular model.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tsr {

class Ranks;   // ranks.h
class Device;  // device.h

enum class DType : int { f32, f64, bf16, f16, i8, i16, i32, i64, u8, boolean, c64, c128 };
constexpr int kMaxRank = 8;

constexpr int kMaxAxes = 4;

// Of what a tensor is a part, where several ranks run a program: `shape` is the whole one's; bit a of `axes[d]` says that
// dimension d is cut along axis a of the mesh. Of several axes that cut one dimension the first is the outermost.
// `owner_axis`: of the ranks along this axis that number `owner` alone has the tensor (-1: all have). What others have
// instead shares its place in the arena; those rows of the table differ in name and owner only.
struct Cut {
  int64_t shape[kMaxRank];
  unsigned axes[kMaxRank];
  int owner_axis = -1, owner = 0;
};

// How a parameter gets its first values. Every element is a function of (seed, name, global
// row-major index) alone, so any mesh and any memory layout produce the same weights.
enum class Init : int { zeros, ones, constant, uniform, normal };

struct Tensor {
  const char* name;         // "transformer.Wq", or the batch key for inputs
  DType dtype;
  int rank;
  int64_t shape[kMaxRank];
  int64_t row_stride;       // elements from one row (last axis) to the next; >= shape[rank-1]. Rows are shape[0]*...*shape[rank-2].
                            // A complex parameter lies in the arena as two such planes of reals, real parts first, the second at the
                            // next multiple of 64 bytes; everywhere else (Call's arrays, files) real and imaginary parts take turns
  size_t offset;            // bytes from the start of the parameter arena (parameters only)
  Init init;                // parameters only
  double init_a, init_b;    // uniform: low, high; normal: mean, standard deviation; constant: value
  bool decay;               // weight decay applies (parameters of rank >= 2 unless the source says otherwise)
  int64_t index_bound;      // integer inputs used as class ids or row indices: valid values are 0 .. index_bound-1 (0: unchecked)
  int64_t ignore_index;     // a value outside the bound that is allowed all the same (INT64_MIN: none)
  bool batched;             // the first axis is the batch axis
  const Cut* cut = nullptr;  // the tensor is this rank's part of a larger one (null: it is whole)
};

// A choice among alternatives that rounding can turn, such as the experts of a token: integers, k in a row.
struct Choice {
  const char* name;
  const char* source;  // "moe.py:12"
  DType dtype;
  int64_t rows, k;
  size_t offset;       // in Call::shared, where run leaves them
};

// The same for a reference, which takes over what run chose where its own numbers are nearly tied.
struct Chosen {
  const double* run;          // rows * k
  double tolerance;           // error of a number among the alternatives, relative to the largest
  int64_t turned, wrong;      // rows that run chose otherwise: within rounding of a tie, and beyond
  double gap;                 // largest difference between what was chosen and what the reference would have, in units of tolerance
};

// Takes over gradients that are final long before a function ends, and nothing in it reads any more: those of an expert behind
// its last tile. Their memory is free for the next ones as soon as update() returns.
class EarlyUpdate {
 public:
  virtual ~EarlyUpdate() = default;
  // The gradients of the parameters rows[0], rows[1], ... (numbers in Program::params) lie where those of places[0],
  // places[1], ... belong, which have the same layout.
  virtual void update(const int* rows, const int* places, int count) = 0;
};

struct Call {
  const void* const* inputs;  // in the order of Function::inputs, dense row-major
  void* const* outputs;       // in the order of Function::outputs, dense row-major
  const char* params;         // parameter arena
  char* grads;                // `workers` gradient arenas (or Function::gradient_arenas) one after another; on return the first holds the sum (train functions only).
                              // Contents on entry are those of the call before (zero at first): run overwrites, it does not add
  char* shared;               // Function::shared_bytes; zero before the first call, then as the call before left it
  char* scratch;              // workers * Function::scratch_bytes, likewise
  int workers;                // threads; also the number of fixed chunks the batch is cut into
  int64_t elements;           // batch elements to compute, <= Function::batch (train functions always get batch). Arrays hold a whole batch
                              // in any case: tiles are computed whole, whatever the part of a last one that is wanted
  uint64_t seed, step;        // for dropout and other random operations
  Chosen* chosen = nullptr;   // Function::reference only: one for each of Function::choices (null: it chooses by itself)
  Ranks* ranks = nullptr;     // the other ranks of a program on a mesh
  EarlyUpdate* update = nullptr;  // Function::updates_early only: `params` may change before the end, and `grads` holds the rest of the gradients (null: all)
};

struct Function {
  const char* name;
  const Tensor* inputs;
  int input_count;
  const Tensor* outputs;     // train: outputs[0] is the loss, the rest are metrics (scalars)
  int output_count;
  int64_t batch;             // size of the leading axis of batched inputs (1 if there is none)
  size_t shared_bytes;
  size_t scratch_bytes;      // per worker
  double flops;              // multiply-adds counted as two, for one call
  void (*run)(const Call&);
  void (*reference)(const Call&);  // the same function as plain double-precision loops; params, grads, float inputs and all outputs are double arrays,
                                   // dense, parameters packed one after another in table order; workers is 1, shared and scratch are null (null: none emitted)
  int gradient_arenas = 0;         // gradient arenas that run() needs (0: one per worker)
  const Choice* choices = nullptr;
  int choice_count = 0;
  bool updates_early = false;      // run() calls Call::update
};

struct Optimizer {           // what the source fixed with optim.*; kind null: chosen on the command line
  const char* kind;          // "sgd" (with momentum > 0: heavy ball), "adam", "adamw"
  double lr, momentum, beta1, beta2, eps, weight_decay;  // NaN: left open, a flag may set it
};

struct Kernel {              // one line of `describe` and `profile`
  const char* name;
  const char* source;        // "gpt.py:21"
  const char* formula;
  double flops, bytes;       // for one call of the kernel
  int calls;                 // calls per train step (per tile times tiles)
};

// An exchange between ranks that emitted code asks for, by its number in Mesh::collectives.
struct Collective {
  const char* kind;          // "all_reduce", ...
  int axis;                  // of the mesh
  const char* source;        // "gpt.py:21"
  int64_t bytes;             // of what one rank puts in
};

// Parameters whose gradients one exchange along an axis adds up, the last thing that happens to them. Where ranks update
// parameters in shares, each with its share of the moments (shares.h), the gradients are the sums within this rank's share,
// and zeros elsewhere.
struct Bucket {
  int axis;            // of the mesh
  int reduce;          // in Mesh::collectives
  int gather;          // likewise, where ranks have shares: the updated parameters of all ranks (-1: no shares)
  const int* params;   // rows of Program::params, of one type (that of shares is real)
  int param_count;
};

struct Program;

// Who runs the program. Ranks are numbered row-major over the axes.
struct Mesh {
  int axis_count;
  const char* names[kMaxAxes];
  int sizes[kMaxAxes];
  const char* plan;          // a hash of everything that has to be equal on all ranks
  const Collective* collectives;
  int collective_count;
  Ranks* (*join)(const Program&);
  const Bucket* buckets = nullptr;
  int bucket_count = 0;
};

struct Program {
  const char* name;          // entry label, e.g. "TransformerLM"
  const char* source_file;
  const char* version;       // of the compiler
  const Tensor* params;
  int param_count;
  size_t param_bytes;        // of one arena; gradients and optimizer moments share its layout
  const Function* train;     // null: forward only
  const Function* infer;     // null: no forward outputs
  Optimizer optimizer;
  const Kernel* kernels;
  int kernel_count;
  double (*peak)(int threads, double seconds) = nullptr;  // GFLOP/s of a loop of multiply-adds with the kernels' instructions (null: unknown)
  bool mixed = false;        // matrix products read bf16 (parameters, gradients and everything else stay fp32)
  const Function* validate = nullptr;  // outputs of train without gradients, nothing dropped out; null: those of train are the same
  Device* (*open)(const Program&) = nullptr;  // for programs whose functions run on a device (their `run` is null, shared_bytes is the device's)
  const Mesh* mesh = nullptr;  // null: one process
};

}  // namespace tsr
