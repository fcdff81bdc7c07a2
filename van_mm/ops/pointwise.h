// 1x1 convolutions of channels-last rows as matrix products. What follows them is done to their outcome while it is in
// the registers: GELU, the gate, the shortcut. And the feed-forward network, whose hidden map is never whole.
#pragma once

#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <vector>

#include "depthwise.h"

namespace van_mm {

// What becomes of y = x weight^T: y + bias, GELU of it, times `scale` by channel, times `times`, times GELU's
// derivative at `before`, plus `plus` or slope * plus.
template <typename T>
struct Epilogue {
  const float* bias = nullptr;
  bool gelu = false;
  const float* scale = nullptr;
  const T* times = nullptr;
  const T* before = nullptr;
  const T* plus = nullptr;
  const float* slope = nullptr;

  // Of channels c on; `at` is where they are in the output.
  inline Lanes operator()(Lanes y, int64_t c, int64_t at) const {
    if (bias) y += load(bias + c);
    if (gelu) y = van_mm::gelu(y);
    if (scale) y *= load(scale + c);
    if (times) y *= load(times + at);
    if (before) y *= gelu_slope(load(before + at));
    if (plus) y += slope ? load(slope + c) * load(plus + at) : load(plus + at);
    return y;
  }
};

// A weight (O, I) is read as panels of kPanel outputs, (ceil(O / kPanel), I, kPanel).
constexpr int kPanel = 2 * kLanes;
#if defined(__AVX512F__)
constexpr int kRows = 12;  // 24 sums of 32 registers
#else
constexpr int kRows = 6;  // 12 of 16
#endif

// Whether products of T are computed here. Of bfloat16 they are where the vector units multiply pairs of them, and no
// matrix unit does better; a panel then holds pairs of inputs, (ceil(O / kPanel), I / 2, kPanel, 2). Elsewhere they are
// left to the library, and the weight is the matrix (O, I).
template <typename T>
constexpr bool kTiled = true;
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
inline Lanes multiply_add(Lanes sum, float pair, Lanes weights, at::BFloat16) {
  return (Lanes)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(pair), (__m512bh)weights);
}
#else
template <>
constexpr bool kTiled<at::BFloat16> = false;
#endif
inline Lanes multiply_add(Lanes sum, float input, Lanes weights, float) { return sum + input * weights; }

// `Rows` rows by `Blocks` registers of outputs from c on; x and the panel are read as words of 32 bits, `words` a row.
template <int Rows, int Blocks, typename T>
inline void tile(const float* x, int64_t words, const float* panel, int64_t stride, T* out, int64_t outs, int64_t row,
                 int64_t c, const Epilogue<T>& e) {
  Lanes sum[Rows][Blocks] = {};
  const float* from = x;
  for (int64_t k = 0; k < words; ++k, ++from, panel += stride) {
    Lanes w[Blocks];
#pragma GCC unroll 2
    for (int b = 0; b < Blocks; ++b) w[b] = load(panel + b * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int b = 0; b < Blocks; ++b) sum[r][b] = multiply_add(sum[r][b], from[r * words], w[b], T());
  }
  for (int r = 0; r < Rows; ++r)
    for (int b = 0; b < Blocks; ++b) {
      const int64_t at = c + b * kLanes;
      store(out + r * outs + at, e(sum[r][b], at, (row + r) * outs + at));
    }
}

// Rows `first` to `last` and panels `from` to `to` of the product; x and out point at row `first`. The weight is
// packed, or for floats a matrix (I, O), whose columns are as good as panels for a product or two.
template <typename T>
inline void multiply(const T* x, int64_t ins, const at::Tensor& weight, T* out, int64_t outs, int64_t first,
                     int64_t last, const Epilogue<T>& e, int64_t from = 0, int64_t to = INT64_MAX) {
  if constexpr (!kTiled<T>) {
    at::Tensor y = at::from_blob(out, {last - first, outs}, weight.options());
    at::cpu::mm_out(y, at::from_blob(const_cast<T*>(x), {last - first, ins}, weight.options()), weight.t());
    for (int64_t row = first; row < last; ++row, out += outs)
      for (int64_t c = 0; c < outs; c += kLanes) store(out + c, e(load(out + c), c, row * outs + c));
    return;
  }
  const bool packed = weight.dim() > 2;
  const int64_t words = ins * sizeof(T) / sizeof(float), stride = packed ? kPanel : outs;
  const float *rows = reinterpret_cast<const float*>(x), *panels = static_cast<const float*>(weight.const_data_ptr());
  for (int64_t p = from; p < std::min(to, (outs + kPanel - 1) / kPanel); ++p) {
    const float* panel = panels + p * kPanel * (packed ? words : 1);
    const int64_t c = p * kPanel;
    int64_t row = first;
    auto next = [&]<int Rows>() {
      for (; row + Rows <= last; row += Rows) {
        const float* from = rows + (row - first) * words;
        T* to = out + (row - first) * outs;
        if (c + kPanel <= outs)
          tile<Rows, 2>(from, words, panel, stride, to, outs, row, c, e);
        else
          tile<Rows, 1>(from, words, panel, stride, to, outs, row, c, e);
      }
    };
    next.template operator()<kRows>();
    next.template operator()<4>();
    next.template operator()<1>();
  }
}

// x + fc2(gelu(dw3x3(fc1(x)))) for rows y0 to y1 of one image, a band at a time: `hidden` keeps the rows of fc1 that
// the 3x3 convolution needs, `active` what it makes of them. x and out are the image's first pixel.
template <typename T>
void feed_forward_rows(const Shape& s, const T* x, int64_t channels, const at::Tensor& fc1, const float* bias1,
                       const float* taps, const float* bias, const at::Tensor& fc2, const float* bias2, T* out,
                       int64_t y0, int64_t y1, int64_t band, std::vector<T>& hidden, std::vector<T>& active) {
  const int64_t line = s.width * s.channels, pixels = s.width * channels;
  hidden.resize((band + 2) * line);
  active.resize(band * line);
  int64_t top = std::max<int64_t>(0, y0 - 1), made = top;  // `hidden` starts at row `top`; rows up to `made` are there
  for (int64_t y = y0; y < y1; y += band) {
    const int64_t end = std::min(y1, y + band), need = std::min(s.height, end + 1), kept = std::max<int64_t>(0, y - 1);
    if (kept > top) {
      std::copy(hidden.begin() + (kept - top) * line, hidden.begin() + (made - top) * line, hidden.begin());
      top = kept;
    }
    multiply(x + made * pixels, channels, fc1, hidden.data() + (made - top) * line, s.channels, made * s.width,
             need * s.width, Epilogue<T>{.bias = bias1});
    made = need;
    for (int64_t row = y; row < end; ++row)
      convolve_row(s, hidden.data() - top * line, taps, bias, active.data() + (row - y) * line, row, true);
    multiply(active.data(), s.channels, fc2, out + y * pixels, channels, y * s.width, end * s.width,
             Epilogue<T>{.bias = bias2, .plus = x});
  }
}

}  // namespace van_mm
