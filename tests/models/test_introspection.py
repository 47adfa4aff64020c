"""The layers of networks, as timm and torchvision number their blocks."""

import pytest

from cls import models
from cls.models.registry import introspection


def layers(name, size):
    """The names at the top, or of blocks, of each layer, in order."""
    of = introspection.layers(models.create(name, num_classes=10), size, 3)
    result = [set() for _ in range(max(of.values()) + 1)]
    for path, layer in of.items():
        result[layer].add(path)
    return result


@pytest.mark.parametrize(
    ('name', 'size', 'blocks'),
    [
        ('resnet20_cifar', 32, [f'layer{stage}/{i}/' for stage in (1, 2, 3) for i in range(3)]),
        ('wrn16_8_cifar', 32, [f'stage{stage}/unit{i}/' for stage in (1, 2, 3) for i in (1, 2)]),
    ],
)
def test_layers_are_a_stem_and_blocks_and_a_classifier(name, size, blocks):
    stem, *body, classifier = layers(name, size)
    assert len(body) == len(blocks)
    for prefix, paths in zip(blocks, body, strict=True):  # the norm at the end is in the last block
        outside = {path for path in paths if not path.replace('.', '/').startswith(prefix)}
        assert not {path for path in outside if 'post_activ' not in path}
    assert stem & {'conv1/kernel', 'init_block.conv/kernel'}
    assert {path.rpartition('/')[2] for path in classifier} == {'kernel', 'bias'}


def test_branches_of_a_block_are_one_layer_and_a_norm_belongs_to_the_layer_before():
    found = layers('googlenet', 64)
    inception = next(paths for paths in found if any('inception3a' in path for path in paths))
    assert {path.split('/')[0] for path in inception} == {'inception3a'}
    last = layers('densenet40_k12_cifar', 32)[-2]
    assert {path.split('/')[0] for path in last} == {'denseblock3', 'norm5'}
