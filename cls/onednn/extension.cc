// The extension as one file for the compiler, which takes most of its time for XLA's headers.

#include "convolutions.cc"
#include "moments.cc"
#include "threefry.cc"
#include "vectors.cc"
#include "winograd.cc"
