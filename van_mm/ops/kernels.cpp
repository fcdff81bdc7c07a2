// The operators of torch.ops.van_mm: VAN's layers on channels-last float and bfloat16 tensors on the CPU.
//
// PyTorch has no fast CPU kernel for dilated depth-wise convolutions or for the gradients of any depth-wise
// convolution, and it passes over memory once more for each GELU, gate and shortcut. These kernels load the channels of
// a pixel, which are adjacent in memory, into vector registers, skip taps outside the image, and apply element-wise
// operations to results that are still in registers.
//
// Inputs in another memory format are first converted to channels-last. Biases, factors and depth-wise weights are
// converted to float.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "pointwise.h"
#include "pool.h"

namespace van_mm {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor channels_last(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }
at::Tensor as_float(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }
OptionalTensor channels_last(const OptionalTensor& x) { return x ? OptionalTensor(channels_last(*x)) : x; }
OptionalTensor as_float(const OptionalTensor& x) { return x ? OptionalTensor(as_float(*x)) : x; }

template <typename T>
const T* data(const at::Tensor& x) {
  return x.const_data_ptr<T>();
}
template <typename T>
const T* data(const OptionalTensor& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

// Returns a depth-wise weight (C, 1, K, K) as (K * K, C) floats.
at::Tensor taps_of(const at::Tensor& weight) {
  return weight.to(at::kFloat).reshape({weight.size(0), -1}).t().contiguous();
}

// Checks the input x of the operator `name`; `channels` are those that it computes in registers.
void check(const at::Tensor& x, int64_t channels, const char* name) {
  TORCH_CHECK(x.dim() == 4 && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16), "van_mm::", name,
              " got an unsupported input. Pass a float32 or bfloat16 tensor (N, C, H, W).");
  TORCH_CHECK(channels % kLanes == 0, "van_mm::", name,
              " got an unsupported number of channels. The vectors of this processor need multiples of ", kLanes);
}

Shape shape_of(const at::Tensor& x, int64_t channels, int64_t kernel, int64_t dilation) {
  check(x, channels, "dwconv");
  TORCH_CHECK(kernel % 2 == 1, "van_mm::dwconv got a kernel of even size. Use an odd kernel size.");
  return {x.size(2), x.size(3), channels, kernel, dilation};
}

// Calls function(T()) with the element type T of x.
template <typename Function>
void by_type(const at::Tensor& x, Function function) {
  if (x.scalar_type() == at::kFloat)
    function(float());
  else
    function(at::BFloat16());
}

// Depth-wise convolution that keeps the spatial size, optionally followed by GELU. x (N, C, H, W), weight (C, 1, K, K)
// and bias (C) or none give a channels-last map (N, C, H, W). Threads share the rows of the output.
at::Tensor dwconv(const at::Tensor& input, const at::Tensor& weight, const OptionalTensor& bias, int64_t dilation,
                  bool gelu) {
  const Shape s = shape_of(input, input.size(1), weight.size(2), dilation);
  const at::Tensor x = channels_last(input), taps = taps_of(weight), out = empty_pooled_like(x);
  const OptionalTensor shift = as_float(bias);
  const int64_t line = s.width * s.channels;
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T* from = data<T>(x);
    T* to = out.mutable_data_ptr<T>();
    at::parallel_for(0, x.size(0) * s.height, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        convolve_row(s, from + r / s.height * s.height * line, data<float>(taps), data<float>(shift), to + r * line,
                     r % s.height, gelu);
    });
  });
  return out;
}

// Returns the float gradient (C, 1, K, K) of a depth-wise convolution's weight from x and the output's gradient, both
// (N, C, H, W). Each thread adds up a contiguous share of the N * H rows in its own (K * K, C) buffer.
at::Tensor dwconv_weight_grad(const at::Tensor& input, const at::Tensor& grad_output, int64_t kernel,
                              int64_t dilation) {
  const Shape s = shape_of(input, input.size(1), kernel, dilation);
  const at::Tensor x = channels_last(input), grad = channels_last(grad_output);
  const int64_t line = s.width * s.channels, rows = x.size(0) * s.height, threads = at::get_num_threads();
  at::Tensor sums = at::zeros({threads, kernel * kernel, s.channels}, x.options().dtype(at::kFloat));
  float* all_sums = sums.mutable_data_ptr<float>();
  const int64_t share = (rows + threads - 1) / threads;
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T *from = data<T>(x), *g = data<T>(grad);
    at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread)
        for (int64_t r = thread * share; r < std::min(rows, (thread + 1) * share); ++r) {
          const auto [i0, i1] = taps_inside(r % s.height, s.height, kernel, dilation);
          for (int64_t i = i0; i < i1; ++i) {
            const T* row = from + (r + (i - kernel / 2) * dilation) * line;
            float* sums_of_row = all_sums + (thread * kernel + i) * kernel * s.channels;
            int64_t j = 0;
            if (kernel == 3) j = correlate_taps<3, 2>(s, row, g + r * line, sums_of_row, j);
            if (kernel == 5) j = correlate_taps<5, 2>(s, row, g + r * line, sums_of_row, j);
            j = correlate_taps<7, 1>(s, row, g + r * line, sums_of_row, j);
            correlate_taps<1, 1>(s, row, g + r * line, sums_of_row, j);
          }
        }
    });
  });
  return sums.sum(0).t().reshape({s.channels, 1, kernel, kernel});
}

