// Which rank this process is: a pure function of the environment. The first complete set of variables wins; a set that
// contradicts itself is an error, never a guess.
#pragma once
#include <cstdlib>
#include <functional>
#include <string>

#include "../error.h"

namespace tsr {
namespace comm {

struct Start {
  int rank = 0, world = 1, local = 0;
  std::string by = "nothing";  // who started the ranks
  // How they find each other: by a socket of this host that the job's name gives, or by rank 0's host and port.
  std::string job, host;
  int port = 0;

  bool by_name() const { return port == 0; }
};

using Lookup = std::function<const char*(const char*)>;

namespace environment {

inline std::string text(const Lookup& look, const char* name) {
  const char* const value = look(name);
  return value ? value : "";
}

inline Error wrong(const std::string& message) { return Error("T0941", message, "start the ranks with `tesserac run -n N PROGRAM ...`, mpirun, srun or torchrun, or set TSR_RANK and TSR_WORLD_SIZE", kExitUsage); }

inline int number(const Lookup& look, const char* name, int64_t low, int64_t high) {
  const std::string value = text(look, name);
  int64_t out = 0;
  if (!parse_int(value, &out) || out < low || out > high)
    throw wrong(std::string(name) + "=" + quoted(value) + format(" is not an integer from %lld to %lld", static_cast<long long>(low), static_cast<long long>(high)));
  return static_cast<int>(out);
}

inline int number_or(const Lookup& look, const char* name, int otherwise) { return look(name) ? number(look, name, 0, 1 << 30) : otherwise; }

// Rank and number of ranks, when `rank` and `size` are both set; false when neither is.
inline bool take(const Lookup& look, const char* rank, const char* size, Start* out) {
  const bool first = look(rank) != nullptr, second = look(size) != nullptr;
  if (first != second) throw wrong(std::string(first ? rank : size) + " is set, " + (first ? size : rank) + " is not");
  if (!first) return false;
  out->world = number(look, size, 1, 1 << 24);
  out->rank = number(look, rank, 0, out->world - 1);
  return true;
}

// "node[03-05,7],x1" -> "node03": the first host of a SLURM list.
inline std::string first_host(const std::string& list) {
  const size_t open = list.find('['), comma = list.find(',');
  if (open == std::string::npos || comma < open) return list.substr(0, comma);
  return list.substr(0, open) + list.substr(open + 1, list.find_first_of("-,]", open + 1) - open - 1);
}

// TSR_HOST and TSR_PORT override what a launcher says; without any of it, hosts cannot find each other.
inline void meet(const Lookup& look, bool one_host, const std::string& host, int port, Start* out) {
  out->host = look("TSR_HOST") ? text(look, "TSR_HOST") : host;
  if (look("TSR_PORT")) out->port = number(look, "TSR_PORT", 1, 65535);
  else if (!one_host || look("TSR_HOST")) out->port = port;
  if (out->port != 0 && out->host.empty()) out->host = "127.0.0.1";
  if (!one_host && (out->host.empty() || out->port == 0))
    throw Error("T0941", "the ranks run on several hosts, and " + out->by + " does not say where rank 0 listens", "set TSR_HOST to the name of rank 0's host and TSR_PORT to a free port there, on all ranks: mpirun -genv TSR_HOST node0 -genv TSR_PORT 29400 (MPICH), mpirun -x TSR_HOST=node0 -x TSR_PORT=29400 (Open MPI)", kExitUsage);
}

inline bool torchrun(const Lookup& look, Start* out) {
  if (!look("MASTER_ADDR") || !take(look, "RANK", "WORLD_SIZE", out)) return false;
  out->by = "torchrun";
  out->local = number_or(look, "LOCAL_RANK", 0);
  const int port = look("MASTER_PORT") ? number(look, "MASTER_PORT", 1, 65534) : 0;
  out->job = "torchrun." + text(look, "TORCHELASTIC_RUN_ID") + "." + text(look, "MASTER_PORT") + "." + text(look, "TORCHELASTIC_RESTART_COUNT");
  // torchrun's agent listens on MASTER_PORT itself when it says so; the port behind it is ours.
  const bool taken = text(look, "TORCHELASTIC_USE_AGENT_STORE") == "True";
  meet(look, number_or(look, "LOCAL_WORLD_SIZE", 0) == out->world, text(look, "MASTER_ADDR"), port == 0 ? 0 : port + (taken ? 1 : 0), out);
  return true;
}

inline bool slurm(const Lookup& look, Start* out) {
  // In a batch script without srun, SLURM_PROCID is 0 and SLURM_NTASKS is N: nobody else would come. Only a step has these.
  if (!look("SLURM_STEP_NODELIST") || !look("SLURM_STEP_NUM_TASKS") || !take(look, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", out)) return false;
  out->by = "srun";
  out->local = number_or(look, "SLURM_LOCALID", 0);
  out->job = "slurm." + text(look, "SLURM_JOB_ID") + "." + text(look, "SLURM_STEP_ID");
  const int job = number_or(look, "SLURM_JOB_ID", 0), step = number_or(look, "SLURM_STEP_ID", 0);
  meet(look, number_or(look, "SLURM_STEP_NUM_NODES", 0) == 1, first_host(text(look, "SLURM_STEP_NODELIST")), 20000 + (job * 31 + step) % 20000, out);
  return true;
}

}  // namespace environment

inline Start discover(const Lookup& look) {
  using namespace environment;
  Start out;
  if (take(look, "TSR_RANK", "TSR_WORLD_SIZE", &out)) {
    out.by = "tesserac run";
    out.local = number_or(look, "TSR_LOCAL_RANK", out.rank);
    out.job = text(look, "TSR_JOB");
    meet(look, !look("TSR_HOST"), "", 0, &out);
  } else if (torchrun(look, &out) || slurm(look, &out)) {
  } else if (take(look, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", &out)) {
    out.by = "mpirun (Open MPI)";
    out.local = number_or(look, "OMPI_COMM_WORLD_LOCAL_RANK", 0);
    out.job = "ompi." + text(look, "PMIX_NAMESPACE") + text(look, "OMPI_MCA_ess_base_jobid");
    meet(look, number_or(look, "OMPI_COMM_WORLD_LOCAL_SIZE", out.world) == out.world, "", 0, &out);
  } else if (take(look, "PMI_RANK", "PMI_SIZE", &out)) {
    out.by = "mpirun (PMI)";
    out.local = number_or(look, "MPI_LOCALRANKID", 0);
    meet(look, number_or(look, "MPI_LOCALNRANKS", out.world) == out.world, "", 0, &out);
  }
  return out;
}

}  // namespace comm
}  // namespace tsr
