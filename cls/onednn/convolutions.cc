// Convolutions of oneDNN and their two gradients, as functions that XLA's programs for CPU call.
//
// Images are NHWC and kernels HWIO, as in cls.nn. oneDNN prefers kernels in blocks: they are
// reordered in each call, which costs little, since kernels are small beside images. In inference
// the reorder also scales the channels of the result: a scaled copy of every kernel would take as
// much memory as the network. The convolution then adds a bias for each channel, on request an
// array of the result's shape, and applies an activation, before it writes the result.
//
// Windows of 3 x 3 pixels at stride 1 are computed by Winograd's algorithm where this pays
// (winograd.h).

#include <omp.h>

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "aligned.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "threads.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using dnnl::memory;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;
using Numbers = ffi::Span<const int64_t>;

namespace {

enum Kind { kForward, kImageGrad, kKernelGrad, kInference };
enum Activation { kNone, kRelu, kRelu6, kSwish, kHardSwish };

struct Shapes {
  Numbers images, kernel, output, strides, pads, dilation;
  int64_t groups;
  int64_t activation = kNone;
  bool adds = false;
};

struct Prepared {
  dnnl::primitive convolution, reorder;
  memory::desc images, kernel, blocked_kernel, output, scratchpad;

  void Reorder(bool back);
  void Scale(bool grouped);
};

struct Workspace {
  std::vector<char> kernel, scratch;
};

std::mutex mutex;  // of `prepared` and `idle`
std::condition_variable released;
std::map<std::vector<int64_t>, Prepared> prepared;

// As many convolutions at a time as there are cores for their threads, one unless OMP_NUM_THREADS
// is set: each has its memory for kernels and scratch.
std::vector<Workspace*>& Idle() {
  static std::vector<Workspace*> idle = [] {
    const int most = std::max(1, omp_get_num_procs() / omp_get_max_threads());
    std::vector<Workspace*> all;
    for (int i = 0; i < most; ++i) all.push_back(new Workspace);
    return all;
  }();
  return idle;
}

const dnnl::engine& Cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

void Prepared::Reorder(bool back) {
  if (blocked_kernel == kernel) return;
  reorder = dnnl::reorder({Cpu(), back ? blocked_kernel : kernel, Cpu(),
                           back ? kernel : blocked_kernel});
}

void Prepared::Scale(bool grouped) {
  dnnl::primitive_attr attributes;
  // For groups and channels, or for channels.
  attributes.set_scales_mask(DNNL_ARG_FROM, grouped ? 3 : 1);
  reorder = dnnl::reorder({Cpu(), kernel, Cpu(), blocked_kernel, attributes});
}

memory In(std::vector<char>& space, const memory::desc& desc) {
  return memory(desc, Cpu(), Aligned(space, desc.get_size()));
}

memory::desc Images(Numbers shape) {
  return memory::desc({shape[0], shape[3], shape[1], shape[2]}, memory::data_type::f32,
                      memory::format_tag::nhwc);
}

memory::desc Kernel(Numbers shape, int64_t groups) {
  const int64_t height = shape[0], width = shape[1], in = shape[2], out = shape[3];
  memory::dims dims{out / groups, in, height, width};
  memory::dims strides{1, out, width * in * out, in * out};
  if (groups > 1) {
    dims.insert(dims.begin(), groups);
    strides.insert(strides.begin(), out / groups);
  }
  return memory::desc(dims, memory::data_type::f32, strides);
}

// max(x, 0). oneDNN's own makes a NaN 0, and a network with broken statistics would seem to work:
// here the NaN is multiplied.
void AppendRelu(dnnl::post_ops& ops) {
  constexpr float kStep = std::numeric_limits<float>::max();
  ops.append_eltwise(dnnl::algorithm::eltwise_hardswish, kStep, 0.0f);  // x * clip(kStep * x, 0, 1)
}

dnnl::post_ops After(const Shapes& s) {
  dnnl::post_ops ops;
  if (s.adds) ops.append_binary(dnnl::algorithm::binary_add, Images(s.output));
  switch (s.activation) {
    case kRelu:
      AppendRelu(ops);
      break;
    case kRelu6:  // 6 - relu(6 - relu(x))
      for (int i = 0; i < 2; ++i) {
        AppendRelu(ops);
        ops.append_eltwise(dnnl::algorithm::eltwise_linear, -1.0f, 6.0f);
      }
      break;
    case kSwish:
      ops.append_eltwise(dnnl::algorithm::eltwise_swish, 1.0f, 0.0f);
      break;
    case kHardSwish:
      ops.append_eltwise(dnnl::algorithm::eltwise_hardswish, 1.0f / 6, 0.5f);
      break;
    default:
      break;
  }
  return ops;
}

memory::desc Channels(Numbers output) {
  return memory::desc({output[3]}, memory::data_type::f32, memory::format_tag::x);
}

template <typename Descriptor>
void Fill(Prepared& p, const Descriptor& descriptor, const memory::desc& blocked_kernel) {
  p.convolution = dnnl::primitive(descriptor.get());
  p.blocked_kernel = blocked_kernel;
  p.scratchpad = descriptor.scratchpad_desc();
}

Prepared Prepare(Kind kind, const Shapes& s) {
  Prepared p;
  p.images = Images(s.images);
  p.kernel = Kernel(s.kernel, s.groups);
  p.output = Images(s.output);
  const memory::desc any(p.kernel.get_dims(), memory::data_type::f32, memory::format_tag::any);
  const memory::dims strides{s.strides[0], s.strides[1]};
  const memory::dims dilation{s.dilation[0] - 1, s.dilation[1] - 1};
  const memory::dims before{s.pads[0], s.pads[2]}, after{s.pads[1], s.pads[3]};
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  if (kind == kInference) {
    attributes.set_post_ops(After(s));
    const dnnl::convolution_forward::primitive_desc inference(
        Cpu(), dnnl::prop_kind::forward_inference, direct, p.images, any, Channels(s.output),
        p.output, strides, dilation, before, after, attributes);
    Fill(p, inference, inference.weights_desc());
    p.Scale(s.groups > 1);
    return p;
  }
  const dnnl::convolution_forward::primitive_desc forward(
      Cpu(), dnnl::prop_kind::forward_training, direct, p.images, any, p.output, strides, dilation,
      before, after, attributes);
  if (kind == kForward) {
    Fill(p, forward, forward.weights_desc());
  } else if (kind == kImageGrad) {
    const dnnl::convolution_backward_data::primitive_desc backward(
        Cpu(), direct, p.images, any, p.output, strides, dilation, before, after, forward,
        attributes);
    Fill(p, backward, backward.weights_desc());
  } else {
    const dnnl::convolution_backward_weights::primitive_desc backward(
        Cpu(), direct, p.images, any, p.output, strides, dilation, before, after, forward,
        attributes);
    Fill(p, backward, backward.diff_weights_desc());
  }
  p.Reorder(kind == kKernelGrad);
  return p;
}

const Prepared& Find(Kind kind, const Shapes& s) {
  std::vector<int64_t> key{kind, s.groups, s.activation, s.adds, omp_get_max_threads()};
  for (Numbers numbers : {s.images, s.kernel, s.output, s.strides, s.pads, s.dilation}) {
    key.insert(key.end(), numbers.begin(), numbers.end());
  }
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = prepared.find(key);
  if (found != prepared.end()) return found->second;
  return prepared.emplace(key, Prepare(kind, s)).first->second;
}

// Whether one thread computes a convolution: it reads and writes less than 1 MB of images, with few
// products. Depthwise ones have few for their images, and are bound by memory.
bool IsSmall(const Shapes& s) {
  const auto size = [](Numbers shape) { return shape[0] * shape[1] * shape[2] * shape[3]; };
  const int64_t outputs = size(s.output);
  return size(s.images) + outputs < 4 * cls::kSharedElements &&
         outputs * s.kernel[0] * s.kernel[1] * s.kernel[2] < cls::kSharedProducts;
}

// A workspace, for one call. Small calls have that of their thread, and need not wait.
class Call {
 public:
  explicit Call(bool small) {
    if (small) {
      static thread_local Workspace own;
      alone.emplace();
      space = &own;
      return;
    }
    std::unique_lock<std::mutex> lock(mutex);
    released.wait(lock, [] { return !Idle().empty(); });
    space = Idle().back();
    Idle().pop_back();
  }
  ~Call() {
    if (alone) return;
    const std::lock_guard<std::mutex> lock(mutex);
    Idle().push_back(space);
    released.notify_one();
  }

