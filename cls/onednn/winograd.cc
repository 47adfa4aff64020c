// Winograd's algorithm F(2 x 2, 3 x 3): Lavin and Gray 2016, "Fast Algorithms for Convolutional
// Neural Networks", section 4.1. The 2 x 2 results of a tile are A'[(G g G') * (B' d B)]A for a
// kernel g (3 x 3) and images d (4 x 4): 16 products of channels in place of 36.
//
// The 16 elements are 16 products of matrices (tiles x inputs) and (inputs x outputs). A thread
// takes a block of tiles at a time. oneDNN 3.2 has this algorithm only for ARM.
//
// The gradient of a kernel, from the gradient y (2 x 2) of the results, is the sum over tiles of
// G'[(A y A') * (B' d B)]G, by the rule of the chain: 16 products (inputs x tiles) and
// (tiles x outputs).
//
// Before and after the sums over input channels, or tiles, there are sums of at most 9 terms, with
// factors of 1, 1/2 and 1/4: rounding is that of a sum over the channels, or tiles. Results that
// are infinite by definition can be NaN here, numbers above a fourth of the largest one overflow,
// and a pixel that is not finite makes the gradients of all taps NaN, also where it meets padding.
//
// Results do not depend on the number of threads, nor does that of an image on the other images.

#include "winograd.h"

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <utility>

#include "aligned.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace cls {
namespace {

constexpr int64_t kElements = 16;
// Tiles of a block: as many as fit half of a small L2 cache, in bytes. With many channels there are
// more: the whole kernel is read for each block.
constexpr int64_t kCache = 256 * 1024, kLeastTiles = 24;

// Tiles whose products are summed before they are added to those of earlier ones.
constexpr int64_t kTilesOfSum = 128;
// Bytes of the tiles that all threads share for gradients of kernels: as many as fit, but at least
// those of one sum.
constexpr int64_t kShared = 1024 * 1024;

int64_t Ceil(int64_t x, int64_t of) { return (x + of - 1) / of * of; }

// The distance between two elements of arrays with a number of floats for each. Without the
// addition, often a power of 2, all 16 would compete for the same lines of a cache.
int64_t Apart(int64_t floats) { return floats + 16; }

// The 3 x 3 taps of one input, each a vector of outputs.
struct Taps {
  const float* first;
  int64_t row, column;  // distances in memory

  const float* at(int64_t i, int64_t j) const { return first + i * row + j * column; }
};

// The place of 2 x 2 results.
struct Tile {
  int64_t image, row, column;
};

int64_t TilesDown(const Conv3x3& conv) { return (conv.out_height + 1) / 2; }
int64_t TilesAcross(const Conv3x3& conv) { return (conv.out_width + 1) / 2; }
int64_t TilesOfImage(const Conv3x3& conv) { return TilesDown(conv) * TilesAcross(conv); }

Tile TileAt(const Conv3x3& conv, int64_t index) {
  const int64_t of_image = TilesOfImage(conv), across = TilesAcross(conv);
  return {index / of_image, index % of_image / across, index % across};
}

}  // namespace

namespace avx512 {
namespace {

#define CLS_TARGET __attribute__((target("avx512f")))

using Vector = __m512;
using Part = __mmask16;  // the first lanes of a vector
constexpr int64_t kLanes = 16, kRows = 12;

CLS_TARGET Part First(int64_t lanes) { return lanes < kLanes ? (1 << lanes) - 1 : 0xffff; }
CLS_TARGET Vector All(float value) { return _mm512_set1_ps(value); }
CLS_TARGET Vector Load(const float* from) { return _mm512_load_ps(from); }
CLS_TARGET Vector Load(Part part, const float* from) { return _mm512_maskz_loadu_ps(part, from); }
CLS_TARGET void Store(float* to, Vector value) { _mm512_store_ps(to, value); }
CLS_TARGET void Store(Part part, float* to, Vector value) {
  _mm512_mask_storeu_ps(to, part, value);
}
CLS_TARGET Vector Fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
// Of a number and NaN these instructions return the second.
CLS_TARGET Vector Clip(Vector value, float most) {
  return _mm512_min_ps(All(most), _mm512_max_ps(All(0.0f), value));
}

#include "winograd_tiles.h"

#undef CLS_TARGET

}  // namespace
}  // namespace avx512

namespace avx2 {
namespace {

#define CLS_TARGET __attribute__((target("avx2,fma")))

using Vector = __m256;
// The first lanes of a vector. To store with a mask is slow on some processors.
struct Part {
  bool whole;
  __m256i mask;
};
constexpr int64_t kLanes = 8, kRows = 6;

CLS_TARGET Part First(int64_t lanes) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const int count = std::min(lanes, kLanes);
  return {lanes >= kLanes, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), places)};
}
CLS_TARGET Vector All(float value) { return _mm256_set1_ps(value); }
CLS_TARGET Vector Load(const float* from) { return _mm256_load_ps(from); }
CLS_TARGET Vector Load(const Part& part, const float* from) {
  return part.whole ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, part.mask);
}
CLS_TARGET void Store(float* to, Vector value) { _mm256_store_ps(to, value); }
CLS_TARGET void Store(const Part& part, float* to, Vector value) {
  if (part.whole) {
    _mm256_storeu_ps(to, value);
  } else {
    _mm256_maskstore_ps(to, part.mask, value);
  }
}
CLS_TARGET Vector Fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
// Of a number and NaN these instructions return the second.
CLS_TARGET Vector Clip(Vector value, float most) {
  return _mm256_min_ps(All(most), _mm256_max_ps(All(0.0f), value));
}

#include "winograd_tiles.h"

#undef CLS_TARGET

}  // namespace
}  // namespace avx2

namespace {

// Returns whether oneDNN uses these instructions here: ONEDNN_MAX_CPU_ISA can forbid them.
bool Has(dnnl::cpu_isa instructions) {
  static const int has = static_cast<int>(dnnl::get_effective_cpu_isa());
  const int needed = static_cast<int>(instructions);
  return (has & needed) == needed;
}

}  // namespace

bool WinogradPays(const Conv3x3& conv) {
  // Measured next to oneDNN; gradients of kernels only with AVX2. With fewer tiles it takes too
  // long to transform the kernel, with fewer channels to transform images and results, and outputs
  // are computed in groups of 16, of which a third may be unused.
  if (!Has(dnnl::cpu_isa::avx2)) return false;
  const int64_t products = conv.inputs * conv.outputs, transformed = conv.inputs + conv.outputs;
  const int64_t tiles = TilesOfImage(conv);
  if (conv.grad) return tiles >= 4 && conv.count * tiles >= 16 && products >= 20 * transformed;
  // The number of images is left out in inference: an image has one result, in any batch.
  return tiles >= 16 && (!conv.transposed || conv.count * tiles >= 100) && conv.inputs >= 16 &&
         2 * Ceil(conv.outputs, 16) <= 3 * conv.outputs &&
         (Has(dnnl::cpu_isa::avx512_core) || products >= 10 * transformed);
}

void Winograd(const Conv3x3& conv, std::vector<char>& kernel, std::vector<char>& scratch) {
  const bool wide = Has(dnnl::cpu_isa::avx512_core);
  const auto compute = conv.grad ? (wide ? avx512::KernelGrad : avx2::KernelGrad)
                                 : (wide ? avx512::Convolve : avx2::Convolve);
  compute(conv, kernel, scratch);
}

}  // namespace cls
