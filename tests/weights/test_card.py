"""A checkpoint's metadata: its network, its classes, and the preparation of images."""

import json
from pathlib import Path

import numpy as np
import pytest

from cls import models
from cls.errors import UserError
from cls.weights import card as cards
from cls.weights.images import preparation

# Published tag of timm -> its card, and timm's preparation of images at the card's one or two sizes
# (make_cards.py), for the families with variants here.
PUBLISHED = json.loads((Path(__file__).parent / 'cards.json').read_text())
VARIANTS = {name: models.variant(name) for name in models.names()}


def accepting(card):
    """Returns the variants that accept a card."""
    accepted = []
    for name, variant in VARIANTS.items():
        try:
            cards.check(card, variant)
        except UserError:
            continue
        accepted.append(name)
    return accepted


def refused(pattern, call, *args):
    with pytest.raises(UserError, match=pattern) as caught:
        call(*args)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('architecture', 'variants'),
    [
        # Compared with timm 1.0.31 on the same random tensors: the logits are equal. For variants
        # left out here they differ although the tensors fit (by 0.12 to 1.9 of their spread).
        ('efficientnet_b0', ['efficientnet_b0']),
        ('tf_efficientnet_b0', ['tf_efficientnet_b0']),
        ('efficientnet_blur_b0', []),
        ('tf_efficientnet_lite0', ['tf_efficientnet_lite0']),
        ('efficientnet_lite0', ['efficientnet_lite0']),
        ('resnet50', ['resnet50']),
        ('resnetblur50', []),
        ('resnetaa50', []),
        ('resnet18', ['resnet18', 'wrn18_1']),
        ('resnetblur18', []),
        ('mobilenetv3_small_075', ['mobilenetv3_small_075']),
        ('tf_mobilenetv3_small_075', ['tf_mobilenetv3_small_075']),
        ('nasnetalarge', ['nasnet_a_large_zeros']),  # and pretrainedmodels' is nasnet_a_large
        ('mobilenetv2_100', ['mobilenetv2_100']),
        ('mnasnet_100', ['mnasnet_b1']),
        ('wide_resnet50_2', ['wrn50_2']),
        ('resnext101_32x8d', ['resnext101_32x8d']),
        # Names of another network in timm.
        ('seresnet50', ['seresnet50b']),
        ('legacy_seresnet50', ['seresnet50']),
        ('mobilenetv3_large_100', ['mobilenetv3_large_100']),
        ('resnet152', ['resnet152']),  # resnet152_sd scales its residuals
        # Tags, prefixes of hubs, and former names.
        ('resnet50.a1_in1k', ['resnet50']),
        ('timm/resnet50.tv2_in1k', ['resnet50']),
        ('hf-hub:timm/tf_efficientnet_b4.ns_jft_in1k', ['tf_efficientnet_b4']),
        ('tf_efficientnet_b4_ns', ['tf_efficientnet_b4']),
        ('gluon_resnet50_v1b', ['resnet50']),
        ('tv_resnext50_32x4d', ['resnext50_32x4d']),
        ('xception', ['xception']),
        ('shufflenetv2_1.0x', ['shufflenetv2_1.0x']),
        ('vit_base_patch16_224', []),
        ('resnet20', ['resnet20_cifar']),
    ],
)
def test_an_architecture_is_only_accepted_for_its_own_network(architecture, variants):
    assert sorted(accepting({'architecture': architecture})) == variants


def test_the_refusal_names_both_and_the_right_one():
    card = {'architecture': 'tf_efficientnet_lite0'}
    pattern = "'tf_efficientnet_lite0'.*efficientnet_lite0.*choose tf_efficientnet_lite0"
    refused(pattern, cards.check, card, VARIANTS['efficientnet_lite0'])
    old = {'architecture': 'resnetaa50', 'mean': [0, 0, 0]}  # the older form, all in one object
    refused("'resnetaa50'.*resnet50.*lacks this network", cards.check, old, VARIANTS['resnet50'])
    inner = {'pretrained_cfg': {'architecture': 'resnetaa50'}}
    refused('resnetaa50', cards.check, inner, VARIANTS['resnet50'])


@pytest.mark.parametrize(
    ('arguments', 'pattern'),
    [
        ({'act_layer': 'gelu'}, "act_layer='gelu'.*resnet50"),
        ({'aa_layer': 'blurpool', 'num_classes': 10}, 'aa_layer'),
        ({'bn_eps': 1e-3}, 'bn_eps'),
        ({'global_pool': 'max'}, 'global_pool'),
        ({'in_chans': 'gray'}, 'in_chans'),
        ('gelu', 'expected an object'),
    ],
)
def test_arguments_of_the_constructor_that_change_the_network_are_refused(arguments, pattern):
    card = {'architecture': 'resnet50', 'model_args': arguments}
    refused(pattern, cards.check, card, VARIANTS['resnet50'])


