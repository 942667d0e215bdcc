// The sockets between rank 0 and every other rank: the handshake that all run the same program, and, kept open, the way to
// notice within a second that a rank has died.
#pragma once
#include <sys/stat.h>
#include <sys/utsname.h>

#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../io.h"
#include "socket.h"

namespace tsr {
namespace comm {

// What has to be equal on all ranks, item by item, with a name for messages.
using Identity = std::vector<std::pair<std::string, std::string>>;

struct Peer { std::string host; long pid = 0; };

inline std::string hash_text(const char* data, size_t size) {  // FNV-1a, 64 bits
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ static_cast<unsigned char>(data[i])) * 1099511628211u;
  return format("%016llx", static_cast<unsigned long long>(hash));
}

inline std::string binary_hash() {
  const MappedFile file("/proc/self/exe");
  return hash_text(file.data(), file.size());
}

// This machine since it was started, and the memory below /dev/shm, of which containers have each their own: ranks with
// equal ones share memory. TSR_TEST_HOST makes one machine look like several.
inline std::string host_name() {
  utsname about;
  struct stat memory;
  std::string boot;
  if (FILE* const file = fopen("/proc/sys/kernel/random/boot_id", "re")) {
    char line[64];
    if (fgets(line, sizeof line, file)) boot = std::string(line).substr(0, 8);
    fclose(file);
  }
  if (const char* const name = getenv("TSR_TEST_HOST")) return name;
  return (uname(&about) == 0 ? std::string(about.nodename) : "?") + (boot.empty() ? "" : "/" + boot) + (stat("/dev/shm", &memory) == 0 ? format("/%llx", static_cast<unsigned long long>(memory.st_dev)) : std::string());
}

// For people.
inline std::string short_name(const std::string& host) { return host.substr(0, host.find('/')); }

inline std::string encode(const Identity& items) {
  std::string out;
  for (const auto& item : items) out += item.first + '\n' + item.second + '\n';
  return out;
}

inline Identity decode(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') lines.emplace_back();
    else lines.back() += c;
  }
  Identity out;
  for (size_t i = 0; i + 2 < lines.size(); i += 2) out.emplace_back(lines[i], lines[i + 1]);
  return out;
}

// What two ranks disagree about; "" when nothing.
inline std::string difference(const Identity& first, const Identity& other, int rank) {
  std::string out;
  for (size_t i = 0; i < first.size() || i < other.size(); ++i) {
    const std::string name = i < first.size() ? first[i].first : other[i].first;
    const std::string mine = i < first.size() ? first[i].second : "(nothing)", theirs = i < other.size() ? other[i].second : "(nothing)";
    if (mine != theirs) out += "\n  - " + name + ": rank 0 has " + quoted(mine) + format(", rank %d has ", rank) + quoted(theirs);
  }
  return out;
}

class Control {
 public:
  // Rank 0 collects all ranks and compares; `segment` (rank 0) is sent to the others. Throws on every rank if one differs.
  Control(const Start& start, const Identity& identity, double timeout) : start_(start), peers_(static_cast<size_t>(start.world)) {
    peers_[static_cast<size_t>(start.rank)] = {host_name(), static_cast<long>(getpid())};
    if (start.world == 1) return;
    const double until = clock_seconds() + timeout;
    if (start.rank == 0) gather(identity, until);
    else introduce(identity, until);
  }

  const std::vector<Peer>& peers() const { return peers_; }
  bool one_host() const {
    for (const Peer& peer : peers_)
      if (peer.host != peers_[0].host) return false;
    return true;
  }

  // From rank 0 to all others (but `except`), from any other rank to rank 0.
  void tell(const std::string& text, int except = 0) {
    const std::lock_guard<std::mutex> lock(sending_);
    for (size_t i = 0; i < sockets_.size(); ++i)
      if (sockets_[i].open() && static_cast<int>(i) + 1 != except) sockets_[i].send(text);
  }
  // To one rank: of rank 0 to any other, of others to rank 0.
  bool send(int rank, const std::string& text) {
    const std::lock_guard<std::mutex> lock(sending_);
    const Socket& socket = sockets_[start_.rank == 0 ? static_cast<size_t>(rank - 1) : 0];
    return socket.open() && socket.send(text);
  }
  // Whether the way to the other ranks is open.
  bool linked() const { return !sockets_.empty() && sockets_[0].open(); }
  // Where words go that ranks send each other while they run; lost() calls it.
  void on_word(std::function<void(int rank, const std::string& word)> hear) { hear_ = std::move(hear); }
  // A rank that stands still must not keep others in send().
  void limit_sends(int seconds) {
    for (const Socket& socket : sockets_) limit_waiting(socket, seconds);
  }
  std::string hear(double timeout) {
    std::string out;
    if (!sockets_[0].receive(&out, clock_seconds() + timeout)) throw no_meeting("rank 0 ended before the start was complete", "see what rank 0 printed");
    return out;
  }
  // Rank 0 waits for a word of every other rank.
  void answer(const std::string& text) { sockets_[0].send(text); }
  void await_answers(double timeout) {
    std::string word;
    for (size_t i = 0; i < sockets_.size(); ++i)
      if (!sockets_[i].receive(&word, clock_seconds() + timeout) || word != "ready")
        throw no_meeting(format("rank %d could not join: ", static_cast<int>(i) + 1) + word, "see what it printed");
  }