// Returns the weight (O, I, 1, 1) of a 1x1 convolution, times in_scale (I) and out_scale (O), in the layout that
// `pointwise` reads, see kTiled in pointwise.h. With `half` it is bfloat16, otherwise float.
at::Tensor pack(const at::Tensor& weight, const OptionalTensor& in_scale, const OptionalTensor& out_scale, bool half) {
  const int64_t outs = weight.size(0), ins = weight.size(1), count = (outs + kPanel - 1) / kPanel;
  at::Tensor w = weight.to(at::kFloat).select(3, 0).select(2, 0);
  const OptionalTensor in = as_float(in_scale), out = as_float(out_scale);
  if (half && !kTiled<at::BFloat16>) {
    if (in) w = w * *in;
    if (out) w = w * out->unsqueeze(1);
    return w.to(at::kBFloat16).contiguous();
  }
  const int64_t along_out = w.stride(0), along_in = w.stride(1), pair = half ? 2 : 1;
  const at::Tensor packed =
      empty_pooled({count, ins, kPanel}, half ? at::kBFloat16 : at::kFloat, at::MemoryFormat::Contiguous);
  const float *from = w.const_data_ptr<float>(), *by_in = data<float>(in), *by_out = data<float>(out);
  by_type(packed, [&](auto type) {
    using T = decltype(type);
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * kPanel; first < end * kPanel; first += kPanel) {
        const int64_t width = std::min<int64_t>(kPanel, outs - first);
        T* panel = packed.mutable_data_ptr<T>() + first * ins;
        if (width < kPanel) std::fill(panel, panel + ins * kPanel, T(0));
        auto pack_element = [&](int64_t i, int64_t o) {
          const float scale = (by_in ? by_in[i] : 1.0f) * (by_out ? by_out[first + o] : 1.0f);
          panel[(i / pair * kPanel + o) * pair + i % pair] = from[(first + o) * along_out + i * along_in] * scale;
        };
        if (along_out == 1)  // a transposed weight: its outputs are adjacent in memory
          for (int64_t i = 0; i < ins; ++i)
            for (int64_t o = 0; o < width; ++o) pack_element(i, o);
        else  // in groups of kLanes inputs, so that each cache line of the weight is read once
          for (int64_t group = 0; group < ins; group += kLanes)
            for (int64_t o = 0; o < width; ++o)
              for (int64_t i = group; i < std::min(ins, group + kLanes); ++i) pack_element(i, o);
      }
    });
  });
  return half ? packed.view({count, ins / 2, kPanel, 2}) : packed;
}

// Backward pass of absorbing `slope x + shift` into a 1x1 convolution, which multiplies its weight by slope and adds
// `weight shift` to its bias. Given the gradients of the new weight (O, I) and bias (O), replaces `grad` by the
// gradient of the original weight, and returns the gradients of slope and shift (I). All tensors are floats.
std::tuple<at::Tensor, at::Tensor> unpack_norm(at::Tensor grad, const at::Tensor& grad_bias, const at::Tensor& weight,
                                               const at::Tensor& slope, const at::Tensor& shift) {
  const int64_t outs = weight.size(0), ins = weight.size(1);
  TORCH_CHECK(grad.is_contiguous() && weight.is_contiguous(),
              "van_mm::unpack_norm got a weight that is not contiguous. Call contiguous().");
  const at::Tensor sums = at::zeros({2, ins}, slope.options());
  const float *w = data<float>(weight), *a = data<float>(slope), *t = data<float>(shift), *gb = data<float>(grad_bias);
  float *g = grad.mutable_data_ptr<float>(), *by_slope = sums.mutable_data_ptr<float>(), *by_shift = by_slope + ins;
  at::parallel_for(0, ins, 32, [&](int64_t begin, int64_t end) {
    for (int64_t o = 0; o < outs; ++o)
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        by_slope[i] += g[o * ins + i] * w[o * ins + i];
        by_shift[i] += gb[o] * w[o * ins + i];
        g[o * ins + i] = g[o * ins + i] * a[i] + gb[o] * t[i];
      }
  });
  return {sums[0], sums[1]};
}

