// One SIMD register of floats: loads and stores for float and bfloat16 memory, GELU and its derivative.
#pragma once

#include <ATen/ATen.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace van_mm {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

inline Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline void store(float* to, Lanes value) { *reinterpret_cast<Lanes*>(to) = value; }

// A bfloat16 is the upper half of a float. Stores round to the nearest value, and ties to even.
inline Lanes load(const at::BFloat16* from) {
  return (Lanes)(__builtin_convertvector(*reinterpret_cast<const Halves*>(from), Bits) << 16);
}
inline void store(at::BFloat16* to, Lanes value) {
  const Bits bits = (Bits)value;
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
}

inline Lanes clamp(Lanes x, float limit) {
  const Lanes high = Lanes{} + limit, low = -high;
  x = x < low ? low : x;
  return x > high ? high : x;
}

// The quotient of two polynomials in t, whose coefficients start with the constant term.
template <int N, int M>
inline Lanes rational(Lanes t, const float (&numerator)[N], const float (&denominator)[M]) {
  Lanes a = Lanes{} + numerator[N - 1], b = Lanes{} + denominator[M - 1];
#pragma GCC unroll 8
  for (int i = N - 2; i >= 0; --i) a = a * t + numerator[i];
#pragma GCC unroll 8
  for (int i = M - 2; i >= 0; --i) b = b * t + denominator[i];
  return a / b;
}

// GELU, x Phi(x), where Phi is the normal distribution function. Because Phi(x) - 1/2 is odd, it is approximated by x
// times a rational function of x^2. The error on [-5.5, 5.5] is at most 1.4e-8; farther out Phi is nearly 0 or 1.
inline Lanes gelu(Lanes x) {
  constexpr float numerator[] = {0.398942232131958f,     0.033850692212581635f,  0.004677135031670332f,
                                 0.0001688051997916773f, 6.351922365865903e-06f, 2.2750555217498913e-08f};
  constexpr float denominator[] = {1.0f,
                                   0.25151702761650085f,
                                   0.028644738718867302f,
                                   0.0018843287834897637f,
                                   7.364066550508142e-05f,
                                   1.1975245115536381e-06f};
  const Lanes z = clamp(x, 5.5f);
  return x * (0.5f + z * rational(z * z, numerator, denominator));
}

// The derivative of GELU, Phi(x) + x phi(x), where phi is the normal density. Less 1/2 it is odd as well; the maximum
// error on [-6, 6] is 2.3e-8.
inline Lanes gelu_slope(Lanes x) {
  constexpr float numerator[] = {0.7978845238685608f,     -0.01802975870668888f,   0.013568713329732418f,
                                 0.0002853715268429369f,  3.202766311005689e-05f,  1.122339881476364e-06f,
                                 1.3005687193867743e-08f, -2.8882384331407884e-11f};
  constexpr float denominator[] = {1.0f,
                                   0.31073591113090515f,
                                   0.04558589309453964f,
                                   0.004150655586272478f,
                                   0.00025864370400086045f,
                                   1.0814421329996549e-05f,
                                   3.6374325418364606e-07f};
  const Lanes z = clamp(x, 6.0f);
  return 0.5f + z * rational(z * z, numerator, denominator);
}

}  // namespace van_mm
