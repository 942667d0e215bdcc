// A program of ranks with parameters and no model: `save FOLDER STEP SIZES...` writes a checkpoint whose numbers tell their
// tensor, their place in the whole tensor and the step; `load FOLDER SIZES...` resumes on whatever mesh and says what is
// wrong; `weights FILE SIZES...` reads weights alone. Without sizes there is no mesh. TEST_FULL=RANK: that rank may write 4 kB.
#include <sys/resource.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "runtime/checkpoint.h"
#include "runtime/comm/join.h"

using namespace tsr;

// W is cut along axis 0 by its rows and along axis 1 by its columns, T along both by its last dimension, Z (complex) by axis 1.
static Cut cuts[] = {{{12, 24}, {1, 2}}, {{2, 3, 12}, {0, 0, 3}}, {{12, 2}, {2, 0}}};

static double value(int tensor, int moment, int64_t index, int64_t step) {
  return static_cast<double>(tensor * 1000 + moment * 100000 + index) + static_cast<double>(step) / 64;
}

struct Model {
  std::vector<Tensor> tensors;
  Program program{};
  explicit Model(Mesh* mesh) {
    for (Cut& cut : cuts)
      for (unsigned& axes : cut.axes) axes &= mesh ? (1u << mesh->axis_count) - 1 : 0;
    const auto add = [&](const char* name, DType type, std::vector<int64_t> shape, int64_t stride, const Cut* cut) {
      Tensor out{};
      out.name = name, out.dtype = type, out.rank = static_cast<int>(shape.size()), out.row_stride = stride, out.offset = program.param_bytes, out.cut = mesh ? cut : nullptr;
      for (size_t d = 0; d < shape.size(); ++d) {
        out.shape[d] = shape[d];
        for (int axis = 0; out.cut && axis < mesh->axis_count; ++axis)
          if (cut->axes[d] >> axis & 1u) out.shape[d] /= mesh->sizes[axis];
      }
      if (out.rank && out.row_stride < out.shape[out.rank - 1]) out.row_stride = 0;
      program.param_bytes += (plane_bytes(out) * static_cast<size_t>(planes(out)) + 63) / 64 * 64;
      tensors.push_back(out);
    };
    add("W", DType::f32, {12, 24}, 32, &cuts[0]);
    add("bias", DType::f32, {7}, 0, nullptr);
    add("T", DType::f64, {2, 3, 12}, 16, &cuts[1]);
    add("Z", DType::c64, {12, 2}, 16, &cuts[2]);
    add("scale", DType::f32, {}, 0, nullptr);
    program.name = "parts", program.version = "test", program.params = tensors.data(), program.param_count = static_cast<int>(tensors.size()), program.mesh = mesh;
  }
};

// Calls use(number, dense element of reals, global index of it) for a rank's part.
template <class Use>
static void each(const Tensor& tensor, const Ranks* ranks, char* dense, const Use& use) {
  const Tensor whole = whole_of(tensor);
  const Corner corner = corner_of(tensor, ranks);
  const int per = scalars_per_element(tensor.dtype);
  for (int64_t i = 0; i < elements(tensor); ++i) {
    int64_t rest = i, index = 0, scale = 1;
    for (int d = tensor.rank; d-- > 0;) {
      index += (rest % tensor.shape[d] + corner.at[d]) * scale;
      rest /= tensor.shape[d], scale *= whole.shape[d];
    }
    for (int p = 0; p < per; ++p) use(dense + static_cast<size_t>(i * per + p) * dtype_size(scalar_type(tensor.dtype)), index * per + p);
  }
}

static int visit(const Session& session, const Ranks* ranks, int moments, int64_t step, bool write) {
  int wrong = 0;
  const Program& program = session.program();
  for (int moment = -1; moment < moments; ++moment)
    for (int i = 0; i < program.param_count; ++i) {
      const Tensor& tensor = program.params[i];
      char* const arena = moment < 0 ? session.params() : session.moments()[moment];
      std::vector<char> dense(dense_bytes(tensor));
      const Format scalar = format_of(scalar_type(tensor.dtype));
      if (!write) pack(tensor, arena, dense.data());
      each(tensor, ranks, dense.data(), [&](char* at, int64_t index) {
        double number = value(i, moment, index, step);
        if (write) return store_reals(scalar_type(tensor.dtype), &number, at, 1);
        load_reals(scalar, at, &number, 1);
        wrong += number != value(i, moment, index, step);
      });
      if (write) unpack(tensor, dense.data(), arena);
    }
  return wrong;
}

int main(int argc, char** argv) {
  const std::string command = argv[1];
  const int words = command == "save" ? 4 : 3;
  try {
    Mesh mesh = {argc - words, {"a", "b"}, {1, 1}, "plan", nullptr, 0, comm::join};
    for (int i = 0; i < mesh.axis_count; ++i) mesh.sizes[i] = atoi(argv[words + i]);
    const Model model(mesh.axis_count ? &mesh : nullptr);
    const std::unique_ptr<Ranks> ranks(mesh.axis_count ? mesh.join(model.program) : nullptr);
    const bool speaks = !ranks || ranks->rank() == 0;
    OptimizerSettings optimizer = default_settings(Rule::adam);
    Session session(model.program, 1);
    session.reserve(false, false, moments_of(optimizer));
    session.map(false);
    const Checkpoints checkpoints(argv[2], ranks.get());
    if (command == "save") {
      const char* const full = getenv("TEST_FULL");
      if (full && ranks && ranks->rank() == atoi(full)) {
        const rlimit limit = {1500, 1500};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
      }
      visit(session, ranks.get(), 2, atoi(argv[3]), true);
      checkpoints.prepare();
      checkpoints.save(session, optimizer, atoi(argv[3]), {{"seed", "5"}}, 2);
    } else if (command == "load") {
      const Resumed found = checkpoints.resume(&session, optimizer);
      for (const std::string& warning : found.warnings)
        if (speaks) printf("warning: %s\n", warning.c_str());
      int64_t wrong = visit(session, ranks.get(), 2, found.step, false);
      if (ranks) ranks->all_reduce(Ranks::kOwn, Ranks::kWorld, Reduce::sum, DType::i64, &wrong, 1);
      if (speaks) printf("step %lld, %lld wrong, seed %s\n", static_cast<long long>(found.step), static_cast<long long>(wrong), found.meta("seed").c_str());
    } else {
      load_weights(model.program, argv[2], session.params(), ranks.get());
      if (speaks) printf("%d wrong\n", visit(session, ranks.get(), 0, 7, false));
    }
  } catch (const Error& error) {
    fputs(error.text().c_str(), stderr);
    return error.exit_code;
  }
  return 0;
}
