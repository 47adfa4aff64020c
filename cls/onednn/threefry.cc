// Random numbers of Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
// 3", 20 rounds), in the order of JAX's partitionable generator. In XLA's programs for CPUs each
// draw is a loop of its own, and hundreds of them take long to compile.

#include <omp.h>

#include <cstdint>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Words = ffi::Buffer<ffi::U32>;
using Result = ffi::Result<Words>;

namespace {

inline uint32_t Rotated(uint32_t x, int by) { return (x << by) | (x >> (32 - by)); }

// The hash of a count (x0, x1) with a key.
inline std::pair<uint32_t, uint32_t> Hash(const uint32_t* key, uint32_t x0, uint32_t x1) {
  constexpr int kRotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t keys[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  x0 += keys[0];
  x1 += keys[1];
  for (uint32_t i = 0; i < 5; ++i) {
    for (const int by : kRotations[i % 2]) {
      x0 += x1;
      x1 = Rotated(x1, by) ^ x0;
    }
    x0 += keys[(i + 1) % 3];
    x1 += keys[(i + 2) % 3] + i + 1;
  }
  return {x0, x1};
}

// For each key, its counts 0, 1, ... hashed: of the two words of each the exclusive or, or both.
ffi::Error Draw(Words keys, bool both, Result result) {
  const int64_t count = keys.element_count() / 2, words = both ? 2 : 1;
  if (count == 0) return ffi::Error::Success();
  const int64_t draws = result->element_count() / (count * words);
#pragma omp parallel for schedule(static) if (count * draws > 4096)
  for (int64_t i = 0; i < count * draws; ++i) {
    const uint64_t n = i % draws;
    const auto [high, low] =
        Hash(keys.typed_data() + i / draws * 2, static_cast<uint32_t>(n >> 32),
             static_cast<uint32_t>(n));
    uint32_t* out = result->typed_data() + i * words;
    out[0] = both ? high : high ^ low;
    if (both) out[1] = low;
  }
  return ffi::Error::Success();
}

// For each key its hash of a number.
ffi::Error FoldIn(Words keys, Words numbers, Result result) {
  for (int64_t i = 0; i < static_cast<int64_t>(numbers.element_count()); ++i) {
    const auto [high, low] = Hash(keys.typed_data() + 2 * i, 0, numbers.typed_data()[i]);
    result->typed_data()[2 * i] = high;
    result->typed_data()[2 * i + 1] = low;
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_random_draw, Draw,
                              ffi::Ffi::Bind().Arg<Words>().Attr<bool>("both").Ret<Words>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_random_fold_in, FoldIn,
                              ffi::Ffi::Bind().Arg<Words>().Arg<Words>().Ret<Words>());
