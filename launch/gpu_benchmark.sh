#!/usr/bin/env bash
# Compares training steps in bfloat16 with PyTorch's on the GPU of this machine, in ten minutes.
#
#   launch/gpu_benchmark.sh [NETWORK[:BATCHxPIXELS] ...]
#
# Prints images per second, their ratio and the part of the GPU's peak, by default for ResNet-50,
# EfficientNet-B0, DenseNet-121 and, if time remains, NASNet-A large. Each network's results are
# also in OUT/NETWORK.json.
#
#   PYTHON  with JAX for the GPU and the requirements of cls; default: python3. Not needed are
#           tensorflow-datasets, array-record, grain, simplejpeg, scikit-learn.
#   TORCH   with PyTorch, for NASNet-A timm too; default: PYTHON
#   OUT     default: gpu_benchmark
#   LIMIT   seconds; no network is begun after two thirds of them. Default: 560
#   FLAGS   further flags of `cls benchmark networks`, as --quick
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

help_if_asked "launch/gpu_benchmark.sh" "$@"
return_to_caller
out=${OUT:-gpu_benchmark} limit=${LIMIT:-560}
read -ra flags <<<"${FLAGS:-}"
networks=("$@")
if ((!$#)); then
  networks=(resnet50 efficientnet_b0 densenet121 nasnet_a_large:64x331)
fi
mkdir -p "$out"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
failed=0
for network in "${networks[@]}"; do
  left=$((limit - SECONDS))
  if ((left <= 0 || 3 * left < limit)); then
    echo "$network: not measured, $left s are left" >&2
    continue
  fi
  timeout "$left" "$PYTHON" -m cls.tools.benchmark networks "$network" --gpu \
    --torch "${TORCH:-$PYTHON}" --json "$out/${network%%:*}.json" "${flags[@]}" || failed=1
done
exit "$failed"
