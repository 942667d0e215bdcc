// Exchanges beside the main thread: one thread carries them out in the order in which they were begun.
#pragma once
#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace tsr {
namespace comm {

class Beside {
 public:
  Beside() : thread_([this] { work(); }) {}
  // Everything has to be done by then: see idle().
  ~Beside() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;

  void begin(int number, std::function<void()> exchange) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      waiting_.emplace_back(number, std::move(exchange));
    }
    changed_.notify_all();
  }
  // Returns when the last exchange with this number is done, and throws what it has thrown.
  void end(int number) {
    wait([&] {
      for (const auto& job : waiting_)
        if (job.first == number) return false;
      return true;
    });
  }
  // The same for all exchanges.
  void end() {
    wait([&] { return waiting_.empty(); });
  }
  // Whether all exchanges are done after so many seconds.
  bool idle(double seconds) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return waiting_.empty(); });
  }

 private:
  template <class Done>
  void wait(const Done& done) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return failure_ || done(); });
    if (failure_) std::rethrow_exception(failure_);
  }

  void work() {
    sigset_t all;  // signals are the main thread's
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const std::function<void()> exchange = waiting_.front().second;
      lock.unlock();
      std::exception_ptr failure;
      try {
        exchange();
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (failure) failure_ = failure;
      waiting_.pop_front();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<int, std::function<void()>>> waiting_;  // the first one is under way
  std::exception_ptr failure_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace comm
}  // namespace tsr
