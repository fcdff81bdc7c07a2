// 1x1 convolutions of channels-last maps as matrix products, and the feed-forward network.
//
// Element-wise operations that follow a product (bias, GELU, gate, shortcut) are applied while its result is still in
// registers, if the product is computed here (see kTiled). The feed-forward network keeps only a few rows of its hidden
// map in memory.
#pragma once

#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <vector>

#include "depthwise.h"

namespace van_mm {

// Element-wise operations on the product y = x weight^T, in this order. Null pointers and false skip an operation.
//   y += bias, y = gelu(y), y *= scale, y *= times, y *= gelu'(before), y += plus or y += slope * plus
// bias, scale and slope (C) hold one value a channel; times, before and plus have the output's shape.
template <typename T>
struct Epilogue {
  const float* bias = nullptr;
  bool gelu = false;
  const float* scale = nullptr;
  const T* times = nullptr;
  const T* before = nullptr;
  const T* plus = nullptr;
  const float* slope = nullptr;

  // Applies the operations to channels [c, c + kLanes) of a pixel; `at` is their offset in the output.
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

// A packed float weight (O, I) is laid out as (ceil(O / kPanel), I, kPanel): panels of kPanel outputs. Zeros fill
// the last panel.
constexpr int kPanel = 2 * kLanes;
// Rows that one tile computes: as many as leave the registers enough room for the weights and inputs.
#if defined(__AVX512F__)
constexpr int kRows = 12;  // the sums take 24 of 32 registers
#else
constexpr int kRows = 6;  // the sums take 12 of 16 registers
#endif

// Whether the tiles below compute the products of type T. Floats always use them. For bfloat16 they need AVX-512's
// dot product of pairs, and panels then hold pairs of inputs: (ceil(O / kPanel), I / 2, kPanel, 2). On processors that
// lack this instruction or have the faster AMX, PyTorch computes the product and the weight is a plain matrix (O, I).
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

// Computes `Rows` rows by `Blocks` registers of outputs, from row `row` and channel c on. `x` and `out` point at the
// first of these rows. `x` and the panel are read as 32-bit words, a float or a pair of bfloat16: a row of `x` has
// `words` of them, and a row of the panel starts `stride` words after the previous row.
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

// Computes rows [first, last) and panels [from, to) of the product; x and out point at row `first`. The weight is
// packed (see kTiled) or, for floats only, a contiguous matrix (I, O), which is fast enough for a product or two.
// Products that are not tiled ignore `from` and `to`.
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

// Computes x + fc2(gelu(dw3x3(fc1(x)))) for rows [y0, y1) of one image, in bands of `band` rows. x and out point at the
// first pixel of the image. `hidden` and `active` are buffers: the first holds the rows of fc1's output that the 3x3
// convolution reads for a band, the second holds the activated result of that convolution.
template <typename T>
void feed_forward_rows(const Shape& s, const T* x, int64_t channels, const at::Tensor& fc1, const float* bias1,
                       const float* taps, const float* bias, const at::Tensor& fc2, const float* bias2, T* out,
                       int64_t y0, int64_t y1, int64_t band, std::vector<T>& hidden, std::vector<T>& active) {
  const int64_t line = s.width * s.channels, pixels = s.width * channels;
  hidden.resize((band + 2) * line);
  active.resize(band * line);
  int64_t top = std::max<int64_t>(0, y0 - 1), bottom = top;  // `hidden` holds rows [top, bottom) of fc1's output
  for (int64_t y = y0; y < y1; y += band) {
    const int64_t end = std::min(y1, y + band);
    const int64_t read_end = std::min(s.height, end + 1), read_begin = std::max<int64_t>(0, y - 1);
    if (read_begin > top) {  // move the rows that the previous band shares to the front
      std::copy(hidden.begin() + (read_begin - top) * line, hidden.begin() + (bottom - top) * line, hidden.begin());
      top = read_begin;
    }
    multiply(x + bottom * pixels, channels, fc1, hidden.data() + (bottom - top) * line, s.channels, bottom * s.width,
             read_end * s.width, Epilogue<T>{.bias = bias1});
    bottom = read_end;
    for (int64_t row = y; row < end; ++row)
      convolve_row(s, hidden.data() - top * line, taps, bias, active.data() + (row - y) * line, row, true);
    multiply(active.data(), s.channels, fc2, out + y * pixels, channels, y * s.width, end * s.width,
             Epilogue<T>{.bias = bias2, .plus = x});
  }
}

}  // namespace van_mm