// Backward pass of absorbing a factor gamma (O) of the output into a 1x1 convolution, which multiplies its weight by
// gamma. Given the gradient of the new weight (O, I), replaces it by the gradient of the original weight, and returns
// the weight's share of gamma's gradient (O). All tensors are floats.
at::Tensor unpack_scale(at::Tensor grad, const at::Tensor& weight, const at::Tensor& gamma) {
  const int64_t outs = weight.size(0), ins = weight.size(1);
  TORCH_CHECK(grad.is_contiguous() && weight.is_contiguous(),
              "van_mm::unpack_scale got a weight that is not contiguous. Call contiguous().");
  const at::Tensor sums = at::zeros_like(gamma);
  const float *w = data<float>(weight), *s = data<float>(gamma);
  float *g = grad.mutable_data_ptr<float>(), *sum = sums.mutable_data_ptr<float>();
  at::parallel_for(0, outs, 16, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = o * ins; i < (o + 1) * ins; ++i) {
        total += g[i] * w[i];
        g[i] *= s[o];
      }
      sum[o] = total;
    }
  });
  return sums;
}

// Checks that a weight of `ins` inputs and `outs` outputs is packed for the type of x, or is a float matrix (I, O).
void check_weight(const at::Tensor& weight, int64_t ins, int64_t outs, const at::Tensor& x) {
  const bool half = x.scalar_type() == at::kBFloat16;
  const int64_t count = (outs + kPanel - 1) / kPanel;
  const std::vector<int64_t> sizes = !half                  ? std::vector<int64_t>{count, ins, kPanel}
                                     : kTiled<at::BFloat16> ? std::vector<int64_t>{count, ins / 2, kPanel, 2}
                                                            : std::vector<int64_t>{outs, ins};
  const bool matrix = !half && weight.sizes() == at::IntArrayRef({ins, outs});
  TORCH_CHECK(weight.scalar_type() == x.scalar_type() && weight.is_contiguous() && (matrix || weight.sizes() == sizes),
              "the weight is not packed for this input. Pack it with van_mm::pack. Its shape and type are ",
              weight.sizes(), " and ", weight.scalar_type());
  TORCH_CHECK(!half || ins % 2 == 0, "the number of input channels is odd. bfloat16 needs an even number.");
}

// 1x1 convolution of x (N, I, H, W), followed by the operations of Epilogue. Returns a channels-last map (N, O, H, W).
// The weight comes from `pack` or, for floats, is a contiguous matrix (I, O). The shapes of `bias`, `scale` and `slope`
// are (O), those of `times`, `before` and `plus` (N, O, H, W).
at::Tensor pointwise(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias, bool gelu,
                     const OptionalTensor& scale, const OptionalTensor& times, const OptionalTensor& before,
                     const OptionalTensor& plus, const OptionalTensor& slope) {
  const int64_t ins = input.size(1), outs = bias.size(0), rows = input.size(0) * input.size(2) * input.size(3);
  check(input, outs, "pointwise");
  check_weight(packed, ins, outs, input);
  const at::Tensor x = channels_last(input), shift = as_float(bias);
  const at::Tensor out =
      empty_pooled({x.size(0), outs, x.size(2), x.size(3)}, x.scalar_type(), at::MemoryFormat::ChannelsLast);
  const OptionalTensor gate = channels_last(times), active = channels_last(before), shortcut = channels_last(plus),
                       factor = as_float(slope), scales = as_float(scale);
  const int64_t threads = at::get_num_threads();
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const Epilogue<T> e{
        data<float>(shift), gelu, data<float>(scales), data<T>(gate), data<T>(active), data<T>(shortcut),
        data<float>(factor)};
    const T* from = data<T>(x);
    T* to = out.mutable_data_ptr<T>();
    if constexpr (kTiled<T>)
      if (rows < 192 * threads) {  // few pixels, as in the last stages of a small image: threads share the panels
        at::parallel_for(0, (outs + kPanel - 1) / kPanel, 1, [&](int64_t begin, int64_t end) {
          multiply(from, ins, packed, to, outs, 0, rows, e, begin, end);
        });
        return;
      }
    const int64_t step = kTiled<T> ? 4 * kRows : std::max<int64_t>(64, 65536 / outs);
    at::parallel_for(0, (rows + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * step; first < std::min(rows, end * step); first += step)
        multiply(from + first * ins, ins, packed, to + first * outs, outs, first, std::min(rows, first + step), e);
    });
  });
  return out;
}

