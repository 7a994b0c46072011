// The kernels for x86-64 processors with AVX2 and FMA; ops.cpp asks the processor before it calls them.
#if defined(__x86_64__)
#define USE_AVX2
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define KERNELS avx2_kernels
#include "kernels.inc"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
