// Winograd's algorithm F(2 x 2, 3 x 3): Lavin and Gray 2016, "Fast Algorithms for Convolutional
// Neural Networks", section 4.1. The 2 x 2 results of a tile are A'[(G g G') * (B' d B)]A for a
// kernel g (3 x 3) and images d (4 x 4): 16 products of channels in place of 36.
//
// The 16 elements are 16 products of matrices (tiles x inputs) and (inputs x outputs). A thread
// takes a block of tiles at a time. oneDNN 3.2 has this algorithm only for ARM.
//
// Before and after the sums over input channels there are sums of at most 9 terms, with factors of
// 1, 1/2 and 1/4: rounding is that of a sum over the channels. Results that are infinite by
// definition can be NaN here, and images above a fourth of the largest number overflow.
//
// The result of an image depends neither on the number of threads nor on the other images.

#include "winograd.h"

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <utility>

#include "aligned.h"

#define CLS_AVX512 __attribute__((target("avx512f")))

namespace cls {
namespace {

using Vector = __m512;
constexpr int64_t kLanes = 16, kElements = 16, kRows = 12, kPanel = 2 * kLanes;
// Tiles of a block: as many as fit half of a small L2 cache, in bytes. With many channels there are
// more: the whole kernel is read for each block.
constexpr int64_t kCache = 256 * 1024, kLeastTiles = 2 * kRows;

int64_t Ceil(int64_t x, int64_t of) { return (x + of - 1) / of * of; }

CLS_AVX512 __mmask16 Mask(int64_t left) { return left < kLanes ? (1 << left) - 1 : 0xffff; }

// The 3 x 3 taps of one input, each a vector of outputs.
struct Taps {
  const float* first;
  int64_t row, column;  // distances in memory

  const float* at(int64_t i, int64_t j) const { return first + i * row + j * column; }
};

// Writes G g G' * factor for at most 16 outputs and one input: 16 vectors, `stride` apart.
CLS_AVX512 void TransformTaps(const Taps& taps, __mmask16 mask, Vector factor, float* to,
                              int64_t stride) {
  const Vector half = _mm512_set1_ps(0.5f);
  Vector rows[4][3];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const Vector a = _mm512_maskz_loadu_ps(mask, taps.at(0, j)) * factor;
    const Vector b = _mm512_maskz_loadu_ps(mask, taps.at(1, j)) * factor;
    const Vector c = _mm512_maskz_loadu_ps(mask, taps.at(2, j)) * factor;
    rows[0][j] = a;
    rows[1][j] = (a + c) * half + b * half;
    rows[2][j] = (a + c) * half - b * half;
    rows[3][j] = c;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vector a = rows[i][0], b = rows[i][1], c = rows[i][2];
    float* row = to + 4 * i * stride;
    _mm512_store_ps(row, a);
    _mm512_store_ps(row + stride, (a + c) * half + b * half);
    _mm512_store_ps(row + 2 * stride, (a + c) * half - b * half);
    _mm512_store_ps(row + 3 * stride, c);
  }
}

// The distance between two elements of arrays with a number of floats for each. Without the
// addition, often a power of 2, all 16 would compete for the same lines of a cache.
int64_t Apart(int64_t floats) { return floats + kLanes; }

// Writes (outputs / 32 rounded up, 16, inputs, 32), the elements `Apart`. The last 16 numbers of a
// row are neither written nor read if it has no more outputs. Called by all threads of a team.
CLS_AVX512 void TransformKernel(const Conv3x3& conv, float* to) {
  const int64_t tap = conv.inputs * conv.outputs;
  const int64_t stride = Apart(conv.inputs * kPanel);
#pragma omp for
  for (int64_t out = 0; out < conv.outputs; out += kLanes) {
    const int64_t lanes = std::min(kLanes, conv.outputs - out);
    const __mmask16 mask = Mask(lanes);
    const Vector factor =
        conv.factor ? _mm512_maskz_loadu_ps(mask, conv.factor + out) : _mm512_set1_ps(1.0f);
    for (int64_t in = 0; in < conv.inputs; ++in) {
      float mirrored[9 * kLanes];
      Taps taps{conv.kernel + in * conv.outputs + out, 3 * tap, tap};
      if (conv.transposed) {
        for (int64_t t = 0; t < 9; ++t) {
          const float* from = conv.kernel + (8 - t) * tap + out * conv.inputs + in;
          for (int64_t lane = 0; lane < lanes; ++lane) {
            mirrored[t * kLanes + lane] = from[lane * conv.inputs];
          }
        }
        taps = {mirrored, 3 * kLanes, kLanes};
      }
      float* panel = to + out / kPanel * kElements * stride;
      TransformTaps(taps, mask, factor, panel + in * kPanel + out % kPanel, stride);
    }
  }
}

// The place of 2 x 2 results.
struct Tile {
  int64_t image, row, column;
};

int64_t TilesDown(const Conv3x3& conv) { return (conv.out_height + 1) / 2; }
int64_t TilesAcross(const Conv3x3& conv) { return (conv.out_width + 1) / 2; }
int64_t TilesOfImage(const Conv3x3& conv) { return TilesDown(conv) * TilesAcross(conv); }

// Writes B' d B for all inputs of a tile: 16 rows, `stride` apart.
CLS_AVX512 void TransformImages(const Conv3x3& conv, const Tile& tile, const float* zeros,
                                float* to, int64_t stride) {
  const float* pixels[4][4];
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t y = 2 * tile.row - conv.top + i, x = 2 * tile.column - conv.left + j;
      const bool inside = y >= 0 && y < conv.height && x >= 0 && x < conv.width;
      const int64_t pixel = (tile.image * conv.height + y) * conv.width + x;
      pixels[i][j] = inside ? conv.images + pixel * conv.inputs : zeros;
    }
  }
  for (int64_t c = 0; c < conv.inputs; c += kLanes) {
    const __mmask16 mask = Mask(conv.inputs - c);
    Vector rows[4][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vector first = _mm512_maskz_loadu_ps(mask, pixels[0][j] + c);
      const Vector second = _mm512_maskz_loadu_ps(mask, pixels[1][j] + c);
      const Vector third = _mm512_maskz_loadu_ps(mask, pixels[2][j] + c);
      const Vector fourth = _mm512_maskz_loadu_ps(mask, pixels[3][j] + c);
      rows[0][j] = first - third;
      rows[1][j] = second + third;
      rows[2][j] = third - second;
      rows[3][j] = second - fourth;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* row = to + 4 * i * stride + c;
      _mm512_store_ps(row, rows[i][0] - rows[i][2]);
      _mm512_store_ps(row + stride, rows[i][1] + rows[i][2]);
      _mm512_store_ps(row + 2 * stride, rows[i][2] - rows[i][1]);
      _mm512_store_ps(row + 3 * stride, rows[i][1] - rows[i][3]);
    }
  }
}

