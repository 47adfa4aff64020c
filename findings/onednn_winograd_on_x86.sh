#!/usr/bin/env bash
# oneDNN 3.2 on x86-64: convolution_winograd cannot be created, and convolution_auto never chooses it.
#
# One would guess that 3x3 convolutions in float32 can have Winograd's algorithm here: the header declares
# it, as the other choice of convolution_auto, and the versions of 2019 had it for AVX-512 (0.18). But for
# x86-64 nothing implements it any more: each descriptor with it is refused as `unimplemented`, as a wrong shape
# would be, and convolution_auto becomes convolution_direct, for few and many channels, in inference as in
# training. Winograd's algorithm is left for ARM only.
# Hurt: who reckons with its 16 products for 36 in VGG or ResNet on CPUs, as on GPUs; who asks for it, and looks
# for a mistake in shapes and formats.
# Source: oneDNN's pull request 3139 (of ARM's, the only one) and issues 436 and 491 (AVX-512 in 0.18).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check \
  onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
cat >"$folder/probe.cc" <<'END'
#include <cstdio>

#include "oneapi/dnnl/dnnl.hpp"

using namespace dnnl;
using Tag = memory::format_tag;

int main() {
  const engine cpu(engine::kind::cpu, 0);
  const dnnl_version_t* version = dnnl_version();
  std::printf("oneDNN %d.%d.%d\n", version->major, version->minor, version->patch);
  int winograd = 0, direct = 0;
  for (const auto kind : {prop_kind::forward_inference, prop_kind::forward_training}) {
    for (const memory::dim channels : {16, 64, 128, 256, 512}) {
      const auto array = [&](memory::dims dims) {
        return memory::desc(dims, memory::data_type::f32, Tag::any);
      };
      const auto images = array({8, channels, 28, 28}), kernel = array({channels, channels, 3, 3});
      const memory::dims ones{1, 1};
      const auto described = [&](algorithm chosen) {
        return convolution_forward::primitive_desc(cpu, kind, chosen, images, kernel, images, ones,
                                                   ones, ones);
      };
      try {
        described(algorithm::convolution_winograd);
        ++winograd;
      } catch (const error& failure) {
        if (failure.status != dnnl_unimplemented) return 2;
      }
      const auto automatic = described(algorithm::convolution_auto);
      direct += automatic.get_algorithm() == algorithm::convolution_direct;
      std::printf("%3d channels: convolution_auto is %s\n", int(channels), automatic.impl_info_str());
    }
  }
  std::printf("of 10 descriptors: convolution_winograd %d, convolution_auto as direct %d\n", winograd,
              direct);
  return winograd == 0 && direct == 10 ? 0 : 1;
}
END
g++ -std=c++17 -w -I"$folder/venv/include" "$folder/probe.cc" "$folder/venv/lib/libdnnl.so.3" \
  -Wl,-rpath,"$folder/venv/lib" -o "$folder/probe"
"$folder/probe" || {
  echo 'the behavior has changed' >&2
  exit 1
}
