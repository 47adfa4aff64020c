#!/usr/bin/env bash
# oneDNN 3.2 with AVX2: in channels-last the gradient of a 3x3 kernel takes several times as long as the
# convolution, and as the same gradient with channels in blocks of 8.
#
# One would guess that a kernel's gradient, with as many products as the convolution itself, takes about as long,
# and that channels-last is the layout to choose, as it is forward. With fewer pixels there is less
# to see. With AVX2 forward has `brgconv` for channels-last, but the gradient of the kernel has only the older
# `jit:avx2`, as for blocks of 8 channels, and takes 4 to 6 times as long as there.
# Hurt: training in channels-last (NHWC, or PyTorch's memory format) on processors without AVX-512; who profiles
# a step, and looks for the fault in the threads or in the optimizer.
# Source: the output below. ONEDNN_VERBOSE=1 shows the same implementations in a step of PyTorch.
set -euo pipefail
if ! grep -qw avx2 /proc/cpuinfo; then
  echo 'a processor without AVX2: nothing to see'
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
cat >"$folder/probe.cc" <<'END'
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"

using namespace dnnl;
using Clock = std::chrono::steady_clock;

memory Filled(const memory::desc& desc, const engine& on) {
  memory made(desc, on);
  std::fill_n(static_cast<float*>(made.get_data_handle()), desc.get_size() / 4, 0.5f);
  return made;
}

double Milliseconds(const primitive& work, const std::unordered_map<int, memory>& with, stream& on) {
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    const auto begin = Clock::now();
    work.execute(on, with);
    on.wait();
    best = std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  }
  return best;
}

int main() {
  const engine cpu(engine::kind::cpu, 0);
  stream on(cpu);
  const dnnl_version_t* version = dnnl_version();
  std::printf("oneDNN %d.%d.%d\n", version->major, version->minor, version->patch);
  const memory::dims ones{1, 1};
  const auto type = memory::data_type::f32;
  double grads[2];
  std::string names[2];
  for (const bool blocks : {false, true}) {
    const auto tag = blocks ? memory::format_tag::nChw8c : memory::format_tag::nhwc;
    const memory::desc images({8, 64, 160, 160}, type, tag);
    const memory::desc kernel({64, 64, 3, 3}, type, memory::format_tag::any);
    const convolution_forward::primitive_desc forward(cpu, prop_kind::forward_training,
                                                      algorithm::convolution_direct, images, kernel,
                                                      images, ones, ones, ones);
    const convolution_backward_weights::primitive_desc grad(
        cpu, algorithm::convolution_direct, images, kernel, images, ones, ones, ones, forward);
    const memory x = Filled(images, cpu), y = Filled(images, cpu);
    const double itself = Milliseconds(convolution_forward(forward),
                                       {{DNNL_ARG_SRC, x},
                                        {DNNL_ARG_WEIGHTS, Filled(forward.weights_desc(), cpu)},
                                        {DNNL_ARG_DST, y}},
                                       on);
    grads[blocks] = Milliseconds(convolution_backward_weights(grad),
                                 {{DNNL_ARG_SRC, x},
                                  {DNNL_ARG_DIFF_DST, y},
                                  {DNNL_ARG_DIFF_WEIGHTS, Filled(grad.diff_weights_desc(), cpu)}},
                                 on);
    names[blocks] = grad.impl_info_str();
    std::printf("%-16s convolution %4.0f ms (%s), gradient of the kernel %4.0f ms (%s)\n",
                blocks ? "blocks of 8:" : "channels-last:", itself, forward.impl_info_str(),
                grads[blocks], grad.impl_info_str());
  }
  std::printf("channels-last / blocks: %.1f\n", grads[0] / grads[1]);
  return grads[0] > 1.5 * grads[1] && names[0] == "jit:avx2" && names[1] == "jit:avx2" ? 0 : 1;
}
END
g++ -std=c++17 -O2 -w -I"$folder/venv/include" "$folder/probe.cc" "$folder/venv/lib/libdnnl.so.3" \
  -Wl,-rpath,"$folder/venv/lib" -o "$folder/probe"
ONEDNN_MAX_CPU_ISA=AVX2 "$folder/probe" || {
  echo 'the behavior has changed' >&2
  exit 1
}
# Seen on two cores of an AMD EPYC without AVX-512:
# oneDNN 3.2.0
# channels-last:   convolution   88 ms (brgconv:avx2), gradient of the kernel  668 ms (jit:avx2)
# blocks of 8:     convolution  100 ms (jit:avx2), gradient of the kernel  119 ms (jit:avx2)
# channels-last / blocks: 5.6
