// The operators of van_mm: VAN's layers on channels-last tensors of float or bfloat16 on the CPU.
//
// PyTorch's CPU libraries have no fast kernel for dilated depth-wise convolutions, nor for the gradients of any, and
// pass over memory once more for each GELU, gate and shortcut. Here the channels of a pixel, which lie side by side,
// fill the vector registers, taps outside of the image are never visited, and element-wise work is done where its input
// is made.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "pointwise.h"
#include "pool.h"

namespace van_mm {
namespace {

using Maybe = std::optional<at::Tensor>;

at::Tensor channels_last(const at::Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }
at::Tensor as_float(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }
Maybe channels_last(const Maybe& x) { return x ? Maybe(channels_last(*x)) : x; }
Maybe as_float(const Maybe& x) { return x ? Maybe(as_float(*x)) : x; }

template <typename T>
const T* data(const at::Tensor& x) {
  return x.const_data_ptr<T>();
}
template <typename T>
const T* data(const Maybe& x) {
  return x ? x->const_data_ptr<T>() : nullptr;
}

// The (C, 1, K, K) weight as (K * K, C) floats.
at::Tensor taps_of(const at::Tensor& weight) {
  return weight.to(at::kFloat).reshape({weight.size(0), -1}).t().contiguous();
}

void check(const at::Tensor& x, int64_t channels, const char* name) {
  TORCH_CHECK(x.dim() == 4 && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16), "van_mm::", name,
              " takes float or bfloat16 tensors (N, C, H, W)");
  TORCH_CHECK(channels % kLanes == 0, "van_mm::", name, " takes channels in multiples of ", kLanes);
}

Shape shape_of(const at::Tensor& x, int64_t channels, int64_t kernel, int64_t dilation) {
  check(x, channels, "dwconv");
  TORCH_CHECK(kernel % 2 == 1, "van_mm::dwconv takes odd kernels");
  return {x.size(2), x.size(3), channels, kernel, dilation};
}

template <typename Function>
void by_type(const at::Tensor& x, Function function) {
  if (x.scalar_type() == at::kFloat)
    function(float());
  else
    function(at::BFloat16());
}

// x (N, C, H, W), weight (C, 1, K, K), bias (C) or none -> (N, C, H, W), channels last, GELU of it if asked.
at::Tensor dwconv(const at::Tensor& input, const at::Tensor& weight, const Maybe& bias, int64_t dilation, bool gelu) {
  const Shape s = shape_of(input, input.size(1), weight.size(2), dilation);
  const at::Tensor x = channels_last(input), taps = taps_of(weight), out = fresh_like(x);
  const Maybe shift = as_float(bias);
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

// The gradient (C, 1, K, K) of the weight, from x and the gradient of the output.
at::Tensor dwconv_weight_grad(const at::Tensor& input, const at::Tensor& grad_output, int64_t kernel,
                              int64_t dilation) {
  const Shape s = shape_of(input, input.size(1), kernel, dilation);
  const at::Tensor x = channels_last(input), grad = channels_last(grad_output);
  const int64_t line = s.width * s.channels, rows = x.size(0) * s.height, threads = at::get_num_threads();
  at::Tensor sums = at::zeros({threads, kernel * kernel, s.channels}, x.options().dtype(at::kFloat));
  float* all = sums.mutable_data_ptr<float>();
  const int64_t share = (rows + threads - 1) / threads;
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T *from = data<T>(x), *g = data<T>(grad);
    at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread)
        for (int64_t r = thread * share; r < std::min(rows, (thread + 1) * share); ++r) {
          const auto [i0, i1] = meets(r % s.height, s.height, kernel, dilation);
          for (int64_t i = i0; i < i1; ++i) {
            const T* row = from + (r + (i - kernel / 2) * dilation) * line;
            float* mine = all + (thread * kernel + i) * kernel * s.channels;
            int64_t j = 0;
            if (kernel == 3) j = correlate_taps<3, 2>(s, row, g + r * line, mine, j);
            if (kernel == 5) j = correlate_taps<5, 2>(s, row, g + r * line, mine, j);
            j = correlate_taps<7, 1>(s, row, g + r * line, mine, j);
            correlate_taps<1, 1>(s, row, g + r * line, mine, j);
          }
        }
    });
  });
  return sums.sum(0).t().reshape({s.channels, 1, kernel, kernel});
}

