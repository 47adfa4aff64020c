// A call uses one thread, or all that OpenMP has.
//
// Small calls are over before the others wake up. Within oneDNN threads even wait for each other in
// loops, and where XLA's own threads occupy the cores, a wait takes a turn of the scheduler,
// far longer than a network on images of a few pixels takes for a convolution.

#pragma once

#include <omp.h>

#include <cstdint>

namespace cls {

// Elements that are read once, and products of a convolution, that occupy all threads.
constexpr int64_t kSharedElements = int64_t{1} << 16;
constexpr int64_t kSharedProducts = int64_t{1} << 22;

// Lets OpenMP and oneDNN use the calling thread only, until the end of the scope.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

}  // namespace cls
