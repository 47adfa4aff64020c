// A function with CLS_VECTORIZED is compiled for several processors, and the fastest one is called.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLS_VECTORIZED \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("O3")))
#else
#define CLS_VECTORIZED
#endif
