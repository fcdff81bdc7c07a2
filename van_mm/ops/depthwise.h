// Dilated depth-wise convolution of channels-last maps (H, W, C), and the gradient of its weight.
//
// Weights and their gradients are floats laid out as (K * K, C): all channels of a tap are adjacent. C is a multiple of
// kLanes, K is odd, and the zero padding keeps the spatial size.
#pragma once

#include <algorithm>

#include "lanes.h"

namespace van_mm {

struct Shape {
  int64_t height, width, channels, kernel, dilation;
};

// Half-open range [first, last) of taps inside the image, along an axis of `size` pixels, for the output at position
// `at`.
inline std::pair<int64_t, int64_t> taps_inside(int64_t at, int64_t size, int64_t kernel, int64_t dilation) {
  const int64_t reach = kernel / 2;
  return {std::max<int64_t>(0, reach - at / dilation), std::min(kernel, reach + (size - 1 - at) / dilation + 1)};
}

// Adds the products of `Taps` adjacent taps of a kernel row to `Pixels` outputs, and reads each input only once. Inputs
// and outputs are `step` elements apart. The inputs are numbered from the first output's first tap; those in
// [first, last) are inside the image.
template <int Taps, int Pixels, typename T>
inline void slide(Lanes (&sum)[Pixels], const T* from, const float* taps, int64_t step, int64_t channels, int64_t first,
                  int64_t last) {
  Lanes tap[Taps];
#pragma GCC unroll 8
  for (int j = 0; j < Taps; ++j) tap[j] = load(taps + j * channels);
#pragma GCC unroll 16
  for (int k = 0; k < Pixels + Taps - 1; ++k) {
    if (k < first || k >= last) continue;
    const Lanes value = load(from + k * step);
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p)
      if (k - p >= 0 && k - p < Taps) sum[p] += value * tap[k - p];
  }
}

// Computes channels [c, c + kLanes) of `Pixels` outputs in row y, at columns x, x + dilation, x + 2 * dilation, ...
// `image` points at the first pixel of the input, `out` at the first pixel of output row y.
template <int Pixels, typename T>
void convolve(const Shape& s, const T* image, const float* weight, const float* bias, T* out, int64_t y, int64_t x,
              int64_t c, bool with_gelu) {
  const int64_t reach = s.kernel / 2, step = s.dilation * s.channels;
  const auto [i0, i1] = taps_inside(y, s.height, s.kernel, s.dilation);
  // Inputs inside the row, numbered from the first output's first tap.
  const int64_t first = std::max<int64_t>(0, reach - x / s.dilation), last = reach + (s.width - 1 - x) / s.dilation + 1;
  Lanes sum[Pixels];
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p) sum[p] = bias ? load(bias + c) : Lanes{};
  for (int64_t i = i0; i < i1; ++i) {
    const T* from = image + ((y + (i - reach) * s.dilation) * s.width + x - reach * s.dilation) * s.channels + c;
    const float* taps = weight + i * s.kernel * s.channels + c;
    int64_t j = 0;
    auto next = [&]<int Taps>() {
      for (; j + Taps <= s.kernel; j += Taps)
        slide<Taps, Pixels>(sum, from + j * step, taps + j * s.channels, step, s.channels, first - j, last - j);
    };
    next.template operator()<7>();
    next.template operator()<5>();
    next.template operator()<3>();
    next.template operator()<1>();
  }
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p)
    store(out + (x + p * s.dilation) * s.channels + c, with_gelu ? gelu(sum[p]) : sum[p]);
}

// Computes row y of the output and writes it to `out`. Columns that are equal modulo the dilation share inputs, so each
// such phase is computed in runs of up to 8 pixels.
template <typename T>
void convolve_row(const Shape& s, const T* image, const float* weight, const float* bias, T* out, int64_t y,
                  bool with_gelu) {
  for (int64_t c = 0; c < s.channels; c += kLanes)
    for (int64_t phase = 0; phase < std::min(s.dilation, s.width); ++phase) {
      int64_t x = phase;
      auto next = [&]<int Pixels>() {
        for (; x + (Pixels - 1) * s.dilation < s.width; x += Pixels * s.dilation)
          convolve<Pixels>(s, image, weight, bias, out, y, x, c, with_gelu);
      };
      next.template operator()<8>();
      next.template operator()<4>();
      next.template operator()<2>();
      next.template operator()<1>();
    }
}

// Adds the contribution of one image row to the gradients of taps [j, j + Taps) of a kernel row, for `Blocks` registers
// of channels from c on. `row` is the image row under that kernel row, `grad` is the row of the output's gradient, and
// `sums` points at channel c of tap j.
template <int Taps, int Blocks, typename T>
inline void correlate(const Shape& s, const T* row, const T* grad, float* sums, int64_t j, int64_t c) {
  const int64_t reach = s.kernel / 2;
  Lanes sum[Taps][Blocks];
#pragma GCC unroll 8
  for (int t = 0; t < Taps; ++t)
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) sum[t][b] = load(sums + t * s.channels + b * kLanes);
  const int64_t first = (j - reach) * s.dilation, last = (j + Taps - 1 - reach) * s.dilation;
  // In columns [begin, end) every tap is inside the row. Left and right of them, each tap is checked.
  const int64_t begin = std::clamp<int64_t>(-first, 0, s.width),
                end = std::max(begin, std::min(s.width, s.width - last));
  auto edge = [&](int64_t from, int64_t to) {
    for (int64_t x = from; x < to; ++x)
#pragma GCC unroll 8
      for (int t = 0; t < Taps; ++t) {
        const int64_t at = x + first + t * s.dilation;
        if (at < 0 || at >= s.width) continue;
#pragma GCC unroll 8
        for (int b = 0; b < Blocks; ++b)
          sum[t][b] += load(grad + x * s.channels + c + b * kLanes) * load(row + at * s.channels + c + b * kLanes);
      }
  };
  edge(0, begin);
  for (int64_t x = begin; x < end; ++x)
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) {
      const Lanes g = load(grad + x * s.channels + c + b * kLanes);
#pragma GCC unroll 8
      for (int t = 0; t < Taps; ++t)
        sum[t][b] += g * load(row + (x + first + t * s.dilation) * s.channels + c + b * kLanes);
    }
  edge(end, s.width);
#pragma GCC unroll 8
  for (int t = 0; t < Taps; ++t)
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) store(sums + t * s.channels + b * kLanes, sum[t][b]);
}

// Calls `correlate` for as many groups of `Taps` taps as fit from tap j on, and returns the first tap that is left.
// `sums` points at the gradients (K, C) of the kernel row.
template <int Taps, int Blocks, typename T>
int64_t correlate_taps(const Shape& s, const T* row, const T* grad, float* sums, int64_t j) {
  for (; j + Taps <= s.kernel; j += Taps) {
    int64_t c = 0;
    for (; c + Blocks * kLanes <= s.channels; c += Blocks * kLanes)
      correlate<Taps, Blocks>(s, row, grad, sums + j * s.channels + c, j, c);
    for (; c < s.channels; c += kLanes) correlate<Taps, 1>(s, row, grad, sums + j * s.channels + c, j, c);
  }
  return j;
}

}  // namespace van_mm