// The weight (O, I, 1, 1) of a 1x1 convolution, times in_scale (I) and out_scale (O), as the products below read it: in
// panels, of floats or, with `half`, of bfloat16, see pointwise.h.
at::Tensor pack(const at::Tensor& weight, const Maybe& in_scale, const Maybe& out_scale, bool half) {
  const int64_t outs = weight.size(0), ins = weight.size(1), count = (outs + kPanel - 1) / kPanel;
  at::Tensor w = weight.to(at::kFloat).select(3, 0).select(2, 0);
  const Maybe in = as_float(in_scale), out = as_float(out_scale);
  if (half && !kTiled<at::BFloat16>) {
    if (in) w = w * *in;
    if (out) w = w * out->unsqueeze(1);
    return w.to(at::kBFloat16).contiguous();
  }
  const int64_t along_out = w.stride(0), along_in = w.stride(1), pair = half ? 2 : 1;
  const at::Tensor packed =
      fresh({count, ins, kPanel}, half ? at::kBFloat16 : at::kFloat, at::MemoryFormat::Contiguous);
  const float *from = w.const_data_ptr<float>(), *by_in = data<float>(in), *by_out = data<float>(out);
  by_type(packed, [&](auto type) {
    using T = decltype(type);
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin * kPanel; first < end * kPanel; first += kPanel) {
        const int64_t wide = std::min<int64_t>(kPanel, outs - first);
        T* panel = packed.mutable_data_ptr<T>() + first * ins;
        if (wide < kPanel) std::fill(panel, panel + ins * kPanel, T(0));
        auto put = [&](int64_t i, int64_t o) {
          const float scale = (by_in ? by_in[i] : 1.0f) * (by_out ? by_out[first + o] : 1.0f);
          panel[(i / pair * kPanel + o) * pair + i % pair] = from[(first + o) * along_out + i * along_in] * scale;
        };
        if (along_out == 1)  // the transposed of a weight
          for (int64_t i = 0; i < ins; ++i)
            for (int64_t o = 0; o < wide; ++o) put(i, o);
        else  // in parts, so that each line of the weight is read once
          for (int64_t part = 0; part < ins; part += kLanes)
            for (int64_t o = 0; o < wide; ++o)
              for (int64_t i = part; i < std::min(ins, part + kLanes); ++i) put(i, o);
      }
    });
  });
  return half ? packed.view({count, ins / 2, kPanel, 2}) : packed;
}

