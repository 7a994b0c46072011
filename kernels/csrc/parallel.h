// at::parallel_for, for Clang too.
//
// PyTorch's threads are started by an OpenMP pragma inside this very template. GCC compiles it to calls of libgomp,
// which is the runtime that PyTorch itself uses on Linux. Clang would bring libomp into the process, a second set of
// threads that fights with the first; so with Clang the same entry point of libgomp is called by name.
#pragma once

#if defined(__clang__) && defined(__linux__)
#define INTRA_OP_PARALLEL
#include <cstdint>

extern "C" {
void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);
int omp_get_num_threads(void);
int omp_get_thread_num(void);
}

namespace at::internal {
template <typename F>
inline void invoke_parallel(int64_t begin, int64_t end, int64_t grain, const F& f);
}

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <exception>

namespace at::internal {
template <typename F>
inline void invoke_parallel(int64_t begin, int64_t end, int64_t grain, const F& f) {
  struct Team {
    int64_t begin, end, grain;
    const F& f;
    std::atomic_flag failed = ATOMIC_FLAG_INIT;
    std::exception_ptr error;

    static void member(void* of) {
      Team& team = *static_cast<Team*>(of);
      int64_t threads = omp_get_num_threads();
      if (team.grain > 0) threads = std::min(threads, divup(team.end - team.begin, team.grain));
      const int64_t share = divup(team.end - team.begin, threads), from = team.begin + omp_get_thread_num() * share;
      if (from < team.end) {
        try {
          ThreadIdGuard guard(omp_get_thread_num());
          team.f(from, std::min(team.end, from + share));
        } catch (...) {
          if (!team.failed.test_and_set()) team.error = std::current_exception();
        }
      }
    }
  } team{begin, end, grain, f};
  GOMP_parallel(Team::member, &team, 0, 0);
  if (team.error) std::rethrow_exception(team.error);
}
}  // namespace at::internal
#else
#include <ATen/Parallel.h>
#endif
