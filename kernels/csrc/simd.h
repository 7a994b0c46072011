// Eight floats at a time, in the vector extensions that GCC and Clang share, and elementary functions on them.
//
// Everything here has internal linkage: a file that includes it is compiled for one instruction set, and the linker
// must never let one file use the code of another.
#pragma once

#include <stdint.h>

#ifdef USE_AVX2
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace {

constexpr int WIDTH = 8;
typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef float f4 __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE8(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE8(a, b, ...) __builtin_shuffle(a, b, (i8){__VA_ARGS__})
#endif

INLINE f8 splat(float x) { return (f8){x, x, x, x, x, x, x, x}; }
INLINE i8 splat(int32_t x) { return (i8){x, x, x, x, x, x, x, x}; }
INLINE f4 splat4(float x) { return (f4){x, x, x, x}; }
INLINE i8 iota() { return (i8){0, 1, 2, 3, 4, 5, 6, 7}; }

template <class V>
INLINE V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <class V>
INLINE void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

INLINE f8 pick(i8 mask, f8 a, f8 b) { return (f8)((mask & (i8)a) | (~mask & (i8)b)); }
INLINE f8 keep(i8 mask, f8 a) { return (f8)(mask & (i8)a); }
// A NaN in `a` stays one.
INLINE f8 smaller(f8 a, f8 b) { return pick((i8)(b < a), b, a); }
INLINE f8 larger(f8 a, f8 b) { return pick((i8)(b > a), b, a); }
INLINE f8 absolute(f8 a) { return (f8)((i8)a & splat(0x7fffffff)); }
INLINE f8 to_float(i8 a) { return __builtin_convertvector(a, f8); }

// A bit a lane.
INLINE int bits(i8 mask) {
#ifdef USE_AVX2
  return _mm256_movemask_ps((__m256)mask);
#else
  int found = 0;
  for (int l = 0; l < WIDTH; ++l) found |= (mask[l] & 1) << l;
  return found;
#endif
}

INLINE f4 low(f8 a) {
#ifdef USE_AVX2
  return (f4)_mm256_castps256_ps128((__m256)a);
#else
  return (f4){a[0], a[1], a[2], a[3]};
#endif
}

INLINE f4 high(f8 a) {
#ifdef USE_AVX2
  return (f4)_mm256_extractf128_ps((__m256)a, 1);
#else
  return (f4){a[4], a[5], a[6], a[7]};
#endif
}

INLINE f8 join(f4 a, f4 b) {
#ifdef USE_AVX2
  return (f8)_mm256_set_m128((__m128)b, (__m128)a);
#else
  return (f8){a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]};
#endif
}

INLINE float sum(f4 a) { return (a[0] + a[2]) + (a[1] + a[3]); }
INLINE float sum(f8 a) { return sum(low(a) + high(a)); }

// Sum of the lanes before each lane.
INLINE f8 exclusive_sum(f8 x) {
  const f8 zero = splat(0.f);
  f8 y = SHUFFLE8(x, zero, 8, 0, 1, 2, 3, 4, 5, 6);
  y += SHUFFLE8(y, zero, 8, 0, 1, 2, 3, 4, 5, 6);
  y += SHUFFLE8(y, zero, 8, 8, 0, 1, 2, 3, 4, 5);
  y += SHUFFLE8(y, zero, 8, 8, 8, 8, 0, 1, 2, 3);
  return y;
}

// Index of the cell that holds a position, and the position in it.
INLINE i8 cell(f8 position, f8* within) {
#ifdef USE_AVX2
  const f8 base = (f8)_mm256_floor_ps((__m256)position);
#else
  f8 base = to_float(__builtin_convertvector(position, i8));
  base -= keep((i8)(base > position), splat(1.f));
#endif
  *within = position - base;
  return __builtin_convertvector(base, i8);
}

// exp for x <= 88 (Cephes' expf); 0 is reached to 1e-38.
INLINE f8 exponential(f8 x) {
  x = larger(x, splat(-87.f));
  const f8 magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
  const f8 shifted = x * splat(1.44269504f) + magic;
  const i8 power = (i8)shifted - (i8)magic;
  const f8 whole = shifted - magic;
  const f8 r = (x - whole * splat(0.693359375f)) + whole * splat(2.12194440e-4f);
  f8 p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * (r * r) + r + splat(1.f);
  return (f8)((i8)p + (power << 23));
}

// 2 atanh(s) for |s| <= 1/3.
INLINE f8 twice_atanh(f8 s) {
  const f8 z = s * s;
  f8 p = splat(2.f / 13);
  p = p * z + splat(2.f / 11);
  p = p * z + splat(2.f / 9);
  p = p * z + splat(2.f / 7);
  p = p * z + splat(2.f / 5);
  p = p * z + splat(2.f / 3);
  return p * (z * s) + (s + s);
}

// log(1 + x) for 0 <= x <= 1: nothing cancels, however small x is.
INLINE f8 log1p_unit(f8 x) { return twice_atanh(x / (x + splat(2.f))); }

// log(1 + x) for x >= 0.
INLINE f8 log1p(f8 x) {
  const f8 one = splat(1.f);
  if (!bits((i8)(x > splat(0.06f)))) {  // as it is in fog and in empty space: a series
    f8 p = splat(1.f / 7);
    p = splat(1.f / 6) - x * p;
    p = splat(1.f / 5) - x * p;
    p = splat(1.f / 4) - x * p;
    p = splat(1.f / 3) - x * p;
    p = splat(1.f / 2) - x * p;
    return x - x * x * p;
  }
  const f8 u = x + one;
  const f8 lost = x - (u - one);  // what rounding took from u
  // u = m 2^n with m in [1/sqrt 2, sqrt 2)
  const i8 n = ((i8)u - splat(0x3f3504f3)) >> 23;
  const f8 m = (f8)((i8)u - (n << 23));
  const f8 shrink = (f8)(splat(0x3f800000) - (n << 23));  // 2^-n
  const f8 f = (m - one) + lost * shrink;
  return twice_atanh(f / (f + splat(2.f))) + to_float(n) * splat(0.69314718f);
}

// 1 - exp(-x) for x >= 0, and exp(-x): a thin fog takes a series, so that nothing cancels.
INLINE f8 opacity_of(f8 x, f8* passes) {
  f8 p = splat(1.f / 720);
  p = splat(1.f / 120) - x * p;
  p = splat(1.f / 24) - x * p;
  p = splat(1.f / 6) - x * p;
  p = splat(1.f / 2) - x * p;
  p = x - x * x * p;
  *passes = splat(1.f) - p;
  const i8 thick = (i8)(x >= splat(0.25f));
  if (!bits(thick)) return p;
  const f8 e = exponential(-x);
  *passes = pick(thick, e, *passes);
  return pick(thick, splat(1.f) - e, p);
}

// log(1 + exp(x)), and its derivative, the logistic function.
INLINE f8 softplus(f8 x, f8* logistic) {
  const f8 e = exponential(-absolute(x));
  const f8 inverse = splat(1.f) / (splat(1.f) + e);
  *logistic = pick((i8)(x >= splat(0.f)), inverse, e * inverse);
  return larger(x, splat(0.f)) + log1p_unit(e);
}

// 2 sigmoid(x) - 1 without overflow, and its derivative.
INLINE f8 color(f8 x, f8* derivative) {
  const f8 e = exponential(-absolute(x));
  const f8 inverse = splat(1.f) / (splat(1.f) + e);
  const f8 value = (splat(1.f) - e) * inverse;
  *derivative = splat(2.f) * e * (inverse * inverse);
  return pick((i8)(x >= splat(0.f)), value, -value);
}

INLINE f8 gather(const float* grid, i8 i) {
#ifdef USE_AVX2
  return (f8)_mm256_i32gather_ps(grid, (__m256i)i, 4);
#else
  f8 found;
  for (int l = 0; l < WIDTH; ++l) found[l] = grid[i[l]];
  return found;
#endif
}

// Neighbors along x at eight places: grid[i] and grid[i + 1].
INLINE void gather_pairs(const float* grid, i8 i, f8* first, f8* second) {
#ifdef USE_AVX2
  // Eight loads of two numbers each: on several processors faster than a gather, and slower on none that was met.
  int32_t at[WIDTH];
  store(at, i);
  const __m128 zero = _mm_setzero_ps();
  const __m128 a = _mm_loadh_pi(_mm_loadl_pi(zero, (const __m64*)(grid + at[0])), (const __m64*)(grid + at[1]));
  const __m128 b = _mm_loadh_pi(_mm_loadl_pi(zero, (const __m64*)(grid + at[2])), (const __m64*)(grid + at[3]));
  const __m128 c = _mm_loadh_pi(_mm_loadl_pi(zero, (const __m64*)(grid + at[4])), (const __m64*)(grid + at[5]));
  const __m128 d = _mm_loadh_pi(_mm_loadl_pi(zero, (const __m64*)(grid + at[6])), (const __m64*)(grid + at[7]));
  const __m256 x = _mm256_insertf128_ps(_mm256_castps128_ps256(a), c, 1);
  const __m256 y = _mm256_insertf128_ps(_mm256_castps128_ps256(b), d, 1);
  *first = (f8)_mm256_shuffle_ps(x, y, 0x88);
  *second = (f8)_mm256_shuffle_ps(x, y, 0xdd);
#else
  for (int l = 0; l < WIDTH; ++l) {
    (*first)[l] = grid[i[l]];
    (*second)[l] = grid[i[l] + 1];
  }
#endif
}

}  // namespace
