#!/usr/bin/env bash
# cnn-finetune 0.6.0: make_model('xception', pretrained=True) loses three of the network's rectifiers.
#
# One would guess that its features are those of pretrainedmodels' Xception, whose weights it loads and
# whose layers it takes, as for its other networks, or that it fails. It puts the children of that module
# in a Sequential. The module has one rectifier among its children and calls it after four of its norms:
# the Sequential calls it after the first norm only. Nothing fails, all weights are used, and the
# outputs are other ones. SE-ResNet-50, made in the same way, has the features of pretrainedmodels.
# Hurt: fine-tuning of the pretrained Xception starts from features that its weights were not trained
# for; and files of it have the tensors of Xception, and compute something else than Xception.
# Source: cnn_finetune/contrib/pretrainedmodels.py, XceptionWrapper.get_features; features and logits in
# pretrainedmodels/models/xception.py.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchvision==0.28.0 pretrainedmodels==0.7.4 six scipy \
  cnn-finetune==0.6.0
"$folder/venv/bin/python" - <<'END'
import importlib.metadata
import sys

import torch

try:
    import torchvision
except RuntimeError:  # torchvision's own operators are for another build of torch: none is needed
    for name in ('nms', 'qnms'):
        torch.library.define(f'torchvision::{name}', '(Tensor a, Tensor b, float c) -> Tensor')
    for name in [name for name in sys.modules if name.startswith('torchvision')]:
        del sys.modules[name]
    import torchvision

import cnn_finetune
import pretrainedmodels

for package in ('torch', 'torchvision', 'pretrainedmodels', 'cnn-finetune'):
    print(package, importlib.metadata.version(package))
torch.manual_seed(0)
differs = {}
for name in ('se_resnet50', 'xception'):
    original = pretrainedmodels.__dict__[name](pretrained=None).eval()
    for norm in original.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.uniform_(-0.5, 0.5)
    copy = cnn_finetune.make_model(
        name, 1000, pretrained=False, original_model_state_dict=original.state_dict()
    ).eval()
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        ours, theirs = original.features(images), copy.features(images)
        if name == 'xception':  # the last rectifier is in `logits` there
            ours = original.relu(ours)
    differs[name] = ((ours - theirs).std() / ours.std()).item()
    print(f'{name}: difference of the features, of their deviation: {differs[name]:.3g}')
kinds = [type(layer).__name__ for layer in copy._features]
print('layers of its Xception:', ', '.join(kinds))
same = differs['se_resnet50'] == 0 and differs['xception'] > 0.1 and kinds.count('ReLU') == 1
print('Xception has lost rectifiers.' if same else 'The behavior has changed.')
sys.exit(not same)
END
