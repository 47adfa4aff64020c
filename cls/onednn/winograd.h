// Convolutions with windows of 3 x 3 pixels by Winograd's algorithm F(2 x 2, 3 x 3).

#pragma once

#include <cstdint>
#include <vector>

namespace cls {

// A convolution at stride 1 in one group; all arrays are dense.
//
// With `transposed` it is the gradient of another one with respect to its images: `images` are the
// gradient of its result, and its kernel (3, 3, outputs, inputs) is mirrored in both directions.
struct Conv3x3 {
  int64_t count, height, width, inputs;            // images (count, height, width, inputs)
  int64_t out_height, out_width, outputs;          // result (count, out_height, out_width, outputs)
  int64_t top, left;  // rows and columns of zeros before an image, less than 0: left out there
  const float *images, *kernel;                    // kernel (3, 3, inputs, outputs)
  float* result;
  const float* grad = nullptr;  // of the result: `result` is then the gradient of the kernel, and
                                // what follows here is left out
  bool transposed = false;
  const float *factor = nullptr, *bias = nullptr;  // (outputs,): result * factor + bias
  const float* added = nullptr;                    // of the result's shape: result + added, then
  bool clipped = false;                            // min(max(result, 0), most)
  float most = 0;
};

// Returns whether oneDNN may use AVX2 on this processor, and its own convolution is slower.
bool WinogradPays(const Conv3x3& conv);

// Computes a convolution that `WinogradPays` for, in memory that is kept for the next one.
void Winograd(const Conv3x3& conv, std::vector<char>& kernel, std::vector<char>& scratch);

}  // namespace cls
