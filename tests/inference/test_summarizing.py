"""Summaries of networks: sums, receptive fields, and the command."""

import json

import pytest

from cls import models
from cls.errors import UserError
from cls.inference import summarizing
from cls.tools import recipes, summary

# The fields of Araujo, Norris and Sim 2019 ("Computing Receptive Fields of Convolutional Neural
# Networks", distill.pub), of the last map of each network.
FIELDS = {'vgg16': 212, 'resnet50_v1': 483, 'inception_v3': 1311, 'mobilenet_100': 315}


def rows_of(name):
    return summarizing.summarize(models.create(name), models.variant(name).input_size)


@pytest.mark.parametrize('name', FIELDS)
def test_receptive_fields_are_the_published_ones(name):
    rows = {row.name: row for row in rows_of(name)}
    last = [row for row in rows.values() if len(row.shape) == 3 and row.shape[0] > 1][-1]
    assert last.field == FIELDS[name]
    assert rows['logits'].field == summarizing.WHOLE
    assert not last.gated


NAMES = ('resnet20_cifar', 'densenet100_k12_bc_cifar', 'seresnet50', 'shufflenet_g3_1x', 'igcv3_w1')


@pytest.mark.parametrize('name', NAMES)
def test_the_sums_are_those_of_the_variant(name):
    variant = models.variant(name)
    params, macs, _ = summarizing.total(rows_of(name))
    assert (params, macs) == (variant.params, variant.macs)


def test_stages_of_a_small_network_are_those_by_hand():
    """ResNet-20's first stages: 3 x 3 convolutions on 32 x 32 x 16, norms of scale and bias."""
    stem, stage1, *_ = rows_of('resnet20_cifar')
    assert stem.shape == (32, 32, 16)
    assert stem.params == 3 * 3 * 3 * 16 + 2 * 16
    assert stem.macs == 32 * 32 * 16 * 27
    assert stem.activations == 32 * 32 * 16
    assert stem.field == 3
    assert stage1.params == 6 * (9 * 16 * 16 + 2 * 16)
    assert stage1.macs == 6 * 32 * 32 * 16 * 9 * 16
    assert stage1.activations == 6 * 32 * 32 * 16
    assert stage1.field == 3 + 6 * 2


def test_gates_are_marked():
    rows = {row.name: row for row in rows_of('seresnet50')}
    assert not rows['stem'].gated
    assert rows['stage1'].gated
    assert rows['stage4'].field == 483


def test_the_command_prints_stages_weights_and_recipes(capsys):
    assert summary.main(['resnet18']) == 0
    out = capsys.readouterr().out
    assert 'resnet18: ResNet, Deep Residual Learning' in out
    assert '11,689,512  1,814,073,344' in out
    assert 'the paper: top-1 72.12 %' in out
    assert 'x torchvision resnet18.IMAGENET1K_V1' in out
    assert '--config resnet:imagenet2012,variant=resnet18' in out
    assert summary.main(['resnet20_cifar', '--json', '--set', 'stage_sizes=(1, 1, 1)']) == 0
    made = json.loads(capsys.readouterr().out)
    assert [stage['name'] for stage in made['stages']][:2] == ['stem', 'stage1']
    assert made['stages'][1]['params'] == 2 * (9 * 16 * 16 + 2 * 16)
    assert made['stages'][-1]['field'] is None


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        (['resnet19'], "no model is named 'resnet19'"),
        (['resnet18', '--size', '-1'], '--size is -1'),
        (['resnet18', '--set', 'width'], 'expected FIELD=VALUE'),
        (['vgg16', '--size', '8'], 'vgg16 cannot take images of 8 x 8'),
        (['resnet18', '--set', '=1'], 'expected FIELD=VALUE'),
        (['resnet18', '--set', 'num_classes=0'], 'num_classes is 0: expected a number'),
        (['resnet18', '--set', 'num_classes=many'], "num_classes is 'many'"),
        (['resnet18', '--set', 'num_classes=True'], 'num_classes is True'),
        (['resnet18', '--set', 'num_classes=2', '--set', 'num_classes=3'], 'there twice'),
        (['resnet18', '--set', 'stage_sizes=()'], r'with stage_sizes=\(\).*leave out --set'),
        (['ResNet18'], "no model is named 'ResNet18'. Did you mean resnet18"),
    ],
)
def test_mistakes_are_named(flags, said):
    with pytest.raises(UserError, match=said):
        summary.main(flags)


def test_recipes_have_their_networks_and_accuracies():
    by_config = {arm.config: arm for arm in recipes.arms()}
    cifar = by_config['resnet:cifar10']
    assert (cifar.variant, cifar.duration, cifar.batch) == ('resnet56_cifar', '64000 steps', 128)
    assert cifar.paper == 93.03  # Table 6
    assert by_config['resnet:cifar100'].paper is None  # the paper's figure is for CIFAR-10
    header, *rows = recipes.table('resnet56_cifar')
    assert header[0] == 'recipe'
    assert [row[0] for row in rows] == ['resnet:cifar10', 'resnet:cifar100']
