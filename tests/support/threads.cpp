// Calls of native/threads.h from several threads, after pauses, nested, and in forked children. Prints "ok".
// Argument: number of rounds.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "threads.h"

static void check(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::abort();
}

// Every thread writes its place, meets the others, and reads theirs.
static void gangs(int threads, int rounds) {
  std::vector<int> places(threads);
  for (int round = 1; round <= rounds; ++round) {
    Barrier barrier;
    int all = 0;
    parallel(threads, [&](int id, int count) {
      check(id < count && count <= threads, "ids");
      for (int pass = 0; pass < 5; ++pass) {
        places[id] = round * 10 + pass;
        barrier.wait(count);
        for (int other = 0; other < count; ++other) check(places[other] == round * 10 + pass, "barrier");
        barrier.wait(count);
      }
      if (id == 0) all = count;
      parallel(threads, [](int inner, int inner_count) { check(inner == 0 && inner_count == 1, "nested"); });
    });
    check(all >= 1, "caller runs");
  }
}

static void tasks(int threads, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<int> seen(round % 37);
    parallel_for(threads, static_cast<Long>(seen.size()), [&](Long task) { ++seen[task]; });
    for (int times : seen) check(times == 1, "each task once");
  }
}

static void pauses(int threads, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(round * 7 % 150));
    gangs(threads, 1);
    tasks(threads, 20);
  }
}

int main(int, char** arguments) {
  int rounds = std::atoi(arguments[1]);
  gangs(4, rounds);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([=] {
      gangs(2 + caller, rounds);
      tasks(2 + caller, rounds);
      pauses(2 + caller, rounds);
    });
  for (auto& caller : callers) caller.join();
#if !defined(__SANITIZE_THREAD__)
  for (int child = 0; child < 20; ++child) {  // a child starts threads of its own
    pid_t pid = fork();
    if (pid == 0) {
      gangs(3, 20);
      std::exit(0);
    }
    gangs(3, 5);
    int status = 0;
    waitpid(pid, &status, 0);
    check(status == 0, "child");
  }
#endif
  std::puts("ok");
}
