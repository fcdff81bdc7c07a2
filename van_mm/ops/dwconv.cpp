// Depth-wise convolution of channels-last tensors on the CPU, with dilation, and its two gradients.
//
// PyTorch's CPU libraries have no fast kernel for dilated depth-wise convolutions, nor for the gradients of any. Here
// the channels of a pixel, which lie side by side, fill the vector registers, and taps outside of the image are never
// visited. Stride 1, odd kernels, output as large as the input.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Lanes load(const float* from) { return *reinterpret_cast<const Lanes*>(from); }
inline void store(float* to, Lanes value) { *reinterpret_cast<Lanes*>(to) = value; }

struct Shape {
  int64_t height, width, channels, kernel, dilation;
};

// `Pixels` neighbours x, x + 1, ... of one row, `Blocks` registers of channels from c on. Rows i0 to i1 and columns j0 to
// j1 of the kernel are those that meet the image, for each of the pixels.
template <int Pixels, int Blocks>
inline void convolve(const Shape& s, const float* image, const float* weight, const float* bias, float* out, int64_t y,
                     int64_t x, int64_t c, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  const int64_t reach = s.kernel / 2;
  Lanes sum[Pixels][Blocks];
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) sum[p][b] = bias ? load(bias + c + b * kLanes) : Lanes{};
  for (int64_t i = i0; i < i1; ++i) {
    const float* row = image + (y + (i - reach) * s.dilation) * s.width * s.channels + c;
    for (int64_t j = j0; j < j1; ++j) {
      const float* from = row + (x + (j - reach) * s.dilation) * s.channels;
      const float* taps = weight + (i * s.kernel + j) * s.channels + c;
#pragma GCC unroll 8
      for (int b = 0; b < Blocks; ++b) {
        const Lanes tap = load(taps + b * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < Pixels; ++p) sum[p][b] += load(from + p * s.channels + b * kLanes) * tap;
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) store(out + (x + p) * s.channels + c + b * kLanes, sum[p][b]);
}

// The first and the last but one tap that meets a line of `size` pixels from position `at`.
inline std::pair<int64_t, int64_t> meets(int64_t at, int64_t size, int64_t kernel, int64_t dilation) {
  const int64_t reach = kernel / 2;
  return {std::max<int64_t>(0, reach - at / dilation), std::min(kernel, reach + (size - 1 - at) / dilation + 1)};
}

void convolve_row(const Shape& s, const float* image, const float* weight, const float* bias, float* out, int64_t y) {
  const auto [i0, i1] = meets(y, s.height, s.kernel, s.dilation);
  const int64_t edge = s.kernel / 2 * s.dilation;
  for (int64_t x = 0; x < s.width;) {
    int64_t c = 0;
    if (x >= edge && x + 4 + edge <= s.width) {
      for (; c + 2 * kLanes <= s.channels; c += 2 * kLanes)
        convolve<4, 2>(s, image, weight, bias, out, y, x, c, i0, i1, 0, s.kernel);
      for (; c < s.channels; c += kLanes)
        convolve<4, 1>(s, image, weight, bias, out, y, x, c, i0, i1, 0, s.kernel);
      x += 4;
    } else {
      const auto [j0, j1] = meets(x, s.width, s.kernel, s.dilation);
      for (; c + 8 * kLanes <= s.channels; c += 8 * kLanes)
        convolve<1, 8>(s, image, weight, bias, out, y, x, c, i0, i1, j0, j1);
      for (; c + 4 * kLanes <= s.channels; c += 4 * kLanes)
        convolve<1, 4>(s, image, weight, bias, out, y, x, c, i0, i1, j0, j1);
      for (; c < s.channels; c += kLanes) convolve<1, 1>(s, image, weight, bias, out, y, x, c, i0, i1, j0, j1);
      ++x;
    }
  }
}

// Adds what row y of the image gives to the gradient of `Taps` neighbouring taps of kernel row i, from column j on.
template <int Taps, int Blocks>
inline void correlate(const Shape& s, const float* row, const float* grad, float* sums, int64_t j, int64_t c) {
  const int64_t reach = s.kernel / 2;
  Lanes sum[Taps][Blocks];
#pragma GCC unroll 8
  for (int t = 0; t < Taps; ++t)
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) sum[t][b] = load(sums + t * s.channels + b * kLanes);
  const int64_t first = (j - reach) * s.dilation, last = (j + Taps - 1 - reach) * s.dilation;
  // Where every tap meets the row; to the left and right of it taps are asked one by one.
  const int64_t begin = std::clamp<int64_t>(-first, 0, s.width), end = std::max(begin, std::min(s.width, s.width - last));
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

template <int Taps, int Blocks>
int64_t correlate_taps(const Shape& s, const float* row, const float* grad, float* sums, int64_t j) {
  for (; j + Taps <= s.kernel; j += Taps) {
    int64_t c = 0;
    for (; c + Blocks * kLanes <= s.channels; c += Blocks * kLanes)
      correlate<Taps, Blocks>(s, row, grad, sums + j * s.channels + c, j, c);
    for (; c < s.channels; c += kLanes) correlate<Taps, 1>(s, row, grad, sums + j * s.channels + c, j, c);
  }
  return j;
}

Shape shape_of(const at::Tensor& x, int64_t kernel, int64_t dilation) {
  TORCH_CHECK(x.dim() == 4 && x.scalar_type() == at::kFloat, "van_mm::dwconv takes float tensors (N, C, H, W)");
  TORCH_CHECK(x.size(1) % kLanes == 0, "van_mm::dwconv takes channels in multiples of ", kLanes);
  TORCH_CHECK(kernel % 2 == 1, "van_mm::dwconv takes odd kernels");
  return {x.size(2), x.size(3), x.size(1), kernel, dilation};
}

// x (N, C, H, W), weight (C, 1, K, K), bias (C) or none -> (N, C, H, W), channels last.
at::Tensor dwconv(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                  int64_t dilation) {
  const Shape s = shape_of(input, weight.size(2), dilation);
  const at::Tensor x = input.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor taps = weight.view({s.channels, -1}).t().contiguous();  // (K * K, C)
  const at::Tensor shift = bias ? bias->contiguous() : at::Tensor();
  at::Tensor out = at::empty_like(x, at::MemoryFormat::ChannelsLast);
  const float *from = x.const_data_ptr<float>(), *w = taps.const_data_ptr<float>();
  const float* b = shift.defined() ? shift.const_data_ptr<float>() : nullptr;
  float* to = out.mutable_data_ptr<float>();
  const int64_t line = s.width * s.channels;
  at::parallel_for(0, x.size(0) * s.height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      convolve_row(s, from + r / s.height * s.height * line, w, b, to + r * line, r % s.height);
  });
  return out;
}

