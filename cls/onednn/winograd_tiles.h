// The algorithm for one instruction set. Included by winograd.cc, in a namespace with
//
// - CLS_TARGET, the attribute of functions with these instructions,
// - Vector, of kLanes floats, and Part, the first lanes of one,
// - Load and Store, of a whole vector (aligned) or a part, All, Fused and Clip,
// - kRows: sums of so many rows and two vectors fit the registers.

constexpr int64_t kPanel = 2 * kLanes;

// Writes G g G' * factor for a vector of outputs and one input: 16 vectors, `stride` apart.
CLS_TARGET void TransformTaps(const Taps& taps, Part part, Vector factor, float* to,
                              int64_t stride) {
  const Vector half = All(0.5f);
  Vector rows[4][3];
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const Vector a = Load(part, taps.at(0, j)) * factor;
    const Vector b = Load(part, taps.at(1, j)) * factor;
    const Vector c = Load(part, taps.at(2, j)) * factor;
    rows[0][j] = a;
    rows[1][j] = (a + c) * half + b * half;
    rows[2][j] = (a + c) * half - b * half;
    rows[3][j] = c;
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Vector a = rows[i][0], b = rows[i][1], c = rows[i][2];
    float* row = to + 4 * i * stride;
    Store(row, a);
    Store(row + stride, (a + c) * half + b * half);
    Store(row + 2 * stride, (a + c) * half - b * half);
    Store(row + 3 * stride, c);
  }
}

// Writes (outputs / kPanel rounded up, 16, inputs, kPanel), the elements `Apart`. The second vector
// of a row is neither written nor read if it has no outputs. Called by all threads of a team.
CLS_TARGET void TransformKernel(const Conv3x3& conv, float* to) {
  const int64_t tap = conv.inputs * conv.outputs;
  const int64_t stride = Apart(conv.inputs * kPanel);
#pragma omp for
  for (int64_t out = 0; out < conv.outputs; out += kLanes) {
    const int64_t lanes = std::min(kLanes, conv.outputs - out);
    const Part part = First(lanes);
    const Vector factor = conv.factor ? Load(part, conv.factor + out) : All(1.0f);
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
      TransformTaps(taps, part, factor, panel + in * kPanel + out % kPanel, stride);
    }
  }
}

// Writes B' d B for all inputs of a tile: 16 rows, `stride` apart.
CLS_TARGET void TransformImages(const Conv3x3& conv, const Tile& tile, const float* zeros,
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
    const Part part = First(conv.inputs - c);
    Vector rows[4][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vector first = Load(part, pixels[0][j] + c);
      const Vector second = Load(part, pixels[1][j] + c);
      const Vector third = Load(part, pixels[2][j] + c);
      const Vector fourth = Load(part, pixels[3][j] + c);
      rows[0][j] = first - third;
      rows[1][j] = second + third;
      rows[2][j] = third - second;
      rows[3][j] = second - fourth;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* row = to + 4 * i * stride + c;
      Store(row, rows[i][0] - rows[i][2]);
      Store(row + stride, rows[i][1] + rows[i][2]);
      Store(row + 2 * stride, rows[i][2] - rows[i][1]);
      Store(row + 3 * stride, rows[i][1] - rows[i][3]);
    }
  }
}

// Writes the results of a tile, A' m A, from 16 rows of products m, `stride` apart.
CLS_TARGET void TransformProducts(const Conv3x3& conv, const Tile& tile, const float* products,
                                  int64_t stride) {
  const int64_t y = 2 * tile.row, x = 2 * tile.column;
  const int64_t pixel = (tile.image * conv.out_height + y) * conv.out_width + x;
  const int rows = std::min<int64_t>(2, conv.out_height - y);
  const int columns = std::min<int64_t>(2, conv.out_width - x);
  for (int64_t c = 0; c < conv.outputs; c += kLanes) {
    const Part part = First(conv.outputs - c);
    const Vector bias = conv.bias ? Load(part, conv.bias + c) : All(0.0f);
    Vector sums[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* at = products + j * stride + c;
      const Vector first = Load(at), second = Load(at + 4 * stride);
      const Vector third = Load(at + 8 * stride);
      const Vector fourth = Load(at + 12 * stride);
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
        if (conv.added) values[j] += Load(part, conv.added + at);
        if (conv.clipped) values[j] = Clip(values[j], conv.most);
        Store(part, conv.result + at, values[j]);
      }
    }
  }
}