// Of a product with weight * slope and the bias `weight shift`, which is one of `slope x + shift`: from the gradients
// of that weight (O, I) and bias (O) the gradient of the weight, in place, and those of slope and shift (I).
std::tuple<at::Tensor, at::Tensor> unpack_norm(at::Tensor grad, const at::Tensor& grad_bias, const at::Tensor& weight,
                                               const at::Tensor& slope, const at::Tensor& shift) {
  const int64_t outs = weight.size(0), ins = weight.size(1);
  TORCH_CHECK(grad.is_contiguous() && weight.is_contiguous(), "van_mm::unpack_norm takes contiguous weights");
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

// Of a product with weight * gamma: from the gradient of that (O, I) the weight's, in place, and that of gamma (O).
at::Tensor unpack_scale(at::Tensor grad, const at::Tensor& weight, const at::Tensor& gamma) {
  const int64_t outs = weight.size(0), ins = weight.size(1);
  TORCH_CHECK(grad.is_contiguous() && weight.is_contiguous(), "van_mm::unpack_scale takes contiguous weights");
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

// That a weight has these inputs and outputs, and is packed for the type of x.
void check_weight(const at::Tensor& weight, int64_t ins, int64_t outs, const at::Tensor& x) {
  const bool half = x.scalar_type() == at::kBFloat16;
  const int64_t count = (outs + kPanel - 1) / kPanel;
  const std::vector<int64_t> sizes = !half                  ? std::vector<int64_t>{count, ins, kPanel}
                                     : kTiled<at::BFloat16> ? std::vector<int64_t>{count, ins / 2, kPanel, 2}
                                                            : std::vector<int64_t>{outs, ins};
  const bool matrix = !half && weight.sizes() == at::IntArrayRef({ins, outs});
  TORCH_CHECK(weight.scalar_type() == x.scalar_type() && weight.is_contiguous() && (matrix || weight.sizes() == sizes),
              "the weight is not packed for this input: ", weight.sizes(), " of ", weight.scalar_type());
  TORCH_CHECK(!half || ins % 2 == 0, "bfloat16 takes an even number of input channels");
}

// A 1x1 convolution of x (N, I, H, W) by a packed weight, or the transposed (I, O) of one, with bias (O), and what is
// done to its outcome, see Epilogue.
at::Tensor pointwise(const at::Tensor& input, const at::Tensor& packed, const at::Tensor& bias, bool gelu,
                     const Maybe& scale, const Maybe& times, const Maybe& before, const Maybe& plus,
                     const Maybe& slope) {
  const int64_t ins = input.size(1), outs = bias.size(0), rows = input.size(0) * input.size(2) * input.size(3);
  check(input, outs, "pointwise");
  check_weight(packed, ins, outs, input);
  const at::Tensor x = channels_last(input), shift = as_float(bias);
  const at::Tensor out =
      fresh({x.size(0), outs, x.size(2), x.size(3)}, x.scalar_type(), at::MemoryFormat::ChannelsLast);
  const Maybe gate = channels_last(times), active = channels_last(before), shortcut = channels_last(plus),
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
      if (rows < 192 * threads) {  // few pixels, as at a small image's last stages: share out the channels
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

// x + fc2(gelu(dw3x3(fc1(x)))) of x (N, C, H, W), with fc1 (D, C) and fc2 (C, D) packed and dw (D, 1, 3, 3).
at::Tensor feed_forward(const at::Tensor& input, const at::Tensor& fc1, const at::Tensor& bias1, const at::Tensor& dw,
                        const at::Tensor& bias, const at::Tensor& fc2, const at::Tensor& bias2) {
  const int64_t channels = input.size(1), rows = input.size(0) * input.size(2);
  check(input, channels, "feed_forward");
  check_weight(fc1, channels, dw.size(0), input);
  check_weight(fc2, dw.size(0), channels, input);
  const Shape s = shape_of(input, dw.size(0), dw.size(2), 1);
  if (rows < 16 * at::get_num_threads())  // the rows that both of two threads need would cost more than is saved
    return pointwise(dwconv(pointwise(input, fc1, bias1, false, {}, {}, {}, {}, {}), dw, bias, 1, true), fc2, bias2,
                     false, {}, {}, {}, input, {});
  const at::Tensor x = channels_last(input), out = fresh_like(x), taps = taps_of(dw);
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

// Calls function(i) for the first element i of each register of a map.
template <typename Function>
void each(const at::Tensor& x, Function function) {
  at::parallel_for(0, x.numel() / kLanes, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * kLanes; i < end * kLanes; i += kLanes) function(i);
  });
}

at::Tensor activate(const at::Tensor& input) {
  check(input, input.size(1), "gelu");
  const at::Tensor x = channels_last(input), out = fresh_like(x);
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T* from = data<T>(x);
    T* to = out.mutable_data_ptr<T>();
    each(x, [&](int64_t i) { store(to + i, gelu(load(from + i))); });
  });
  return out;
}

at::Tensor activate_backward(const at::Tensor& grad_output, const at::Tensor& input) {
  check(input, input.size(1), "gelu_backward");
  const at::Tensor x = channels_last(input), grad = channels_last(grad_output), out = fresh_like(x);
  by_type(x, [&](auto type) {
    using T = decltype(type);
    const T *from = data<T>(x), *g = data<T>(grad);
    T* to = out.mutable_data_ptr<T>();
    each(x, [&](int64_t i) { store(to + i, load(g + i) * gelu_slope(load(from + i))); });
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
