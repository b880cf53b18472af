// Threads for work that comes every few microseconds: they poll for a while before they sleep.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "numbers.h"

namespace {

class Helpers {
 public:
  // The threads of this process: created on first use, never ended.
  static Helpers& all() {
    static auto* helpers = new Helpers;
    return *helpers;
  }

  // Let `count` threads call a function, once each, when they are free. A thread that has not started by the next offer
  // skips this one.
  void offer(int count, std::function<void()> work) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (; threads_ < count; ++threads_) std::thread([this] { run(); }).detach();
      work_ = std::move(work);
      version_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

 private:
  void run() {
    for (uint64_t seen = 0;;) {
      for (int looks = 0; looks < kLooks && version_.load(std::memory_order_acquire) == seen; ++looks) relax();
      std::function<void()> work;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return version_.load() != seen; });
        seen = version_.load();
        work = work_;
      }
      work();
    }
  }

  static constexpr int kLooks = 2000;  // some tens of microseconds: longer than the time between two products

  std::mutex mutex_;
  std::condition_variable wake_;
  std::function<void()> work_;
  std::atomic<uint64_t> version_{0};
  int threads_ = 0;
};

}  // namespace
