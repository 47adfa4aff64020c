// Memory for the working arrays of one call, kept for the next one.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Returns the 64-byte aligned begin of a number of bytes in a space, which grows when needed.
inline void* Aligned(std::vector<char>& space, size_t bytes) {
  constexpr uintptr_t kAlignment = 64;
  if (space.size() < bytes + kAlignment) {
    std::vector<char>().swap(space);  // not both at a time
    space.resize(bytes + kAlignment);
  }
  const auto begin = reinterpret_cast<uintptr_t>(space.data());
  return reinterpret_cast<void*>((begin + kAlignment - 1) / kAlignment * kAlignment);
}
