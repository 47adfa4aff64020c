#!/usr/bin/env bash
# oneDNN 3.2 on x86-64: after a convolution relu and clip make a NaN 0, swish and hardswish keep it.
#
# A fused activation is documented as the operation after the convolution. One would guess that relu(NaN) is NaN,
# as in PyTorch, JAX and NumPy (maximum), or at least that all activations of one library treat it in one way.
# As post-operations eltwise_relu and eltwise_clip are 0 for it, by the order of the operands of one machine
# instruction; eltwise_swish and eltwise_hardswish are NaN. So a network whose weights or statistics have
# diverged ends in finite, plausible outputs once its activations are fused, and a check for finite outputs passes.
# max(x, 0) that keeps NaN is hardswish with a large slope: x * clip(3e38 x, 0, 1), with NaN for -infinity.
# Hurt: who fuses ReLU or ReLU6 into convolutions, and looks for NaN in results only.
# Source: oneDNN, src/cpu/x64/injectors/jit_uni_eltwise_injector.cpp, relu_zero_ns_compute_vector_fwd: vmaxps of
# the value and zero, whose result is the second operand if one of them is NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
cat >"$folder/probe.cc" <<'END'
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

using namespace dnnl;
using Tag = memory::format_tag;

// The first result of a 1x1 convolution with kernels of ones, and an activation, of images of a value.
float After(algorithm activation, float alpha, float beta, float value) {
  const engine cpu(engine::kind::cpu, 0);
  stream run(cpu);
  const auto type = memory::data_type::f32;
  const memory::desc images({1, 16, 8, 8}, type, Tag::nhwc), kernel({16, 16, 1, 1}, type, Tag::any);
  post_ops after;
  after.append_eltwise(activation, alpha, beta);
  primitive_attr attributes;
  attributes.set_post_ops(after);
  const memory::dims one{1, 1}, none{0, 0};
  const convolution_forward::primitive_desc described(cpu, prop_kind::forward_inference,
                                                      algorithm::convolution_direct, images, kernel,
                                                      images, one, none, none, attributes);
  std::vector<float> x(16 * 64, value / 16), w(described.weights_desc().get_size() / 4, 1.0f), y(16 * 64);
  convolution_forward(described).execute(run, {{DNNL_ARG_SRC, memory(images, cpu, x.data())},
                                               {DNNL_ARG_WEIGHTS, memory(described.weights_desc(), cpu, w.data())},
                                               {DNNL_ARG_DST, memory(images, cpu, y.data())}});
  run.wait();
  return y[0];
}

int main() {
  const float nan = std::numeric_limits<float>::quiet_NaN(), steep = std::numeric_limits<float>::max();
  const dnnl_version_t* version = dnnl_version();
  std::printf("oneDNN %d.%d.%d\n", version->major, version->minor, version->patch);
  const float relu = After(algorithm::eltwise_relu, 0, 0, nan);
  const float clip = After(algorithm::eltwise_clip, 0, 6, nan);
  const float swish = After(algorithm::eltwise_swish, 1, 0, nan);
  const float hardswish = After(algorithm::eltwise_hardswish, 1.0f / 6, 0.5f, nan);
  std::printf("of NaN: relu %g, clip to 0..6 %g, swish %g, hardswish %g\n", relu, clip, swish, hardswish);
  std::printf("x * clip(3e38 x, 0, 1):");
  bool exact = std::isnan(After(algorithm::eltwise_hardswish, steep, 0, nan)) &&
               std::isnan(After(algorithm::eltwise_hardswish, steep, 0, -INFINITY));
  for (const float x : {-2.0f, -0.25f, 0.0f, 0.25f, 2.0f}) {
    const float made = After(algorithm::eltwise_hardswish, steep, 0, x);
    std::printf(" %g", made);
    exact = exact && made == std::fmax(x, 0.0f);
  }
  std::printf("\n");
  return relu == 0 && clip == 0 && std::isnan(swish) && std::isnan(hardswish) && exact ? 0 : 1;
}
END
g++ -std=c++17 -w -I"$folder/venv/include" "$folder/probe.cc" "$folder/venv/lib/libdnnl.so.3" \
  -Wl,-rpath,"$folder/venv/lib" -o "$folder/probe"
"$folder/probe" || {
  echo 'the behavior has changed' >&2
  exit 1
}