def test_arguments_that_change_nothing_in_evaluation_are_accepted():
    arguments = {'num_classes': 10, 'drop_rate': 0.3, 'in_chans': 3, 'act_layer': None}
    card = {'architecture': 'resnet50', 'model_args': arguments, 'global_pool': 'avg'}
    cards.check(card, VARIANTS['resnet50'])
    refused('global_pool', cards.check, {**card, 'global_pool': 'fast'}, VARIANTS['resnet50'])
    for name, activation in (('resnet50', 'relu'), ('tf_efficientnet_b0', 'swish')):
        card = {'architecture': name, 'model_args': {'act_layer': activation}}
        cards.check(card, VARIANTS[name])
    lite = {'model_args': {'act_layer': 'swish'}}
    refused('act_layer', cards.check, lite, VARIANTS['tf_efficientnet_lite0'])


def test_a_scripts_own_name_of_its_model_is_refused_only_if_another_network_has_it():
    own = VARIANTS['resnet50']
    for name in ('resnet', 'my_net', 'resnet50', ''):
        cards.check({'architecture': name}, own, strict=False)
    for name in ('resnetblur50', 'wide_resnet50_2', 'densenet121'):
        with pytest.raises(UserError, match=name):
            cards.check({'architecture': name}, own, strict=False)


NAMES = ['owl', 'ant', 'bee']


@pytest.mark.parametrize(
    ('card', 'field'),
    [
        ({'label_names': NAMES}, 'label_names'),
        ({'labels': NAMES}, 'labels'),
        ({'pretrained_cfg': {'label_names': NAMES}}, 'label_names'),
        ({'label_names': {'2': 'bee', '0': 'owl', '1': 'ant'}}, 'label_names'),
        ({'id2label': {'10': 'bee', '2': 'owl', '9': 'ant'}}, None),
        ({'id2label': {str(i): name for i, name in enumerate(NAMES)}}, 'id2label'),
        ({'label2id': {'bee': 2, 'owl': 0, 'ant': 1}}, 'label2id'),
        ({'label_descriptions': {'owl': 'Strix', 'ant': 'Formica', 'bee': 'Apis'}},) * 1
        + ('label_descriptions',),
        (
            {'label_names': NAMES, 'label_descriptions': {'ant': 'a', 'bee': 'b', 'owl': 'o'}},
            'label_names',
        ),
    ],
)
def test_names_of_classes_in_the_order_of_the_outputs(card, field):
    if field is None:
        refused('numbers its 3 classes 2 to 10', cards.class_names, card, 3)
    else:
        assert cards.class_names(card, 3) == (tuple(NAMES), field)


def test_numbers_are_put_in_order_as_numbers():
    card = {'id2label': {str(i): f'c{i}' for i in reversed(range(12))}}
    assert cards.class_names(card, 12)[0] == tuple(f'c{i}' for i in range(12))


@pytest.mark.parametrize(
    ('card', 'pattern'),
    [
        ({'label_names': 'imagenet'}, "label_names is 'imagenet': expected a list"),
        ({'label_names': ['a', 'b']}, 'names 2 classes, but the network has 3 outputs'),
        ({'label_names': ['a', 'b', 'a']}, "'a' twice"),
        ({'label_names': ['a', 'b', None]}, 'more than names'),
        ({'id2label': {'a': 'x', 'b': 'y', 'c': 'z'}}, 'without numbers'),
        ({'label2id': {'x': 0, 'y': 0, 'z': 1}}, 'names 2 classes'),
        ({'pretrained_cfg': ['mean']}, 'expected an object'),
    ],
)
def test_names_that_cannot_be_right_are_refused(card, pattern):
    refused(pattern, cards.class_names, card, 3)


def test_cards_without_names():
    assert cards.class_names({}, 3) == ((), '')
    unnamed = {'id2label': {str(i): f'LABEL_{i}' for i in range(3)}}  # Transformers' default
    assert cards.class_names(unnamed, 3) == ((), '')
    english = {'id2label': {str(i): f'word {i % 999}' for i in range(1000)}}  # two cranes
    assert cards.class_names(english, 1000) == ((), '')


