// Arrays side by side, and back. For XLA each is a kernel that takes long to compile.

#include <omp.h>

#include <cstring>
#include <vector>

#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;

namespace {

// The rows of arrays (rows, a), (rows, b), ... side by side: (rows, a + b + ...).
ffi::Error Join(ffi::RemainingArgs arrays, int64_t rows, ffi::Result<Array> joined) {
  struct Part {
    const float* from;
    int64_t offset, count;
  };
  std::vector<Part> parts;
  int64_t width = 0;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto array = arrays.get<Array>(i);
    if (array.has_error()) return array.error();
    const int64_t count = array->element_count() / rows;
    parts.push_back({array->typed_data(), width, count});
    width += count;
  }
  float* to = joined->typed_data();
#pragma omp parallel for schedule(static) if (rows * width >= cls::kSharedElements)
  for (int64_t row = 0; row < rows; ++row) {
    for (const Part& part : parts) {
      std::memcpy(to + row * width + part.offset, part.from + row * part.count,
                  part.count * sizeof(float));
    }
  }
  return ffi::Error::Success();
}

// The inverse, of one row.
ffi::Error Split(Array joined, ffi::RemainingRets arrays) {
  const float* from = joined.typed_data();
  for (size_t i = 0; i < arrays.size(); ++i) {
    auto array = arrays.get<Array>(i);
    if (array.has_error()) return array.error();
    std::memcpy((*array)->typed_data(), from, (*array)->size_bytes());
    from += (*array)->element_count();
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    cls_join, Join, ffi::Ffi::Bind().RemainingArgs().Attr<int64_t>("rows").Ret<Array>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_split, Split, ffi::Ffi::Bind().Arg<Array>().RemainingRets());
