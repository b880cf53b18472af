// Threads of our own, which every call shares: `parallel`, `parallel_for` and a barrier.
//
// A call takes free helper threads for as long as it runs, so calls of several threads never wait for one another. Helpers
// poll for some tens of microseconds after a call, and give the processor to any thread that needs it meanwhile; then they
// sleep. They are never joined: the process may end, or fork, at any time.
//
// Threads of a call wait for each other by spinning for some tens of microseconds, and then asleep. They never yield: where
// anything else runs on the machine, however unimportant, a yield gives it a whole slice of milliseconds.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "numbers.h"

namespace {

using Steady = std::chrono::steady_clock;

// Waits for what other threads do: spins, then sleeps until one of them calls `wake`.
class Waiter {
 public:
  // Return once ready() is true; who makes it true calls `wake` afterwards.
  template <class Ready>
  void wait(const Ready& ready) {
    Steady::time_point end = Steady::now() + kSpinning;
    for (Long looks = 1; !ready(); ++looks) {
      relax();
      if (looks % 32 == 0 && Steady::now() > end) return sleep(ready);
    }
  }

  void wake() {
    // Either this sees the sleeper, or the sleeper, which counts itself before it looks, sees what was made true.
    if (!sleepers_.fetch_add(0, std::memory_order_acq_rel)) return;
    { std::lock_guard<std::mutex> lock(mutex_); }  // a sleeper waits already, or has yet to look
    awake_.notify_all();
  }

 private:
  template <class Ready>
  void sleep(const Ready& ready) {
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_acq_rel);
    awake_.wait(lock, ready);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  static constexpr std::chrono::microseconds kSpinning{20};  // 60 and 300 are as fast alone, and slower beside others

  std::mutex mutex_;
  std::condition_variable awake_;
  std::atomic<int> sleepers_{0};
};

// Lets the `count` threads of a `parallel` call wait for each other, some seventy times per decoding step.
class Barrier {
 public:
  void wait(int count) {
    if (count == 1) return;
    int current = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(current + 1, std::memory_order_release);
      return waiter_.wake();
    }
    waiter_.wait([&] { return generation_.load(std::memory_order_acquire) != current; });
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
  alignas(64) Waiter waiter_;
};

// Work of one call, on the caller's stack.
struct Job {
  void (*run)(void* work, int id, int count) noexcept;
  void* work;
  int count = 1;                // threads, the caller among them
  std::atomic<int> running{0};  // helpers that have not finished
};

class Helper {
 public:
  // done: tells callers that a job has one helper less; it outlives all jobs.
  explicit Helper(Waiter& done) : done_(done) {}

  Helper* next = nullptr;  // in the list of the free helpers, or of those of a call

  void start(Job* job, int id) {
    id_ = id;
    if (job_.exchange(job, std::memory_order_acq_rel) != &asleep_) return;
    { std::lock_guard<std::mutex> lock(mutex_); }  // it waits already, or will look at the job before it does
    wake_.notify_one();
  }

  // Take a job back; false if the helper has begun it.
  bool withdraw(Job* job) { return job_.compare_exchange_strong(job, nullptr); }

  [[noreturn]] void loop() {
    for (;;) {
      Job* job = take();
      job->run(job->work, id_, job->count);
      if (job->running.fetch_sub(1, std::memory_order_acq_rel) == 1) done_.wake();  // the job may be gone meanwhile
    }
  }

 private:
  Job* take() {
    for (;;) {
      Steady::time_point end = Steady::now() + kPatience;
      for (Long looks = 0; !job_.load(std::memory_order_relaxed) && Steady::now() < end; ++looks) {
        if (looks < 200)
          relax();
        else
          std::this_thread::yield();  // PyTorch's threads may need the processor
      }
      Job* none = nullptr;
      if (job_.compare_exchange_strong(none, &asleep_)) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return job_.load(std::memory_order_relaxed) != &asleep_; });
      }
      if (Job* job = job_.exchange(nullptr, std::memory_order_acquire)) return job;
    }
  }

  static constexpr std::chrono::microseconds kPatience{50};  // waking a thread that sleeps takes as long

  static inline Job asleep_{};  // only its address is used

  Waiter& done_;
  std::atomic<Job*> job_{nullptr};
  int id_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
};

