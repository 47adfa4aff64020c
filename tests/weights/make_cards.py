"""Writes tests/weights/cards.json: timm's preparation of images for its own published cards.

    VENV/bin/python tests/weights/make_cards.py     timm 1.0.31, any torch and torchvision

For each tag of a family with a variant here, the file has the card as timm pushes it to the Hub,
and the result of timm's evaluation transforms: [height, shorter side before the crop,
interpolation, mean, std]. They are evaluated at the card's `input_size` and, if it has one, at its
`test_input_size`.
"""

import json
from pathlib import Path

import timm
from timm.data import create_transform, resolve_data_config

FAMILIES = (
    'densenet1', 'densenet2', 'dla60_res2ne', 'dpn', 'efficientnet_b', 'efficientnet_l',
    'inception_', 'legacy_', 'mnasnet_', 'mobilenetv1_', 'mobilenetv2_', 'mobilenetv3_', 'nasnet',
    'pnasnet', 'res2ne', 'resnet101', 'resnet152', 'resnet18', 'resnet34', 'resnet50', 'resnetaa',
    'resnetblur', 'resnext101', 'resnext50', 'semnasnet', 'skresnext', 'tf_efficientnet_b',
    'tf_efficientnet_l', 'tf_mobilenetv3', 'wide_resnet50',
)  # fmt: skip
KEPT = (
    'input_size', 'test_input_size', 'interpolation', 'crop_pct', 'test_crop_pct', 'crop_mode',
    'mean', 'std', 'num_classes',
)  # fmt: skip


def evaluated(cfg: dict, at_test_size: bool) -> list:
    data = resolve_data_config({}, pretrained_cfg=cfg, use_test_size=at_test_size)
    resize, crop, *_ = create_transform(**data, is_training=False).transforms
    mode = resize.interpolation.value
    # Both sides of a squashed image; of the same size, as all published ones are.
    side = resize.size if isinstance(resize.size, int) else resize.size[0]
    return [crop.size[0], side, mode, *map(list, (data['mean'], data['std']))]


def main() -> None:
    rows = {}
    for name in timm.list_pretrained():
        if not name.startswith(FAMILIES):
            continue
        cfg = timm.get_pretrained_cfg(name).to_dict(remove_source=True, remove_null=True)
        card = {'architecture': cfg['architecture'], 'num_classes': cfg['num_classes']}
        card['pretrained_cfg'] = {key: cfg[key] for key in KEPT if key in cfg}
        sizes = (False, True) if 'test_input_size' in cfg else (False,)
        rows[name] = [card, [evaluated(cfg, test) for test in sizes]]
    text = ',\n'.join(f'{json.dumps(name)}: {json.dumps(row)}' for name, row in rows.items())
    (Path(__file__).parent / 'cards.json').write_text('{\n' + text + '\n}\n')


if __name__ == '__main__':
    main()