  Workspace* space;
  std::optional<cls::OneThread> alone;
};

struct Data {
  void *images, *kernel, *output, *factor = nullptr, *bias = nullptr, *added = nullptr;
};

// The convolution for Winograd's algorithm, if it can and should compute this.
std::optional<cls::Conv3x3> ForWinograd(Kind kind, const Shapes& s, const Data& d) {
  const auto ones = [](Numbers numbers) { return numbers[0] == 1 && numbers[1] == 1; };
  if (s.kernel[0] != 3 || s.kernel[1] != 3 || s.groups != 1 || !ones(s.strides) ||
      !ones(s.dilation) || s.activation == kSwish || s.activation == kHardSwish) {
    return std::nullopt;
  }
  cls::Conv3x3 conv;
  const bool back = kind == kImageGrad;
  const Numbers from = back ? s.output : s.images, to = back ? s.images : s.output;
  conv.count = from[0], conv.height = from[1], conv.width = from[2], conv.inputs = from[3];
  conv.out_height = to[1], conv.out_width = to[2], conv.outputs = to[3];
  conv.top = back ? 2 - s.pads[0] : s.pads[0], conv.left = back ? 2 - s.pads[2] : s.pads[2];
  conv.images = static_cast<float*>(back ? d.output : d.images);
  conv.result = static_cast<float*>(back ? d.images : d.output);
  conv.kernel = static_cast<float*>(d.kernel), conv.transposed = back;
  if (kind == kKernelGrad) {
    conv.grad = conv.result, conv.result = static_cast<float*>(d.kernel), conv.kernel = nullptr;
  }
  conv.factor = static_cast<float*>(d.factor), conv.bias = static_cast<float*>(d.bias);
  conv.added = static_cast<float*>(d.added), conv.clipped = s.activation != kNone;
  conv.most = s.activation == kRelu6 ? 6.0f : std::numeric_limits<float>::infinity();
  return cls::WinogradPays(conv) ? std::optional(conv) : std::nullopt;
}

ffi::Error Run(Kind kind, const Shapes& shapes, const Data& data) {
  try {
    const Call call(IsSmall(shapes));
    if (const auto conv = ForWinograd(kind, shapes, data)) {
      cls::Winograd(*conv, call.space->kernel, call.space->scratch);
      return ffi::Error::Success();
    }
    const Prepared& p = Find(kind, shapes);
    dnnl::stream stream(Cpu());
    const bool reordered = data.factor || p.blocked_kernel != p.kernel;
    const memory user(p.kernel, Cpu(), data.kernel);
    const memory blocked = reordered ? In(call.space->kernel, p.blocked_kernel) : user;
    if (data.factor) {
      const memory factors(Channels(shapes.output), Cpu(), data.factor);
      p.reorder.execute(stream, {{DNNL_ARG_FROM, user},
                                 {DNNL_ARG_TO, blocked},
                                 {DNNL_ARG_ATTR_SCALES | DNNL_ARG_FROM, factors}});
    } else if (reordered && kind != kKernelGrad) {
      p.reorder.execute(stream, {{DNNL_ARG_FROM, user}, {DNNL_ARG_TO, blocked}});
    }
    const bool forward = kind == kForward || kind == kInference;
    const int source = kind == kImageGrad ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC;
    std::unordered_map<int, memory> arguments{
        {source, memory(p.images, Cpu(), data.images)},
        {kind == kKernelGrad ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, blocked},
        {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, memory(p.output, Cpu(), data.output)},
        {DNNL_ARG_SCRATCHPAD, In(call.space->scratch, p.scratchpad)}};
    if (data.bias) {
      arguments.emplace(DNNL_ARG_BIAS, memory(Channels(shapes.output), Cpu(), data.bias));
    }
    if (data.added) {
      arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                        memory(p.output, Cpu(), data.added));
    }
    p.convolution.execute(stream, arguments);
    if (reordered && kind == kKernelGrad) {
      p.reorder.execute(stream, {{DNNL_ARG_FROM, blocked}, {DNNL_ARG_TO, user}});
    }
    stream.wait();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("convolution: ") + error.what());
  }
  return ffi::Error::Success();
}