  // A rank whose socket has closed without a goodbye; -1 when there is none. Waits up to `timeout` seconds.
  int lost(double timeout) {
    const std::lock_guard<std::mutex> lock(receiving_);
    std::vector<pollfd> items;
    std::vector<size_t> numbers;
    for (size_t i = 0; i < sockets_.size(); ++i)
      if (sockets_[i].open()) items.push_back({sockets_[i].fd(), POLLIN, 0}), numbers.push_back(i);
    if (poll(items.data(), items.size(), static_cast<int>(timeout * 1e3)) <= 0) return -1;
    for (size_t k = 0; k < items.size(); ++k) {
      if (!(items[k].revents & (POLLIN | POLLHUP | POLLERR))) continue;
      Socket& socket = sockets_[numbers[k]];
      std::string word;
      const int rank = start_.rank == 0 ? static_cast<int>(numbers[k]) + 1 : 0;
      const bool heard = socket.receive(&word, clock_seconds() + 1);
      if (heard && word != "bye" && hear_) {
        hear_(rank, word);
        continue;
      }
      const std::lock_guard<std::mutex> sending(sending_);
      socket.close();
      if (word != "bye") return rank;
    }
    return -1;
  }
  void goodbye() { tell("bye"); }

 private:
  void gather(const Identity& identity, double until) {
    const Socket listener = start_.by_name() ? listen_by_name(start_) : listen_on_port(start_);
    sockets_.resize(static_cast<size_t>(start_.world - 1));
    std::string wrong;
    for (int found = 1; found < start_.world; ++found) {
      if (!listener.readable(until)) throw no_meeting(missing(), "look at their output: all ranks have to start within TSR_INIT_TIMEOUT seconds");
      Socket socket(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
      std::string hello, who;
      const double soon = std::min(until, clock_seconds() + 5);  // a rank speaks at once
      if (!socket.receive(&who, soon) || !socket.receive(&hello, soon)) { --found; continue; }  // somebody else's connection
      int64_t rank = 0, pid = 0;
      const Identity about = decode(who);
      if (about.size() != 3 || !parse_int(about[0].second, &rank) || !parse_int(about[1].second, &pid) || rank < 1 || rank >= start_.world) {
        wrong += format("\n  - a process says that it is rank %lld; rank 0 was started as one of %d", static_cast<long long>(rank), start_.world);
        waiting_.push_back(std::move(socket));
        continue;
      }
      Socket& place = sockets_[static_cast<size_t>(rank - 1)];
      if (place.open()) {
        wrong += format("\n  - two processes say that they are rank %lld", static_cast<long long>(rank));
        waiting_.push_back(std::move(socket));
        continue;
      }
      wrong += difference(identity, decode(hello), static_cast<int>(rank));
      peers_[static_cast<size_t>(rank)] = {about[2].second, static_cast<long>(pid)};
      place = std::move(socket);
    }
    std::string verdict = "welcome\n";
    for (const Peer& peer : peers_) verdict += peer.host + "\n" + format("%ld\n", peer.pid);
    if (!wrong.empty()) verdict = "refused";
    tell(verdict);
    for (const Socket& socket : waiting_) socket.send("refused");
    if (!wrong.empty()) throw Error("T0943", "the ranks do not run the same program:" + wrong, "start one and the same executable on all ranks; rebuild and copy it where they differ");
  }

  std::string missing() const {
    std::vector<std::string> names;
    for (size_t i = 0; i < sockets_.size(); ++i)
      if (!sockets_[i].open()) names.push_back(format("%zu", i + 1));
    return format("rank 0 has waited for %d ranks in vain; missing: ", start_.world - 1) + joined(names);
  }

  void introduce(const Identity& identity, double until) {
    sockets_.push_back(connect_to_first(start_, until));
    const Socket& socket = sockets_[0];
    const Peer& me = peers_[static_cast<size_t>(start_.rank)];
    std::string verdict;
    const bool said = socket.send(encode({{"rank", format("%d", start_.rank)}, {"pid", format("%ld", me.pid)}, {"host", me.host}})) && socket.send(encode(identity));
    if (!said || !socket.receive(&verdict, until + 5)) throw no_meeting("rank 0 ended before all ranks had come", "see what rank 0 printed");
    if (verdict == "refused") throw Error("T0943", "rank 0 refused this rank: they do not run the same program", "rank 0 prints what differs");
    const Identity rows = decode(verdict.substr(verdict.find('\n') + 1));
    for (size_t i = 0; i < rows.size() && i < peers_.size(); ++i) peers_[i] = {rows[i].first, atol(rows[i].second.c_str())};
  }

  Start start_;
  std::vector<Peer> peers_;
  std::vector<Socket> sockets_, waiting_;  // rank 0: of rank i + 1; others: to rank 0 alone
  std::mutex sending_, receiving_;
  std::function<void(int, const std::string&)> hear_;
};

}  // namespace comm
}  // namespace tsr
