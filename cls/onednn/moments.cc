// Sums over all axes but the last, for batch normalization: XLA's reductions on CPU write the
// shifted images to memory first and read them twice.
//
// Sums of a block of rows are in float32, about a shift, the mean of a sample of the rows; those of
// the blocks are added in float64.
// Threads divide the rows, so results depend on their number only by the rounding of float64.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "threads.h"
#include "vectorized.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kSample = 64;  // rows, for the shift

// Adds the sums over rows (rows, channels) of x - shift and of its square to `sums` (2, channels).
CLS_VECTORIZED void AddMoments(const float* __restrict x, const float* __restrict shift,
                               int64_t rows, int64_t channels, float* __restrict sums) {
  float* __restrict squares = sums + channels;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const float* __restrict a = x + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float p = a[c] - shift[c], q = a[c + channels] - shift[c];
      const float r = a[c + 2 * channels] - shift[c], s = a[c + 3 * channels] - shift[c];
      sums[c] += (p + q) + (r + s);
      squares[c] += (p * p + q * q) + (r * r + s * s);
    }
  }
  for (; row < rows; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      const float p = x[row * channels + c] - shift[c];
      sums[c] += p;
      squares[c] += p * p;
    }
  }
}

// Adds the sums over rows of grad and of grad * (x - mean) to `sums` (2, channels).
CLS_VECTORIZED void AddGradSums(const float* __restrict grad, const float* __restrict x,
                                const float* __restrict mean, int64_t rows, int64_t channels,
                                float* __restrict sums) {
  float* __restrict products = sums + channels;
  int64_t row = 0;
  for (; row + 2 <= rows; row += 2) {
    const float* __restrict g = grad + row * channels;
    const float* __restrict a = x + row * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const float p = g[c], q = g[c + channels];
      sums[c] += p + q;
      products[c] += p * (a[c] - mean[c]) + q * (a[c + channels] - mean[c]);
    }
  }
  for (; row < rows; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      const float p = grad[row * channels + c];
      sums[c] += p;
      products[c] += p * (x[row * channels + c] - mean[c]);
    }
  }
}

// Calls add(first row, rows, sums) for all blocks of rows, and returns the totals (2, channels).
template <typename Add>
std::vector<double> Totals(int64_t rows, int64_t channels, const Add& add) {
  std::vector<double> totals(2 * channels, 0.0);
  const int64_t blocks = (rows + kBlock - 1) / kBlock;
  const int threads = rows * channels < cls::kSharedElements ? 1 : omp_get_max_threads();
  std::vector<std::vector<double>> parts(threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    std::vector<double> part(2 * channels, 0.0);
    std::vector<float> sums(2 * channels);
    for (int64_t b = blocks * thread / threads; b < blocks * (thread + 1) / threads; ++b) {
      std::fill(sums.begin(), sums.end(), 0.0f);
      add(b * kBlock, std::min(kBlock, rows - b * kBlock), sums.data());
      for (int64_t c = 0; c < 2 * channels; ++c) part[c] += sums[c];
    }
    parts[thread].swap(part);
  }
  for (const auto& part : parts) {
    for (int64_t c = 0; c < 2 * channels; ++c) totals[c] += part[c];
  }
  return totals;
}

// The means (channels) of up to kSample rows of x (rows, channels), evenly spread.
std::vector<float> MeanOfSample(const float* x, int64_t rows, int64_t channels) {
  const int64_t count = std::min(rows, kSample);
  std::vector<double> sums(channels, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    const float* row = x + i * rows / count * channels;
    for (int64_t c = 0; c < channels; ++c) sums[c] += row[c];
  }
  std::vector<float> means(channels);
  for (int64_t c = 0; c < channels; ++c) means[c] = static_cast<float>(sums[c] / count);
  return means;
}

