// Random numbers of Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3", 20 rounds), in the order of JAX's partitionable generator. In XLA's programs for CPUs each
// draw is a loop of its own, and hundreds of them take long to compile.

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "threads.h"
#include "vectorized.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Words = ffi::Buffer<ffi::U32>;
using DrawnWords = ffi::Result<Words>;

namespace {

inline uint32_t Rotated(uint32_t x, int by) { return (x << by) | (x >> (32 - by)); }

// Hashes a count (x0, x1) with a key, in place.
inline __attribute__((always_inline)) void Hash(const uint32_t* key, uint32_t& x0, uint32_t& x1) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  x0 += keys[0];
  x1 += keys[1];
#pragma GCC unroll 5
  for (int i = 0; i < 5; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      x0 += x1;
      x1 = Rotated(x1, kRotations[i % 2][j]) ^ x0;
    }
    x0 += keys[(i + 1) % 3];
    x1 += keys[(i + 2) % 3] + i + 1;
  }
}

// Hashes the counts (high, low), (high, low + 1), ... into words, the exclusive or of both or both.
CLS_VECTORIZED void HashRow(const uint32_t* __restrict key, uint32_t high, uint32_t low,
                            int64_t count, bool both, uint32_t* __restrict out) {
  if (both) {
    for (int64_t n = 0; n < count; ++n) {
      uint32_t x0 = high, x1 = low + static_cast<uint32_t>(n);
      Hash(key, x0, x1);
      out[2 * n] = x0;
      out[2 * n + 1] = x1;
    }
    return;
  }
  for (int64_t n = 0; n < count; ++n) {
    uint32_t x0 = high, x1 = low + static_cast<uint32_t>(n);
    Hash(key, x0, x1);
    out[n] = x0 ^ x1;
  }
}

constexpr int64_t kRow = 4096;  // divides 2^32: the counts of a row have one high word

// For each key, its counts 0, 1, ... hashed: of the two words of each the exclusive or, or both.
ffi::Error Draw(Words keys, bool both, DrawnWords result) {
  const int64_t count = keys.element_count() / 2, words = both ? 2 : 1;
  if (count == 0) return ffi::Error::Success();
  const int64_t draws = result->element_count() / (count * words);
  const int64_t rows = (draws + kRow - 1) / kRow;
#pragma omp parallel for schedule(static) if (count * draws >= cls::kSharedElements)
  for (int64_t i = 0; i < count * rows; ++i) {
    const int64_t key = i / rows, first = i % rows * kRow;
    HashRow(keys.typed_data() + 2 * key, static_cast<uint32_t>(first >> 32),
            static_cast<uint32_t>(first), std::min(kRow, draws - first), both,
            result->typed_data() + (key * draws + first) * words);
  }
  return ffi::Error::Success();
}

// For each key its hash of a number.
ffi::Error FoldIn(Words keys, Words numbers, DrawnWords result) {
  for (int64_t i = 0; i < static_cast<int64_t>(numbers.element_count()); ++i) {
    uint32_t* out = result->typed_data() + 2 * i;
    out[0] = 0;
    out[1] = numbers.typed_data()[i];
    Hash(keys.typed_data() + 2 * i, out[0], out[1]);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_random_draw, Draw,
                              ffi::Ffi::Bind().Arg<Words>().Attr<bool>("both").Ret<Words>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_random_fold_in, FoldIn,
                              ffi::Ffi::Bind().Arg<Words>().Arg<Words>().Ret<Words>());
