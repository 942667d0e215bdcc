// Seconds of an all-reduce of floats through shared memory and by MPI's own MPI_Allreduce, in turns, in one process per rank.
#include <mpi.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "micro.h"
#include "comm/join.h"

using namespace tsr;

// Seconds per call in a window of `calls` calls; the slowest rank counts.
template <class Call>
static double window(int calls, const Call& call) {
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = micro::now();
  for (int i = 0; i < calls; ++i) call();
  double mine = (micro::now() - start) / calls, slowest = 0;
  MPI_Allreduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return slowest;
}

int main() {
  MPI_Init(nullptr, nullptr);
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const Collective table[] = {{"all_reduce", 0, "all_reduce.cpp", int64_t{64} << 20}};
  const Mesh mesh = {1, {"a"}, {size}, "all_reduce", table, 1, comm::join};
  Program program{};
  program.name = "all_reduce", program.version = "bench", program.mesh = &mesh;
  setenv("TSR_BACKEND", "local", 1);
  const std::unique_ptr<Ranks> ranks(mesh.join(program));
  if (ranks->rank() == 0) printf("%d ranks\n%12s %12s %12s %8s\n", size, "bytes", "local us", "MPI us", "ratio");
  for (int64_t bytes = 4; bytes <= int64_t{64} << 20; bytes *= bytes < 1024 ? 16 : 8) {
    const int64_t count = bytes / 4;
    float* const x = micro::allocate<float>(count);
    float* const y = micro::allocate<float>(count);
    for (int64_t i = 0; i < count; ++i) x[i] = 0;
    const int calls = size > 2 ? 1 : bytes < 65536 ? 50 : bytes < (1 << 22) ? 5 : 1, windows = bytes < (1 << 22) ? 200 : 20;
    double local = 1e9, mpi = 1e9;
    const double start = micro::now();
    for (int i = 0, enough = 0; i < windows && !enough; ++i) {
      local = micro::least(local, window(calls, [&] { ranks->all_reduce(0, 0, Reduce::sum, DType::f32, x, count); }));
      mpi = micro::least(mpi, window(calls, [&] { MPI_Allreduce(MPI_IN_PLACE, y, static_cast<int>(count), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); }));
      enough = i >= 4 && micro::now() > start + 4;  // rank 0 decides
      MPI_Bcast(&enough, 1, MPI_INT, 0, MPI_COMM_WORLD);
    }
    if (ranks->rank() == 0) printf("%12lld %12.2f %12.2f %8.2f\n", static_cast<long long>(bytes), local * 1e6, mpi * 1e6, local / mpi), fflush(stdout);
    free(x), free(y);
  }
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Finalize();
  return 0;
}
