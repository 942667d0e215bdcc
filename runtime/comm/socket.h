// Sockets between ranks: stream sockets of this host (found by name, nothing to clean up) or TCP, with a deadline on everything.
#pragma once
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "../error.h"
#include "environment.h"

namespace tsr {
namespace comm {

inline double clock_seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

inline Error no_meeting(const std::string& message, const std::string& help) { return Error("T0942", message, help, kExitData); }

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() { close(); }
  Socket(Socket&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Socket& operator=(Socket&& other) noexcept {
    if (this != &other) close(), fd_ = other.fd_, other.fd_ = -1;
    return *this;
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }
  bool open() const { return fd_ >= 0; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  // Waits until something can be read (or the other side has closed).
  bool readable(double until) const {
    for (;;) {
      const double left = until - clock_seconds();
      pollfd item = {fd_, POLLIN, 0};
      const int found = poll(&item, 1, left > 0 ? static_cast<int>(left * 1e3) + 1 : 0);
      if (found > 0) return true;
      if (found == 0 && clock_seconds() >= until) return false;
      if (found < 0 && errno != EINTR) return false;
    }
  }
  bool send(const void* data, size_t size) const {
    const char* at = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t done = ::send(fd_, at, size, MSG_NOSIGNAL);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return false;
      at += done, size -= static_cast<size_t>(done);
    }
    return true;
  }
  bool receive(void* data, size_t size, double until) const {
    char* at = static_cast<char*>(data);
    while (size > 0) {
      if (!readable(until)) return false;
      const ssize_t done = ::recv(fd_, at, size, 0);
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return false;
      at += done, size -= static_cast<size_t>(done);
    }
    return true;
  }
  // A text with its length in front.
  bool send(const std::string& text) const {
    const uint32_t size = static_cast<uint32_t>(text.size());
    return send(&size, sizeof size) && send(text.data(), text.size());
  }
  bool receive(std::string* text, double until) const {
    uint32_t size = 0;
    if (!receive(&size, sizeof size, until) || size > (1u << 20)) return false;
    text->resize(size);
    return receive(&(*text)[0], size, until);
  }

 private:
  int fd_ = -1;
};

// The nearest ancestor that starts ranks (there may be shells in between), else the parent process.
inline long launcher_process() {
  const std::string launchers = " hydra_pmi_proxy mpiexec mpirun mpiexec.hydra orted prted slurmstepd ";
  for (long pid = getppid(); pid > 1;) {
    FILE* const file = fopen(format("/proc/%ld/stat", pid).c_str(), "re");
    char name[64] = "";
    long parent = 0;
    const bool known = file && fscanf(file, "%*d (%63[^)]) %*c %ld", name, &parent) == 2;
    if (file) fclose(file);
    if (!known) break;
    if (launchers.find(" " + std::string(name) + " ") != std::string::npos) return pid;
    pid = parent;
  }
  return getppid();
}

// The name of a job's socket on this host. Without a job id, the ranks of one launcher belong together.
inline std::string job_name(const Start& start) {
  return format("tesserac.%u.", static_cast<unsigned>(getuid())) + (start.job.empty() ? format("launcher.%ld", launcher_process()) : start.job);
}

inline socklen_t local_address(const std::string& name, sockaddr_un* out) {
  *out = {};
  out->sun_family = AF_UNIX;
  const size_t length = name.size() < sizeof out->sun_path - 1 ? name.size() : sizeof out->sun_path - 1;
  memcpy(out->sun_path + 1, name.data(), length);  // a name that starts with 0 lies in no folder and goes with the process
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
}

inline Socket listen_by_name(const Start& start) {
  sockaddr_un address;
  const socklen_t length = local_address(job_name(start), &address);
  Socket out(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!out.open() || bind(out.fd(), reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(out.fd(), 1024) != 0)
    throw no_meeting("rank 0 cannot listen on the socket " + quoted(job_name(start)) + " of this host: " + strerror(errno), "another job of the same name still runs; end it, or set TSR_JOB to another name");
  return out;
}

inline Socket listen_on_port(const Start& start) {
  Socket out(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool wide = out.open();
  if (!wide) out = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1, no = 0;
  setsockopt(out.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in6 six{};
  six.sin6_family = AF_INET6, six.sin6_addr = in6addr_any, six.sin6_port = htons(static_cast<uint16_t>(start.port));
  sockaddr_in four{};
  four.sin_family = AF_INET, four.sin_addr.s_addr = htonl(INADDR_ANY), four.sin_port = six.sin6_port;
  if (wide) setsockopt(out.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  const int bound = wide ? bind(out.fd(), reinterpret_cast<sockaddr*>(&six), sizeof six) : bind(out.fd(), reinterpret_cast<sockaddr*>(&four), sizeof four);
  if (bound != 0 || listen(out.fd(), 1024) != 0)
    throw no_meeting(format("rank 0 cannot listen on port %d: ", start.port) + strerror(errno), "another program has the port; set TSR_PORT to a free one, on all ranks");
  return out;
}

inline Socket connect_by_name(const Start& start) {
  sockaddr_un address;
  const socklen_t length = local_address(job_name(start), &address);
  Socket out(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (out.open() && connect(out.fd(), reinterpret_cast<sockaddr*>(&address), length) != 0) out.close();
  return out;
}

// connect() and send() give up after some seconds (0: never): nothing answers for a host that is switched off.
inline void limit_waiting(const Socket& socket, double seconds) {
  const timeval limit = {static_cast<time_t>(seconds), static_cast<suseconds_t>(1e6 * (seconds - static_cast<double>(static_cast<time_t>(seconds))))};
  setsockopt(socket.fd(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

inline Socket connect_to_port(const Start& start, double until, std::string* why) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const int code = getaddrinfo(start.host.c_str(), format("%d", start.port).c_str(), &hints, &found);
  if (code != 0) *why = gai_strerror(code);
  for (const addrinfo* item = found; item; item = item->ai_next) {
    Socket out(::socket(item->ai_family, item->ai_socktype | SOCK_CLOEXEC, item->ai_protocol));
    if (out.open()) limit_waiting(out, std::max(0.1, std::min(2.0, until - clock_seconds())));  // errno stays what socket() said
    if (out.open() && connect(out.fd(), item->ai_addr, item->ai_addrlen) == 0) {
      const int yes = 1;
      setsockopt(out.fd(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      limit_waiting(out, 0);
      freeaddrinfo(found);
      return out;
    }
    *why = errno == EINPROGRESS ? "no answer" : strerror(errno);
  }
  if (found) freeaddrinfo(found);
  return Socket();
}

// To rank 0, again and again until it listens.
inline Socket connect_to_first(const Start& start, double until) {
  std::string why = "nobody listens";
  for (int wait_us = 500;; wait_us = wait_us < 100000 ? 2 * wait_us : wait_us) {
    Socket out = start.by_name() ? connect_by_name(start) : connect_to_port(start, until, &why);
    if (out.open()) return out;
    if (clock_seconds() > until) break;
    usleep(static_cast<useconds_t>(wait_us));
  }
  const std::string where = start.by_name() ? "the socket " + quoted(job_name(start)) + " of this host" : start.host + format(":%d", start.port);
  throw no_meeting(format("rank %d cannot reach rank 0 at ", start.rank) + where + ": " + why, "see what rank 0 printed; all ranks have to start within TSR_INIT_TIMEOUT seconds (300)");
}

}  // namespace comm
}  // namespace tsr