// What the sums of products add up: inputs, with the images of a tile in a row, or tiles.
enum Sum { kInputs, kTiles };

// Writes products (R, N vectors) = left (R, length) x right (length, N vectors). `left` has a
// distance of `left_stride` from tile to tile, `right` of `right_stride` from term to term.
template <Sum S, int N, int R>
CLS_TARGET void Multiply(const float* left, int64_t left_stride, const float* right,
                         int64_t right_stride, int64_t length, float* products,
                         int64_t product_stride, bool add) {
  Vector sums[R][N];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) sums[r][n] = All(0.0f);
  }
  for (int64_t k = 0; k < length; ++k) {
    Vector columns[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) columns[n] = Load(right + k * right_stride + n * kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const int64_t at = S == kInputs ? r * left_stride + k : k * left_stride + r;
      const Vector value = All(left[at]);
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) sums[r][n] = Fused(value, columns[n], sums[r][n]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) {
      float* to = products + r * product_stride + n * kLanes;
      Store(to, add ? Load(to) + sums[r][n] : sums[r][n]);
    }
  }
}

using Multiplier = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*,
                            int64_t, bool);

template <Sum S, int N, int... Rows>
constexpr std::array<Multiplier, kRows> Multipliers(std::integer_sequence<int, Rows...>) {
  return {Multiply<S, N, Rows + 1>...};
}

// Returns the function for at most two vectors of columns and kRows rows.
template <Sum S>
Multiplier MultiplierFor(int64_t columns, int64_t rows) {
  constexpr auto kEvery = std::make_integer_sequence<int, kRows>();
  static constexpr std::array<Multiplier, kRows> kOne = Multipliers<S, 1>(kEvery);
  static constexpr std::array<Multiplier, kRows> kTwo = Multipliers<S, 2>(kEvery);
  return (columns > kLanes ? kTwo : kOne)[std::min(kRows, rows) - 1];
}

void Convolve(const Conv3x3& conv, std::vector<char>& kernel_space, std::vector<char>& scratch) {
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
      for (int64_t t = 0; t < count; ++t) {
        TransformImages(conv, TileAt(conv, first + t), zeros, images + t * ins, image_stride);
      }
      for (int64_t element = 0; element < kElements; ++element) {
        const float* of = images + element * image_stride;
        float* to = products + element * product_stride;
        for (int64_t out = 0; out < outs; out += kPanel) {
          const float* panel = kernel + (out / kPanel * kElements + element) * kernel_stride;
          for (int64_t t = 0; t < count; t += kRows) {
            const auto multiply = MultiplierFor<kInputs>(outs - out, count - t);
            multiply(of + t * ins, ins, panel, kPanel, conv.inputs, to + t * outs + out, outs,
                     false);
          }
        }
      }
      for (int64_t t = 0; t < count; ++t) {
        TransformProducts(conv, TileAt(conv, first + t), products + t * outs, product_stride);
      }
    }
  }
}

// Writes A y A' for all outputs of a tile of gradients y: 16 rows, `stride` apart.
CLS_TARGET void TransformGrads(const Conv3x3& conv, const Tile& tile, const float* zeros,
                               float* to, int64_t stride) {
  const float* pixels[2][2];
  for (int64_t i = 0; i < 2; ++i) {
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t y = 2 * tile.row + i, x = 2 * tile.column + j;
      const bool inside = y < conv.out_height && x < conv.out_width;
      const int64_t pixel = (tile.image * conv.out_height + y) * conv.out_width + x;
      pixels[i][j] = inside ? conv.grad + pixel * conv.outputs : zeros;
    }
  }
  for (int64_t c = 0; c < conv.outputs; c += kLanes) {
    const Part part = First(conv.outputs - c);
    Vector rows[4][2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const Vector first = Load(part, pixels[0][j] + c), second = Load(part, pixels[1][j] + c);
      rows[0][j] = first;
      rows[1][j] = first + second;
      rows[2][j] = first - second;
      rows[3][j] = All(0.0f) - second;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      float* row = to + 4 * i * stride + c;
      Store(row, rows[i][0]);
      Store(row + stride, rows[i][0] + rows[i][1]);
      Store(row + 2 * stride, rows[i][0] - rows[i][1]);
      Store(row + 3 * stride, All(0.0f) - rows[i][1]);
    }
  }
}