// Means and variances (groups, channels) of groups of consecutive rows of x (rows, channels).
ffi::Error Moments(Array x, Result mean, Result variance) {
  const auto shape = mean->dimensions();
  const int64_t groups = shape[0], channels = shape[1];
  const int64_t rows = x.element_count() / (groups * channels);
  for (int64_t g = 0; g < groups; ++g) {
    const float* values = x.typed_data() + g * rows * channels;
    const std::vector<float> shift = MeanOfSample(values, rows, channels);
    const auto totals = Totals(rows, channels, [&](int64_t first, int64_t count, float* sums) {
      AddMoments(values + first * channels, shift.data(), count, channels, sums);
    });
    for (int64_t c = 0; c < channels; ++c) {
      const double moved = totals[c] / rows;
      mean->typed_data()[g * channels + c] = static_cast<float>(shift[c] + moved);
      variance->typed_data()[g * channels + c] =
          static_cast<float>(std::max(totals[channels + c] / rows - moved * moved, 0.0));
    }
  }
  return ffi::Error::Success();
}

// The moments, and scale / sqrt(variance + epsilon) (groups, channels).
ffi::Error Statistics(Array x, Array scale, float epsilon, Result mean, Result variance,
                      Result factor) {
  const auto error = Moments(x, mean, variance);
  const int64_t channels = scale.element_count();
  for (int64_t i = 0; i < static_cast<int64_t>(factor->element_count()); ++i) {
    const double inverse = 1 / std::sqrt(variance->typed_data()[i] + static_cast<double>(epsilon));
    factor->typed_data()[i] = static_cast<float>(inverse * scale.typed_data()[i % channels]);
  }
  return error;
}

// The terms of the gradient of a batch normalization, see cls/nn/norm.py: from the sums over groups
// of rows of grad and of grad * (x - mean), factor, level and slope (groups, channels), and the
// gradients of scale and bias (channels,).
ffi::Error Terms(Array grad, Array x, Array scale, Array mean, Array variance, float epsilon,
                 Result factor, Result level, Result slope, Result grad_scale, Result grad_bias) {
  const auto shape = mean.dimensions();
  const int64_t groups = shape[0], channels = shape[1];
  const int64_t rows = x.element_count() / (groups * channels);
  std::vector<double> of_scale(channels, 0.0), of_bias(channels, 0.0);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * rows * channels;
    const auto totals = Totals(rows, channels, [&](int64_t row, int64_t count, float* sums) {
      AddGradSums(grad.typed_data() + begin + row * channels,
                  x.typed_data() + begin + row * channels, mean.typed_data() + g * channels, count,
                  channels, sums);
    });
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t i = g * channels + c;
      const double first = totals[c], second = totals[channels + c];
      const double squared = 1 / (variance.typed_data()[i] + static_cast<double>(epsilon));
      const double inverse = std::sqrt(squared), scaled = inverse * scale.typed_data()[c];
      factor->typed_data()[i] = static_cast<float>(scaled);
      level->typed_data()[i] = static_cast<float>(-scaled * first / rows);
      slope->typed_data()[i] = static_cast<float>(-scaled * squared * second / rows);
      of_scale[c] += second * inverse;
      of_bias[c] += first;
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    grad_scale->typed_data()[c] = static_cast<float>(of_scale[c]);
    grad_bias->typed_data()[c] = static_cast<float>(of_bias[c]);
  }
  return ffi::Error::Success();
}

// momentum * old + (1 - momentum) * factor * the mean of values (groups, channels) over groups.
ffi::Error Running(Array old, Array values, double momentum, double factor, Result result) {
  const int64_t channels = old.element_count(), groups = values.element_count() / channels;
  for (int64_t c = 0; c < channels; ++c) {
    double total = 0;
    for (int64_t g = 0; g < groups; ++g) total += values.typed_data()[g * channels + c];
    const double mean = total / groups;
    result->typed_data()[c] = static_cast<float>(momentum * old.typed_data()[c] +
                                                 (1 - momentum) * factor * mean);
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_moments, Moments,
                              ffi::Ffi::Bind().Arg<Array>().Ret<Array>().Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_norm_statistics, Statistics,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Attr<float>("epsilon")
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_norm_terms, Terms,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Attr<float>("epsilon")
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_norm_running, Running,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Attr<double>("momentum")
                                  .Attr<double>("factor")
                                  .Ret<Array>());