// The gradient (C, 1, K, K) of the weight, from x and the gradient of the output.
at::Tensor dwconv_weight_grad(const at::Tensor& input, const at::Tensor& grad_output, int64_t kernel, int64_t dilation) {
  const Shape s = shape_of(input, kernel, dilation);
  const at::Tensor x = input.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  const float *from = x.const_data_ptr<float>(), *g = grad.const_data_ptr<float>();
  const int64_t line = s.width * s.channels, rows = x.size(0) * s.height, threads = at::get_num_threads();
  at::Tensor sums = at::zeros({threads, kernel * kernel, s.channels}, x.options());
  float* all = sums.mutable_data_ptr<float>();
  const int64_t share = (rows + threads - 1) / threads;
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t thread = first; thread < last; ++thread) {
      for (int64_t r = thread * share; r < std::min(rows, (thread + 1) * share); ++r) {
        const int64_t y = r % s.height;
        const auto [i0, i1] = meets(y, s.height, kernel, dilation);
        for (int64_t i = i0; i < i1; ++i) {
          const float* row = from + (r + (i - kernel / 2) * dilation) * line;
          float* mine = all + (thread * kernel + i) * kernel * s.channels;
          int64_t j = 0;
          if (kernel == 3) j = correlate_taps<3, 2>(s, row, g + r * line, mine, j);
          if (kernel == 5) j = correlate_taps<5, 2>(s, row, g + r * line, mine, j);
          j = correlate_taps<7, 1>(s, row, g + r * line, mine, j);
          correlate_taps<1, 1>(s, row, g + r * line, mine, j);
        }
      }
    }
  });
  return sums.sum(0).t().reshape({s.channels, 1, kernel, kernel});
}

TORCH_LIBRARY(van_mm, m) {
  m.def("dwconv(Tensor x, Tensor weight, Tensor? bias, int dilation) -> Tensor");
  m.def("dwconv_weight_grad(Tensor x, Tensor grad, int kernel, int dilation) -> Tensor");
}
TORCH_LIBRARY_IMPL(van_mm, CPU, m) {
  m.impl("dwconv", dwconv);
  m.impl("dwconv_weight_grad", dwconv_weight_grad);
}

}  // namespace