// Returns x + fc2(gelu(dw3x3(fc1(x)))) for x (N, C, H, W), with the packed weights fc1 (D, C) and fc2 (C, D), the
// biases bias1 (D), bias (D) and bias2 (C), and the depth-wise weight dw (D, 1, 3, 3). Threads share the N * H rows.
at::Tensor feed_forward(const at::Tensor& input, const at::Tensor& fc1, const at::Tensor& bias1, const at::Tensor& dw,
                        const at::Tensor& bias, const at::Tensor& fc2, const at::Tensor& bias2) {
  const int64_t channels = input.size(1), rows = input.size(0) * input.size(2);
  check(input, channels, "feed_forward");
  check_weight(fc1, channels, dw.size(0), input);
  check_weight(fc2, dw.size(0), channels, input);
  const Shape s = shape_of(input, dw.size(0), dw.size(2), 1);
  // Adjacent threads both compute fc1 of the rows at their border, which costs too much if each has few rows.
  if (rows < 16 * at::get_num_threads())
    return pointwise(dwconv(pointwise(input, fc1, bias1, false, {}, {}, {}, {}, {}), dw, bias, 1, true), fc2, bias2,
                     false, {}, {}, {}, input, {});
  const at::Tensor x = channels_last(input), out = empty_pooled_like(x), taps = taps_of(dw);
  const at::Tensor b1 = as_float(bias1), b = as_float(bias), b2 = as_float(bias2);
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const int64_t image = s.height * s.width * channels,
                  band = std::max<int64_t>(1, (kTiled<T> ? 98304 : 393216) / (s.width * s.channels));
    at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> hidden, active;
      for (int64_t r = begin; r < end;) {
        const int64_t n = r / s.height, y = r % s.height, last = std::min(s.height, y + end - r);
        feed_forward_rows<T>(s, data<T>(x) + n * image, channels, fc1, data<float>(b1), data<float>(taps),
                             data<float>(b), fc2, data<float>(b2), out.mutable_data_ptr<T>() + n * image, y, last, band,
                             hidden, active);
        r += last - y;
      }
    });
  });
  return out;
}

// Calls function(i) with the offset i of each group of kLanes elements of a map.
template <typename Function>
void for_each_register(const at::Tensor& x, Function function) {
  at::parallel_for(0, x.numel() / kLanes, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kLanes; i < end * kLanes; i += kLanes) function(i);
  });
}

// GELU of a map (N, C, H, W).
at::Tensor activate(const at::Tensor& input) {
  check(input, input.size(1), "gelu");
  const at::Tensor x = channels_last(input), out = empty_pooled_like(x);
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T* from = data<T>(x);
    T* to = out.mutable_data_ptr<T>();
    for_each_register(x, [&](int64_t i) { store(to + i, gelu(load(from + i))); });
  });
  return out;
}

// The gradient of GELU's input, from the gradient of its output and the input, both (N, C, H, W).
at::Tensor activate_backward(const at::Tensor& grad_output, const at::Tensor& input) {
  check(input, input.size(1), "gelu_backward");
  const at::Tensor x = channels_last(input), grad = channels_last(grad_output), out = empty_pooled_like(x);
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T *from = data<T>(x), *g = data<T>(grad);
    T* to = out.mutable_data_ptr<T>();
    for_each_register(x, [&](int64_t i) { store(to + i, load(g + i) * gelu_slope(load(from + i))); });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY(van_mm, m) {
  m.def("gelu(Tensor x) -> Tensor");
  m.def("gelu_backward(Tensor grad, Tensor x) -> Tensor");
  m.def("dwconv(Tensor x, Tensor weight, Tensor? bias, int dilation, bool gelu=False) -> Tensor");
  m.def("dwconv_weight_grad(Tensor x, Tensor grad, int kernel, int dilation) -> Tensor");
  m.def("pack(Tensor weight, Tensor? in_scale=None, Tensor? out_scale=None, bool half=False) -> Tensor");
  m.def(
      "unpack_norm(Tensor(a!) grad, Tensor grad_bias, Tensor weight, Tensor slope, Tensor shift) -> (Tensor, Tensor)");
  m.def("unpack_scale(Tensor(a!) grad, Tensor weight, Tensor gamma) -> Tensor");
  m.def(
      "pointwise(Tensor x, Tensor packed, Tensor bias, bool gelu=False, Tensor? scale=None, Tensor? times=None, "
      "Tensor? before=None, Tensor? plus=None, Tensor? slope=None) -> Tensor");
  m.def("feed_forward(Tensor x, Tensor fc1, Tensor bias1, Tensor dw, Tensor bias, Tensor fc2, Tensor bias2) -> Tensor");
}
TORCH_LIBRARY_IMPL(van_mm, CPU, m) {
  m.impl("gelu", activate);
  m.impl("gelu_backward", activate_backward);
  m.impl("dwconv", dwconv);
  m.impl("dwconv_weight_grad", dwconv_weight_grad);
  m.impl("pack", pack);
  m.impl("unpack_norm", unpack_norm);
  m.impl("unpack_scale", unpack_scale);
  m.impl("pointwise", pointwise);
  m.impl("feed_forward", feed_forward);
}

}  // namespace van_mm