ffi::Error Forward(Array images, Array kernel, Result output, Numbers strides, Numbers pads,
                   Numbers dilation, int64_t groups) {
  const Shapes shapes{images.dimensions(), kernel.dimensions(), output->dimensions(), strides,
                      pads, dilation, groups};
  return Run(kForward, shapes,
             {images.untyped_data(), kernel.untyped_data(), output->untyped_data()});
}

ffi::Error ImageGrad(Array kernel, Array grad, Result images, Numbers strides, Numbers pads,
                     Numbers dilation, int64_t groups) {
  const Shapes shapes{images->dimensions(), kernel.dimensions(), grad.dimensions(), strides,
                      pads, dilation, groups};
  return Run(kImageGrad, shapes,
             {images->untyped_data(), kernel.untyped_data(), grad.untyped_data()});
}

ffi::Error KernelGrad(Array images, Array grad, Result kernel, Numbers strides, Numbers pads,
                      Numbers dilation, int64_t groups) {
  const Shapes shapes{images.dimensions(), kernel->dimensions(), grad.dimensions(), strides,
                      pads, dilation, groups};
  return Run(kKernelGrad, shapes,
             {images.untyped_data(), kernel->untyped_data(), grad.untyped_data()});
}

ffi::Error Inference(Array images, Array kernel, Array factor, Array bias,
                     ffi::RemainingArgs others, Result output, Numbers strides, Numbers pads,
                     Numbers dilation, int64_t groups, int64_t activation) {
  const bool adds = others.size() > 0;
  const Shapes shapes{images.dimensions(), kernel.dimensions(), output->dimensions(), strides,
                      pads, dilation, groups, activation, adds};
  void* added = adds ? others.get<Array>(0)->untyped_data() : nullptr;
  return Run(kInference, shapes,
             {images.untyped_data(), kernel.untyped_data(), output->untyped_data(),
              factor.untyped_data(), bias.untyped_data(), added});
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(cls_conv_inference, Inference,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .RemainingArgs()
                                  .Ret<Array>()
                                  .Attr<Numbers>("strides")
                                  .Attr<Numbers>("pads")
                                  .Attr<Numbers>("dilation")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("activation"));

#define CLS_CONVOLUTION(name, function)                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function,                   \
                                ffi::Ffi::Bind()                  \
                                    .Arg<Array>()                 \
                                    .Arg<Array>()                 \
                                    .Ret<Array>()                 \
                                    .Attr<Numbers>("strides")     \
                                    .Attr<Numbers>("pads")        \
                                    .Attr<Numbers>("dilation")    \
                                    .Attr<int64_t>("groups"))

CLS_CONVOLUTION(cls_conv, Forward);
CLS_CONVOLUTION(cls_conv_image_grad, ImageGrad);
CLS_CONVOLUTION(cls_conv_kernel_grad, KernelGrad);

extern "C" const char* cls_onednn_version() {
  static const std::string version = [] {
    const dnnl_version_t* v = dnnl_version();
    return std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
           std::to_string(v->patch);
  }();
  return version.c_str();
}