class Pool {
 public:
  // The pool of this process. It is never deleted, since its threads are never joined.
  static Pool& own() {
    Pool* pool = own_.load(std::memory_order_acquire);
    if (pool) return *pool;
    auto fresh = std::make_unique<Pool>();
    if (own_.compare_exchange_strong(pool, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *pool;
  }

  // Run `work` on the caller and as many free helpers as there are, at most `threads` in all. If every helper is
  // `optional`, the call does not wait for those that have not begun when the caller is done.
  template <class Work>
  void run(int threads, Work& work, bool optional) {
    Job job{[](void* given, int id, int count) noexcept {
              inside_ = true;
              (*static_cast<Work*>(given))(id, count);
              inside_ = false;
            },
            const_cast<void*>(static_cast<const void*>(std::addressof(work)))};
    Helper* helpers = take(threads - 1, &job.count);
    job.running.store(job.count - 1, std::memory_order_relaxed);
    int id = 0;
    for (Helper* helper = helpers; helper; helper = helper->next) helper->start(&job, ++id);
    job.run(job.work, 0, job.count);
    if (optional)
      for (Helper* helper = helpers; helper; helper = helper->next)
        if (helper->withdraw(&job)) job.running.fetch_sub(1, std::memory_order_relaxed);
    done_.wait([&] { return job.running.load(std::memory_order_acquire) == 0; });
    give_back(helpers);
  }

  // True in a thread that runs a call's work: what it calls in turn runs on that thread alone.
  static bool inside() { return inside_; }

 private:
  // Return up to `wanted` free helpers, the last used first, and add their number to `count`. There are as many helpers
  // as other processors, or more if one call asks for more.
  Helper* take(int wanted, int* count) {
    std::lock_guard<std::mutex> lock(mutex_);
    most_ = std::max(most_, wanted);
    Helper *first = nullptr, **last = &first;
    for (; wanted > 0 && (free_ || start_helper()); --wanted, ++*count) {
      *last = free_;
      free_ = free_->next;
      last = &(*last)->next;
    }
    *last = nullptr;
    return first;
  }

  void give_back(Helper* helpers) {
    if (!helpers) return;
    Helper* last = helpers;
    while (last->next) last = last->next;
    std::lock_guard<std::mutex> lock(mutex_);
    last->next = free_;
    free_ = helpers;
  }

  // Add a free helper; false if there are enough, or if the system starts no more threads.
  bool start_helper() {
    if (started_ >= most_) return false;
    try {
      auto helper = std::make_unique<Helper>(done_);
      std::thread([own = helper.get()] { own->loop(); }).detach();
      free_ = helper.release();
      ++started_;
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }

  static inline std::atomic<Pool*> own_{nullptr};
  static inline thread_local bool inside_ = false;

  Waiter done_;
  std::mutex mutex_;
  Helper* free_ = nullptr;
  int started_ = 0;
  int most_ = static_cast<int>(std::thread::hardware_concurrency()) - 1;

#if !defined(_WIN32)
  // A forked child has none of the threads, and its copy of the pool may be locked: it begins with a new one.
  static inline const int forgotten_ = pthread_atfork(nullptr, nullptr, [] { own_.store(nullptr); });
#endif
};

// Run work(id, count) on `count` threads, at most `threads`, which all run at the same time: they may meet at a Barrier. The
// caller is id 0; returns when all are done. `count` is less than `threads` if other calls have the helpers, and 1 inside
// of another call. An exception that leaves `work` ends the process.
template <class Work>
void parallel(int threads, Work&& work) {
  if (threads <= 1 || Pool::inside()) return static_cast<void>(work(0, 1));
  Pool::own().run(threads, work, false);
}

// Run work(task) for each task in 0 .. tasks - 1, on up to `threads` threads, each of which takes the next task that is
// left. Returns when all are done, without a wait for helpers that came too late to take any.
template <class Work>
void parallel_for(int threads, Long tasks, const Work& work) {
  std::atomic<Long> next{0};
  auto take = [&](int, int) {
    for (Long task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(task);
  };
  if (threads <= 1 || tasks <= 1 || Pool::inside()) {
    for (Long task = 0; task < tasks; ++task) work(task);
  } else {
    Pool::own().run(static_cast<int>(std::min<Long>(threads, tasks)), take, true);
  }
}

}  // namespace
