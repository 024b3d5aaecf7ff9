// Tasks on XLA's thread pool.

#ifndef STN_JAX_NATIVE_PARALLEL_H_
#define STN_JAX_NATIVE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace stn {

// A job of fewer numbers runs on the calling thread. Tasks have about this many or more.
constexpr int64_t kNumbersOfTask = 20000;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Runs `body(i)` for i from 0 to count − 1 on the pool's threads and on this one, and returns when
// all are done. If some call threw, rethrows one of the exceptions.
//
// This thread takes tasks, too, until none is left. Then it waits only for tasks that other threads
// have begun, so the call cannot deadlock when all threads of the pool are busy or waiting.
inline void ParallelFor(xla::ffi::ThreadPool& pool, int64_t threads, int64_t count,
                        const std::function<void(int64_t)>& body) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable all_done;
    int64_t done = 0;
    std::exception_ptr error;
  };
  // A helper may start after this call has returned. It then finds no task, but still reads
  // `shared`, so it shares the ownership.
  auto shared = std::make_shared<Shared>();
  auto work = [shared, count, &body] {
    int64_t done = 0;
    std::exception_ptr error;
    for (int64_t i; (i = shared->next.fetch_add(1)) < count; ++done) {
      try {
        body(i);
      } catch (...) {
        error = std::current_exception();
      }
    }
    if (done == 0) return;
    std::lock_guard<std::mutex> lock(shared->mutex);
    if (error) shared->error = error;
    shared->done += done;
    if (shared->done == count) shared->all_done.notify_all();
  };
  for (int64_t i = 1; i < std::min(threads, count); ++i) {
    auto helper = work;
    pool.Schedule(std::move(helper));
  }
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done == count; });
  if (shared->error) std::rethrow_exception(shared->error);
}

}  // namespace stn

#endif  // STN_JAX_NATIVE_PARALLEL_H_
