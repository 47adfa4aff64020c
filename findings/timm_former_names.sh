#!/usr/bin/env bash
# timm 1.0.31: three former names of ResNeXt-101 (32x16d, 32x32d, 32x48d) make the smallest, 32x8d.
#
# One would guess that create_model('ig_resnext101_32x48d') makes ResNeXt-101 32x48d (829 million
# parameters), as it did before the names were deprecated, or fails. It makes 32x8d (89 million), with
# the weights of 32x8d if pretrained=True, and a warning about a deprecated name that does not say that
# the network is another. resnext101_32x16d is there under its present name.
# Hurt: old scripts and configs, and comparisons of the four sizes of "Exploring the Limits of Weakly
# Supervised Pretraining" (1805.00932): all four are one network.
# Source: timm/models/resnet.py, register_model_deprecations: the four `ig_` names have one value.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchvision==0.28.0 timm==1.0.31
"$folder/venv/bin/python" - <<'END'
import sys
import warnings

import torch

try:
    import torchvision
except RuntimeError:  # torchvision's own operators are for another build of torch: none is needed
    for name in ('nms', 'qnms'):
        torch.library.define(f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor')
    for name in [name for name in sys.modules if name.startswith('torchvision')]:
        del sys.modules[name]
    import torchvision

import timm

print('torch', torch.__version__, 'timm', timm.__version__)
counts = {}
with torch.device('meta'), warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    for size in (8, 16, 32, 48):
        model = timm.create_model(f'ig_resnext101_32x{size}d')
        counts[size] = sum(parameter.numel() for parameter in model.parameters())
    present = timm.create_model('resnext101_32x16d')
for size, count in counts.items():
    print(f'create_model("ig_resnext101_32x{size}d"): {count:,} parameters')
print(f'create_model("resnext101_32x16d"): {sum(p.numel() for p in present.parameters()):,}')
for warning in caught:
    print('warning:', warning.message)
same = set(counts.values()) == {counts[8]}
print('All four former names make 32x8d.' if same else 'The behavior has changed.')
sys.exit(not same)
END