// Writes the results of a tile, A' m A, from 16 rows of products m, `stride` apart.
CLS_AVX512 void TransformProducts(const Conv3x3& conv, const Tile& tile, const float* products,
                                  int64_t stride) {
  const int64_t y = 2 * tile.row, x = 2 * tile.column;
  const int64_t pixel = (tile.image * conv.out_height + y) * conv.out_width + x;
  const int rows = std::min<int64_t>(2, conv.out_height - y);
  const int columns = std::min<int64_t>(2, conv.out_width - x);
  const Vector least = _mm512_setzero_ps(), most = _mm512_set1_ps(conv.most);
  for (int64_t c = 0; c < conv.outputs; c += kLanes) {
    const __mmask16 mask = Mask(conv.outputs - c);
    const Vector bias =
        conv.bias ? _mm512_maskz_loadu_ps(mask, conv.bias + c) : _mm512_setzero_ps();
    Vector sums[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* at = products + j * stride + c;
      const Vector first = _mm512_load_ps(at), second = _mm512_load_ps(at + 4 * stride);
      const Vector third = _mm512_load_ps(at + 8 * stride);
      const Vector fourth = _mm512_load_ps(at + 12 * stride);
      sums[0][j] = first + second + third;
      sums[1][j] = second - third - fourth;
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const Vector* s = sums[i];
      Vector values[2] = {s[0] + s[1] + s[2] + bias, s[1] - s[2] - s[3] + bias};
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        if (i >= rows || j >= columns) continue;
        const int64_t at = (pixel + i * conv.out_width + j) * conv.outputs + c;
        if (conv.added) values[j] += _mm512_maskz_loadu_ps(mask, conv.added + at);
        // Of a number and NaN these instructions return the second.
        if (conv.clipped) values[j] = _mm512_min_ps(most, _mm512_max_ps(least, values[j]));
        _mm512_mask_storeu_ps(conv.result + at, mask, values[j]);
      }
    }
  }
}

