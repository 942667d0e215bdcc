// Makes this process one of the ranks of its job. Emitted programs on a mesh point to join() in their Mesh.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "control.h"
#include "environment.h"
#include "local.h"
#include "wires.h"
#include "world.h"
#ifdef TSR_MPI
#include "mpi.h"
#endif

namespace tsr {
namespace comm {

inline std::string mesh_text(const Mesh& mesh) {
  std::string out;
  for (int a = 0; a < mesh.axis_count; ++a) out += std::string(a ? "," : "") + mesh.names[a] + format("=%d", mesh.sizes[a]);
  return out;
}

inline int rank_count(const Mesh& mesh) {
  int out = 1;
  for (int a = 0; a < mesh.axis_count; ++a) out *= mesh.sizes[a];
  return out;
}

inline double seconds_of(const char* variable, double otherwise) {
  double out = otherwise;
  const char* const text = getenv(variable);
  if (text && (!parse_double(text, &out) || !(out > 0))) throw environment::wrong(std::string(variable) + "=" + quoted(text) + " is not a number of seconds");
  return out;
}

// What TSR_BACKEND says: how the ranks pass data, "local" or `other`; "" for the way that fits where they run.
inline std::string wanted_backend(const std::string& other) {
  const char* const text = getenv("TSR_BACKEND");
  const std::string out = text ? text : "";
  if (!out.empty() && out != "local" && out != other) throw environment::wrong("TSR_BACKEND=" + quoted(out) + " is neither local nor " + other);
  return out;
}

inline Identity identity_of(const Program& program, const std::string& backend) {
  return {{"protocol", "2"},       {"program", program.name},       {"compiler", program.version}, {"mesh", mesh_text(*program.mesh)},
          {"plan", program.mesh->plan}, {"TSR_BACKEND", backend}, {"executable", binary_hash()}};
}

// The ranks have found each other and run the same program.
struct Meeting {
  Start start;
  std::unique_ptr<Control> control;
  double timeout, limit;  // seconds to get ready, and for an exchange (0: not set)
};

// `backend`: what the user wants, the same on all ranks.
inline Meeting meet(const Program& program, const std::string& backend) {
  const Mesh& mesh = *program.mesh;
  const Start start = discover([](const char* name) { return getenv(name); });
  const int wanted = rank_count(mesh);
  if (start.world != wanted)
    throw Error("T0940", std::string(program.name) + format(" is compiled for %d ranks (", wanted) + mesh_text(mesh) + format("), %d %s started", start.world, start.world == 1 ? "was" : "were") +
                (start.by == "nothing" ? std::string() : " by " + start.by),
                format("tesserac run -n %d %s ..., or mpirun -n %d; --mesh compiles for another number", wanted, program.name, wanted), kExitUsage);
  const double timeout = seconds_of("TSR_INIT_TIMEOUT", 300), limit = seconds_of("TSR_COMM_TIMEOUT", 0);
  return {start, std::unique_ptr<Control>(new Control(start, identity_of(program, backend), timeout)), timeout, limit};
}

// A chunk holds the largest exchange, up to half a megabyte: larger ones leave the caches.
inline Layout layout_of(const Mesh& mesh) {
  int64_t largest = 4096;
  for (int i = 0; i < mesh.collective_count; ++i) largest = std::max(largest, mesh.collectives[i].bytes);
  const size_t unit = 64 * static_cast<size_t>(rank_count(mesh));
  Layout out;
  out.world = rank_count(mesh);
  out.axes = mesh.axis_count + 1;
  out.chunk = (static_cast<size_t>(std::min<int64_t>(largest, int64_t{1} << 19)) + unit - 1) / unit * unit;
  return out;
}

// "local" or "mpi". Throws where the ranks cannot exchange in any way.
inline std::string backend_for(const Control& control, const std::string& wanted) {
#ifdef TSR_MPI
  const bool mpi = true;
#else
  const bool mpi = false;
#endif
  const bool near = control.one_host();
  const std::string far = "the ranks run on several hosts, or in containers that share no memory (rank 0 on " + quoted(short_name(control.peers()[0].host)) + ")";
  if (wanted == "mpi" || (wanted.empty() && !near)) {
    if (mpi) return "mpi";
    throw Error("T0946", near ? std::string("TSR_BACKEND=mpi, and this program is compiled without MPI")
                              : far + ", and this program is compiled without MPI",
                "compile it with `make clean` and `make MPI=1`, where mpicxx is installed" + std::string(near ? "" : ", or start all ranks on one host"));
  }
  if (!near) throw Error("T0946", "TSR_BACKEND=local passes data through the memory of one host, and " + far, std::string(mpi ? "leave TSR_BACKEND out" : "leave TSR_BACKEND out and compile with `make clean` and `make MPI=1`") + ", or start all ranks on one host");
  return "local";
}

// The memory that rank 0 makes and all others open.
inline std::unique_ptr<Local> share_memory(Control& control, const Start& start, const Layout& layout, double timeout) {
  std::unique_ptr<Local> local;
  if (start.rank == 0) {
    local.reset(new Local("", layout, 0));
    control.tell(local->segment().path());
    if (start.world > 1) control.await_answers(timeout);
    local->segment().forget();
    return local;
  }
  const std::string path = control.hear(timeout);
  try {
    local.reset(new Local(path, layout, start.rank));
  } catch (const Error& error) {
    control.answer(error.message);
    throw;
  }
  control.answer("ready");
  return local;
}

inline Ranks* join_local(const Mesh& mesh, Meeting met) {
  std::unique_ptr<Local> local = share_memory(*met.control, met.start, layout_of(mesh), met.timeout);
  Local* const board = local.get();
  return new World(mesh, met.start.rank, std::move(met.control), std::move(local), board, met.limit);
}

inline Ranks* join_mpi(const Mesh& mesh, Meeting met) {
#ifdef TSR_MPI
  const std::vector<Group> groups = groups_of(mesh, met.start.rank);
  Wires* const board = new Wires(met.control.get(), met.start.rank, met.start.world);
  std::unique_ptr<Backend> mpi(new Mpi(groups, std::unique_ptr<Board>(board)));
  return new World(mesh, met.start.rank, std::move(met.control), std::move(mpi), board, met.limit);
#else
  (void)mesh, (void)met;
  return nullptr;  // backend_for() has refused
#endif
}

inline Ranks* join(const Program& program) {
  const std::string wanted = wanted_backend("mpi");
  Meeting met = meet(program, wanted);
  const bool mpi = backend_for(*met.control, wanted) == "mpi";
  return mpi ? join_mpi(*program.mesh, std::move(met)) : join_local(*program.mesh, std::move(met));
}

}  // namespace comm
}  // namespace tsr