def prepared_as_timm(name, wanted):
    """Returns (ours, timm's) at a wanted size: [size, resize, mode, mean, std]."""
    card, expected = PUBLISHED[name]
    found = preparation(f'timm:{card["architecture"]}', card, wanted)
    row = [found.size, found.resize, found.interpolation]
    return row, [np.array(x) / 255 for x in (found.mean, found.std)], found, expected


@pytest.mark.parametrize('name', PUBLISHED)
def test_every_published_card_prepares_images_as_timm_does(name):
    card, expected = PUBLISHED[name]
    for size, *rest in expected:
        row, (mean, std), found, _ = prepared_as_timm(name, size)
        assert row == [size, *rest[:2]]
        np.testing.assert_allclose(mean, rest[2], atol=1e-6)
        np.testing.assert_allclose(std, rest[3], atol=1e-6)
        assert set(found.known_from.values()) == {'config.json'}
        assert found.squash == (card['pretrained_cfg']['crop_mode'] == 'squash')
    # For a size that the card lacks, its own input_size is used.
    assert prepared_as_timm(name, 77)[0] == [expected[0][0], *expected[0][1:3]]


def test_the_published_cards_have_every_case():
    sizes = {name: [row[0] for row in rows] for name, (_, rows) in PUBLISHED.items()}
    assert len(sizes) > 200
    assert sum(len(pair) == 2 for pair in sizes.values()) > 50
    assert (
        PUBLISHED['efficientnet_b5.sw_in12k_ft_in1k'][0]['pretrained_cfg']['crop_mode'] == 'squash'
    )
    assert sizes['resnet50.tv2_in1k'] == [176, 224]
    assert PUBLISHED['resnet50.tv2_in1k'][1][1][1] == 232  # for torchvision's V2 weights


def test_each_field_has_its_source():
    card = {'pretrained_cfg': {'mean': [0.5, 0.5, 0.5], 'input_size': [3, 224, 224]}}
    found = preparation('timm:dpn68', card, 224)
    table = 'the table of timm:dpn68'
    assert found.known_from == {
        'mean': 'config.json',
        'std': table,
        'interpolation': table,
        'size': 'config.json',
        'crop': table,
    }
    assert found.mean == (127.5,) * 3 and found.std == pytest.approx((59.8802,) * 3)
    assert set(preparation('timm:dpn68', {}, 224).known_from.values()) == {table}


@pytest.mark.parametrize(
    ('changed', 'pattern'),
    [
        ({'crop_mode': 'border'}, "crop_mode is 'border'"),
        ({'interpolation': 'lanczos'}, 'lanczos.*bilinear, bicubic, nearest'),
        ({'interpolation': ['bicubic']}, 'interpolation'),
        ({'input_size': [3, 224, 192]}, 'input_size.*square'),
        ({'input_size': [1, 224, 224]}, 'input_size.*three channels'),
        ({'input_size': 224}, 'input_size'),
        ({'test_input_size': [3, 0, 0]}, 'test_input_size'),
        ({'crop_pct': 0}, 'crop_pct is 0: expected'),
        ({'crop_pct': -0.9}, 'crop_pct'),
        ({'crop_pct': 'all'}, 'crop_pct'),
        ({'mean': [0.5, 0.5]}, 'mean.*three numbers'),
        ({'mean': 'imagenet'}, 'mean'),
        ({'std': [0.5, 0.5, 0]}, 'std.*above 0'),
        ({'std': [0.5, 0.5, float('nan')]}, 'std'),
    ],
)
def test_values_that_make_no_sense_or_are_not_known_are_refused(changed, pattern):
    card = {'pretrained_cfg': {'input_size': [3, 224, 224], **changed}}
    refused(pattern, preparation, 'timm:resnet50', card, 224)


def test_torchvisions_and_timms_names_are_names_of_variants():
    for name, ours in {
        'mobilenet_v2': 'mobilenetv2_100',
        'mobilenet_v3_large': 'mobilenetv3_large_100',
        'wide_resnet50_2': 'wrn50_2',
        'shufflenet_v2_x1_0': 'shufflenetv2_1.0x',
        'mnasnet1_0': 'mnasnet_b1',
        'semnasnet_100': 'mnasnet_a1',
        'nasnetalarge': 'nasnet_a_large',
        'resnet50': 'resnet50',
        'googlenet': 'googlenet',  # a variant of the same name is preferred
    }.items():
        assert models.variant(name).name == ours
    assert models.create('mobilenet_v2') == models.create('mobilenetv2_100')
    with pytest.raises(UserError, match='Did you mean mobilenet_v2'):
        models.variant('mobilenet_v2x')