// products (R, N * 16) = images (R, inputs) x kernel (inputs, 32)
template <int N, int R>
CLS_AVX512 void Multiply(const float* images, int64_t image_stride, const float* kernel,
                         int64_t inputs, float* products, int64_t product_stride) {
  Vector sums[R][N];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) sums[r][n] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < inputs; ++k) {
    Vector columns[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) columns[n] = _mm512_load_ps(kernel + k * kPanel + n * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vector value = _mm512_set1_ps(images[r * image_stride + k]);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sums[r][n] = _mm512_fmadd_ps(value, columns[n], sums[r][n]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      _mm512_store_ps(products + r * product_stride + n * kLanes, sums[r][n]);
    }
  }
}

using Multiplier = void (*)(const float*, int64_t, const float*, int64_t, float*, int64_t);

template <int N, int... Rows>
constexpr std::array<Multiplier, kRows> Multipliers(std::integer_sequence<int, Rows...>) {
  return {Multiply<N, Rows + 1>...};
}

// By the vectors of columns, one or two, and the rows, 1 to 12.
constexpr std::array<Multiplier, kRows> kMultipliers[] = {
    Multipliers<1>(std::make_integer_sequence<int, kRows>()),
    Multipliers<2>(std::make_integer_sequence<int, kRows>())};

}  // namespace

bool WinogradPays(const Conv3x3& conv) {
  // Measured next to oneDNN. With fewer tiles it takes too long to transform the kernel, with fewer
  // inputs to transform images, and outputs are computed in groups of 16, of which a third may be
  // unused. The number of images is left out: an image has one result, in any batch.
  return __builtin_cpu_supports("avx512f") && TilesOfImage(conv) >= 16 && conv.inputs >= 16 &&
         2 * Ceil(conv.outputs, kLanes) <= 3 * conv.outputs;
}

void Winograd(const Conv3x3& conv, std::vector<char>& kernel_space, std::vector<char>& scratch) {
  const int64_t down = TilesDown(conv), across = TilesAcross(conv);
  const int64_t tiles = conv.count * TilesOfImage(conv);
  const int64_t threads = omp_get_max_threads();
  const int64_t ins = Ceil(conv.inputs, kLanes), outs = Ceil(conv.outputs, kLanes);
  const int64_t fitting = kCache / (kElements * (ins + outs) * int64_t{sizeof(float)});
  const int64_t block = Ceil(std::max(fitting, kLeastTiles), kRows);

  const int64_t kernel_stride = Apart(conv.inputs * kPanel);
  const int64_t image_stride = Apart(block * ins), product_stride = Apart(block * outs);
  const int64_t kernel_size = Ceil(outs, kPanel) / kPanel * kElements * kernel_stride;
  const auto kernel = static_cast<float*>(Aligned(kernel_space, kernel_size * sizeof(float)));
  const int64_t for_thread = kElements * (image_stride + product_stride);
  const auto memory = static_cast<float*>(
      Aligned(scratch, (threads * for_thread + ins) * sizeof(float)));
  float* zeros = memory + threads * for_thread;
  std::fill(zeros, zeros + ins, 0.0f);
#pragma omp parallel num_threads(threads)
  {
    TransformKernel(conv, kernel);
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    const int64_t each = (tiles + team - 1) / team;
    float* images = memory + thread * for_thread;
    float* products = images + kElements * image_stride;
    const int64_t end = std::min(tiles, (thread + 1) * each);
    for (int64_t first = thread * each; first < end; first += block) {
      const int64_t count = std::min(block, end - first);
      const auto tile = [&](int64_t t) {
        const int64_t index = first + t;
        return Tile{index / (down * across), index / across % down, index % across};
      };
      for (int64_t t = 0; t < count; ++t) {
        TransformImages(conv, tile(t), zeros, images + t * ins, image_stride);
      }
      for (int64_t element = 0; element < kElements; ++element) {
        const float* of = images + element * image_stride;
        float* to = products + element * product_stride;
        for (int64_t out = 0; out < outs; out += kPanel) {
          const auto& multipliers = kMultipliers[outs - out > kLanes];
          const float* panel = kernel + (out / kPanel * kElements + element) * kernel_stride;
          for (int64_t t = 0; t < count; t += kRows) {
            const auto multiply = multipliers[std::min(kRows, count - t) - 1];
            multiply(of + t * ins, ins, panel, conv.inputs, to + t * outs + out, outs);
          }
        }
      }
      for (int64_t t = 0; t < count; ++t) {
        TransformProducts(conv, tile(t), products + t * outs, product_stride);
      }
    }
  }
}

}  // namespace cls