// Writes the taps G' m G of one input from its 16 rows of sums m, `stride` apart.
CLS_TARGET void TransformSums(const Conv3x3& conv, const float* sums, int64_t stride, float* to) {
  const int64_t tap = conv.inputs * conv.outputs;
  const Vector half = All(0.5f);
  for (int64_t c = 0; c < conv.outputs; c += kLanes) {
    const Part part = First(conv.outputs - c);
    Vector rows[3][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const float* at = sums + j * stride + c;
      const Vector first = Load(at), fourth = Load(at + 12 * stride);
      const Vector second = Load(at + 4 * stride) * half, third = Load(at + 8 * stride) * half;
      rows[0][j] = first + (second + third);
      rows[1][j] = second - third;
      rows[2][j] = (second + third) + fourth;
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      const Vector second = rows[i][1] * half, third = rows[i][2] * half;
      float* row = to + 3 * i * tap + c;
      Store(part, row, rows[i][0] + (second + third));
      Store(part, row + tap, second - third);
      Store(part, row + 2 * tap, (second + third) + rows[i][3]);
    }
  }
}

// The gradient of the kernel. All threads take part in each block of tiles, so that there is one
// array of sums, in an order that does not depend on their number.
void KernelGrad(const Conv3x3& conv, std::vector<char>& kernel_space, std::vector<char>& scratch) {
  const int64_t tiles = conv.count * TilesOfImage(conv);
  const int64_t ins = Ceil(conv.inputs, kLanes), outs = Ceil(conv.outputs, kLanes);
  const int64_t fitting = kShared / (kElements * (ins + outs) * int64_t{sizeof(float)});
  const int64_t block = std::min(tiles, Ceil(std::max(fitting, kTilesOfSum), kTilesOfSum));
  const int64_t image_row = Apart(ins), grad_row = Apart(outs);
  const int64_t image_stride = Apart(block * image_row), grad_stride = Apart(block * grad_row);
  const int64_t sum_stride = Apart(conv.inputs * outs);
  const auto sums =
      static_cast<float*>(Aligned(kernel_space, kElements * sum_stride * sizeof(float)));
  const int64_t most = std::max(ins, outs);
  const auto images = static_cast<float*>(Aligned(
      scratch, (kElements * (image_stride + grad_stride) + most) * sizeof(float)));
  float* grads = images + kElements * image_stride;
  float* zeros = grads + kElements * grad_stride;
  std::fill(zeros, zeros + most, 0.0f);
#pragma omp parallel num_threads(omp_get_max_threads())
  {
    for (int64_t first = 0; first < tiles; first += block) {
      const int64_t count = std::min(block, tiles - first);
#pragma omp for
      for (int64_t t = 0; t < count; ++t) {
        const Tile tile = TileAt(conv, first + t);
        TransformImages(conv, tile, zeros, images + t * image_row, image_stride);
        TransformGrads(conv, tile, zeros, grads + t * grad_row, grad_stride);
      }
#pragma omp for collapse(2)
      for (int64_t element = 0; element < kElements; ++element) {
        for (int64_t in = 0; in < conv.inputs; in += kRows) {
          const float* left = images + element * image_stride + in;
          const float* right = grads + element * grad_stride;
          float* to = sums + element * sum_stride + in * outs;
          for (int64_t t = 0; t < count; t += kTilesOfSum) {
            for (int64_t out = 0; out < outs; out += kPanel) {
              const auto multiply = MultiplierFor<kTiles>(outs - out, conv.inputs - in);
              multiply(left + t * image_row, image_row, right + t * grad_row + out, grad_row,
                       std::min(kTilesOfSum, count - t), to + out, outs, first + t > 0);
            }
          }
        }
      }
    }
#pragma omp for
    for (int64_t in = 0; in < conv.inputs; ++in) {
      TransformSums(conv, sums + in * outs, sum_stride, conv.result + in * conv.outputs);
    }
  }
}
