"""Recognition of networks by the names and shapes of tensors, and by the names in hints."""

import re

import jax
import numpy as np
import pytest

from cls import models, weights
from cls.errors import UserError
from cls.models.registry import Variant
from cls.registration import registered_by
from cls.tools import tensors as writer
from cls.weights import families, fitting, index
from cls.weights.families import Family, Names
from cls.weights.recognition import identify, recognize

RNG = np.random.default_rng(0)


def state(name, classes=7, aux=True, **others):
    """Returns a state dict with the names of a variant's reference."""
    of = index.tensors(name)
    shapes = {**of.body, **of.head, **(of.aux if aux else {})}
    shapes = {k: tuple(classes if n < 0 else n for n in shape) for k, shape in shapes.items()}
    return {k: np.ones(shape, np.float32) for k, shape in (shapes | others).items()}


def found(tensors, hints=None):
    return [(m.variant, m.family, m.num_classes, m.part) for m in recognize(tensors, hints)]


def refusal(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------ the index


def test_the_index_is_that_of_this_code():
    assert not writer.stale(), 'run python -m cls.tools.models --recount'
    stored = {name for module in writer.systems() for name in index._counts_of(module)}
    assert stored == {name for name in models.names() if not models.registry.origin(name)}


@pytest.mark.parametrize('name', ['resnet18', 'googlenet_bn', 'squeezenet1_1', 'nasnet_a_mobile'])
def test_stored_tensors_are_those_of_the_code(name):
    stored, traced = index.tensors(name), index.traced(models.variant(name))
    assert stored == traced
    assert index.counts()[name] == index.count(traced.body.values())
    model = models.create(name)
    shapes = weights.convert.shapes(model, models.variant(name))
    given = {k: tuple(model.num_classes if n < 0 else n for n in s) for k, s in stored.all.items()}
    assert given == shapes


def test_a_file_of_the_index_is_the_same_for_the_same_tensors():
    module = 'cls.models.squeezenet'
    traced = {name: index.traced(models.variant(name)) for name in writer.systems()[module]}
    assert index.data(traced, writer.key(module)) == index.path_of(module).read_bytes()


def test_a_variant_of_a_config_file_is_recognized():
    base = models.variant('resnet18')
    with registered_by('a_config.py'):
        models.registry.register(
            Variant('narrow', base.system, base.module, {**base.fields, 'widths': (8, 8, 8, 8)},
                    32, 1, 1)
        )  # fmt: skip
    try:
        tensors = {f'model.{k}': v for k, v in state('narrow', 3).items()}
        assert found(tensors) == [('narrow', 'cls', 3, '')]
    finally:
        del models.registry._VARIANTS['narrow'], models.registry._ORIGINS['narrow']


# ------------------------------------------------------------------------- names and shapes alone


# Prefixes do not depend on the network: by default, one has all of them, the others the longest.
UNDER = {
    'resnet50': 'torchvision',
    'densenet121': 'torchvision',
    'dpn68': 'timm',
    'resnet20_cifar': 'cls',
    'mobilenet_025': 'pytorchcv',
}
PREFIXES = ('', 'module.', 'model.backbone.')


@pytest.mark.parametrize(
    ('name', 'prefix'),
    [
        pytest.param(
            name,
            prefix,
            marks=()
            if name == 'resnet20_cifar' or prefix == 'model.backbone.'
            else pytest.mark.sweep,
        )
        for name in UNDER
        for prefix in PREFIXES
    ],
)
def test_a_network_under_any_prefix_and_of_any_number_of_classes(name, prefix):
    family = UNDER[name]
    tensors = {prefix + key: value for key, value in state(name, 13).items()}
    tensors[f'{prefix}total_ops'] = np.zeros(1)
    if prefix == 'model.backbone.':
        tensors['loss.weight'] = np.ones(13)
    (match,) = recognize(tensors)
    assert (match.variant, match.family, match.num_classes) == (name, family, 13)
    kept = state(name, 13)
    assert f'{len(kept)} tensors' in match.evidence
    fitted = weights.fit(tensors, match.variant, **match.fields)
    assert fitted.fields['num_classes'] == 13
    assert fitted.family == family


@pytest.mark.parametrize(
    ('base', 'name'),
    [('resnet18', 'seresnet18'), ('resnet34', 'seresnet34'), ('resnet50', 'seresnet50b')],
)
def test_gates_without_biases(base, name):
    """moskomule's networks are torchvision's with gates; the variants have a tenth more tensors."""
    tensors = state(base, 10)
    last = 'bn3' if name.endswith('b') else 'bn2'
    for key, scale in state(base).items():
        if re.fullmatch(rf'layer\d\.\d+\.{last}\.weight', key):
            gate, width = key.replace(f'{last}.weight', 'se.fc'), len(scale)
            tensors[f'{gate}.0.weight'] = np.ones((width // 16, width), np.float32)
            tensors[f'{gate}.2.weight'] = np.ones((width, width // 16), np.float32)
    assert found(tensors) == [(name, 'repositories', 10, '')]


def test_two_networks_of_a_package_with_the_same_names_need_a_hint():
    """pytorchcv's resnet50 has the stride in the first convolution, its resnet50b in the second."""
    tensors = state('resnet50_v1')
    assert len(recognize(tensors)) == 2
    assert found(tensors, {'file': 'resnet50-0604-728800bf.pth'})[0][0] == 'resnet50_v1'
    assert found(tensors, {'file': 'resnet50b-0611-ff1ad4a1.pth'})[0][0] == 'resnet50'
    # torchvision's names are not those of a table of another package for the same module.
    assert found(state('resnet50')) == [('resnet50', 'torchvision', 7, '')]
    with pytest.raises(UserError, match='missing of'):
        weights.fit(state('resnet50'), 'resnet50_v1')


def test_images_of_other_channels_are_in_the_evidence():
    tensors = state('resnet18') | {'conv1.weight': np.ones((64, 1, 7, 7), np.float32)}
    (match,) = recognize(tensors)
    assert (match.variant, match.channels) == ('resnet18', 1)
    assert 'images of 1 channels' in match.evidence
    fitted = weights.fit(tensors, 'resnet18')
    assert fitted.variables['params']['conv1']['kernel'].shape == (7, 7, 1, 64)


def test_of_variants_of_one_reference_the_package_has_the_one_of_its_name():
    for other, name in (('wrn18_1', 'resnet18'), ('resnet152_sd', 'resnet152')):
        assert found(state(name)) == found(state(other)) == [(name, 'torchvision', 7, '')]
        assert identify(state(name)).evidence.endswith(f'not {other}, which no package has')
        assert identify(state(name), {'file': f'{other}.pth'}).variant == other
    # These two differ only in the number of classes of their data.
    assert found(state('metaqnn_1_cifar', 10)) == [('metaqnn_1_cifar', 'cls', 10, '')]
    assert found(state('metaqnn_1_cifar', 100)) == [('metaqnn_1_cifar100', 'cls', 100, '')]


def test_networks_of_the_same_tensors_are_told_apart_by_any_hint():
    tensors, both = state('efficientnet_b0'), {'efficientnet_b0', 'tf_efficientnet_b0'}
    assert {name for name, *_ in found(tensors)} == both
    for hints, name in (
        ({'architecture': 'tf_efficientnet_b0'}, 'tf_efficientnet_b0'),
        ({'architecture': 'tf_efficientnet_b0_ns'}, 'tf_efficientnet_b0'),
        ({'repository': 'timm/efficientnet_b0.ra_in1k'}, 'efficientnet_b0'),
        ({'repository': 'somebody/efficientnet_b0-of-birds'}, 'efficientnet_b0'),
        ({'script': {'architecture': 'efficientnet_b0'}}, 'efficientnet_b0'),
        ({'file': 'tf_efficientnet_b0_aa-827b6e33.pth'}, 'tf_efficientnet_b0'),
        ({'file': 'efficientnet_b0_ra-3dd342df.pth.tar'}, 'efficientnet_b0'),
    ):
        (match,) = recognize(tensors, hints)
        assert match.variant == name, hints
        assert name in match.evidence
    # The most reliable hint decides.
    hints = {'card': {'architecture': 'efficientnet_b0'}, 'file': 'tf_efficientnet_b0.pth'}
    assert found(tensors, hints) == [('efficientnet_b0', 'timm', 7, '')]
    assert {name for name, *_ in found(tensors, {'file': 'checkpoint-best.pth'})} == both


def test_without_a_hint_no_network_is_chosen():
    message = refusal(identify, state('efficientnet_b0'))
    assert "--variant tf_efficientnet_b0 has padding='SAME', bn_epsilon=0.001" in message
    assert '--variant efficientnet_b0 has padding=None, bn_epsilon=1e-05' in message
    assert message.startswith('the tensors are those of 2 networks that compute different numbers')


def test_networks_that_are_not_here_are_refused_by_name_or_listed():
    tensors = state('resnet50')
    assert identify(tensors).alike == ('resnetaa50', 'resnetblur50')
    assert not identify(tensors, {'file': 'resnet50.pth'}).alike
    for hints in (
        {'architecture': 'resnetblur50'},
        {'repository': 'timm/resnetblur50.bt_in1k'},
        {'file': 'resnetblur50-84f4748f.pth'},
    ):
        assert 'resnetblur50' in refusal(identify, tensors, hints)
        assert 'which is not here' in refusal(identify, tensors, hints)


@pytest.mark.parametrize(
    ('file', 'reason'),
    [
        ('resnext101_32x48d-abc.pth', 'a ResNeXt of 829 million parameters'),
        ('efficientnet_cc_b0_4e.pth', 'conditional convolutions'),
    ],
)
def test_a_file_that_fits_nothing_is_refused_by_the_name_of_its_network(file, reason):
    message = refusal(recognize, {'some.weight': np.ones((3, 3))}, {'file': file})
    assert reason in message and 'which is not here' in message


def test_a_card_of_another_network_is_refused_and_a_files_name_ignored():
    tensors = state('resnet50')
    message = refusal(identify, tensors, {'architecture': 'resnet101'})
    assert (
        message == "config.json's architecture is resnet101, but the tensors are those of resnet50"
    )
    assert identify(tensors, {'file': 'resnet101.pth'}).variant == 'resnet50'


# ------------------------------------------------------------------------------------- families


@pytest.fixture
def package(monkeypatch):
    """A family with names of its own, and a convolution whose bias a norm takes."""

    def tensors(given, variant):
        scale = given['stem.norm.gamma'] + 0
        kept = {k: v for k, v in given.items() if k not in ('stem.norm.gamma', 'stem.bias')}
        return kept | {'bn1.weight': scale, 'bn1.bias': given['stem.bias']}

    plain = Names(r'resnet(18|34)', ((r'^head\.', 'fc.'), (r'^stages(\d)', r'layer\1')))
    form = Names('resnet50', ((r'^stem\.conv\.', 'conv1.'),), tensors, {'stride_on_first': True})
    family = Family('somewhere', (plain, form), {'rn18': 'resnet18'}, {'rn18x': 'another stem'})
    monkeypatch.setattr('cls.weights.naming.families', lambda: (family,))
    monkeypatch.setattr('cls.weights.hints.families', lambda: (family,))
    return family


def theirs(name):
    return {k.replace('fc.', 'head.').replace('layer', 'stages'): v for k, v in state(name).items()}


def test_a_table_of_a_family(package):
    tensors = {f'module.{k}': v for k, v in theirs('resnet34').items()}
    tensors['module.bn1.num_batches_tracked'] = np.array(3)
    (match,) = recognize(tensors)
    assert (match.variant, match.family, match.num_classes) == ('resnet34', 'somewhere', 7)
    variables = weights.from_torch(tensors, 'resnet34', num_classes=7)
    jax.tree.map(
        np.testing.assert_array_equal,
        variables,
        weights.from_torch(state('resnet34'), 'resnet34', num_classes=7),
    )


def test_the_names_of_networks_of_a_family(package):
    assert identify(theirs('resnet18'), {'file': 'rn18-abc.pth'}).evidence.endswith('name rn18')
    message = refusal(identify, theirs('resnet18'), {'file': 'rn18x.pth'})
    assert message == (
        "the file's name says that this is somewhere's rn18x (another stem), which is not here"
    )


def test_a_table_with_forms_and_fields(package):
    tensors = state('resnet50')
    tensors['stem.conv.weight'] = tensors.pop('conv1.weight')
    tensors['stem.norm.gamma'] = tensors.pop('bn1.weight') * 2
    tensors['stem.bias'] = tensors.pop('bn1.bias') * 3
    (match,) = recognize(tensors)
    assert (match.variant, match.family) == ('resnet50', 'somewhere')
    assert match.fields == {'stride_on_first': True}
    fitted = weights.fit(tensors, 'resnet50')
    assert fitted.fields == {'stride_on_first': True, 'num_classes': 7}
    assert fitted.variables['params']['bn1']['scale'][0] == 2
    assert fitted.variables['params']['bn1']['bias'][0] == 3
    assert 'stride_on_first=True' in refusal(
        lambda: weights.from_torch(tensors, 'resnet50', num_classes=7)
    )
    with pytest.raises(UserError, match='stride_on_first=True, not False'):
        weights.fit(tensors, 'resnet50', stride_on_first=False)


def test_every_family_is_found_and_its_networks_are_here():
    names = [family.name for family in families.families()]
    assert len(set(names)) == len(names)
    for family in families.families():
        for table in family.tables:
            assert any(re.fullmatch(table.variants, name) for name in models.names()), table
        for word, name in family.networks.items():
            assert models.is_known(name), (family.name, word)
            assert not any(re.fullmatch(pattern, word) for pattern in family.missing), word


# -------------------------------------------------------------------------------- auxiliary heads


@pytest.mark.parametrize('name', ['googlenet_bn', 'inception_v3'])
def test_auxiliary_heads_are_optional_on_both_sides(name):
    bare, every = state(name, aux=False), state(name)
    assert identify(bare).fields == {'aux_head': False}
    assert not identify(every).fields
    assert weights.fit(bare, name).fields == {'num_classes': 7, 'aux_head': False}
    drawn = weights.fit(bare, name, aux_head=True)
    assert set(drawn.drawn) == set(index.tensors(name).aux)
    complete = weights.fit(every, name)
    assert jax.tree.map(np.shape, drawn.variables) == jax.tree.map(np.shape, complete.variables)
    plain = weights.fit(every, name, aux_head=False)
    assert set(plain.left_out) == set(index.tensors(name).aux)
    assert jax.tree.map(np.shape, plain.variables) == jax.tree.map(
        np.shape, weights.fit(bare, name).variables
    )
    some = {k: v for k, v in every.items() if k != next(iter(index.tensors(name).aux))}
    with pytest.raises(UserError, match='missing of'):
        weights.fit(some, name)


# -------------------------------------------------------------------------------------- bad input


def test_the_nearest_variants_of_another_network():
    tensors = state('resnet50')
    more = {f'layer3.6.{k}': np.ones(3, np.float32) for k in ('conv1.weight', 'conv2.weight')}
    message = refusal(identify, tensors | more)
    assert re.match(
        r'not the tensors of a network here: resnet50 \(the file has no place for 2 '
        r'\(layer3.6.conv1.weight, layer3.6.conv2.weight\)\); \w+ \(', message
    )  # fmt: skip
    assert len(message.split('; ')) == 3
    assert 'not the tensors' in refusal(identify, {'a.weight': np.ones((3, 4))})
    assert 'not the tensors' in refusal(identify, {})


def test_half_of_a_network():
    tensors = {k: v for k, v in state('resnet50').items() if not re.match('layer[34]|fc', k)}
    message = refusal(identify, tensors)
    assert 'resnet50 (a part of it: the file lacks 147 (layer3.0.bn1.bias' in message
    assert message.index('resnet50 (') < message.index('; ')


def test_a_part_is_of_the_network_that_packages_have():
    """The same tensors fill wrn18_1, of no package."""
    whole = state('resnet18')
    body = {name: value for name, value in whole.items() if not name.startswith('fc.')}
    more = whole | {'extra.weight': np.ones((3, 3))}
    for tensors in (body, more):
        (match,) = recognize(tensors)
        assert (match.variant, match.family, match.part) == ('resnet18', 'torchvision', 'backbone')


def test_a_backbone_is_offered_and_then_taken():
    detector = {f'backbone.body.{k}': v for k, v in state('resnet50').items() if k[:2] != 'fc'}
    detector['backbone.fpn.inner.weight'] = detector['roi_heads.box.weight'] = np.ones((3, 3))
    assert found(detector) == [('resnet50', 'torchvision', 0, 'backbone')]
    message = refusal(identify, detector)
    assert 'those of resnet50 without its classifier and further tensors: 2 (' in message
    assert '--part backbone' in message
    assert identify(detector, part='backbone').variant == 'resnet50'
    fitted = weights.fit(detector, 'resnet50', part='backbone')
    assert fitted.headless
    assert set(fitted.left_out) == {'backbone.fpn.inner.weight', 'roi_heads.box.weight'}
    complete = weights.fit(state('resnet50'), 'resnet50').variables
    del complete['params']['fc']
    jax.tree.map(np.testing.assert_array_equal, fitted.variables, complete)


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone.body.'])
@pytest.mark.parametrize('name', ['mobilenetv2_100', 'squeezenet1_1'])
def test_a_detector_has_the_features_of_torchvision_under_their_numbers(name, prefix):
    whole = {k: v * i for i, (k, v) in enumerate(state(name).items(), 1)}
    detector = {
        prefix + k.removeprefix('features.'): v for k, v in whole.items() if 'features.' in k
    }
    detector['rpn.head.conv.0.0.weight'] = np.ones((3, 3))
    assert found(detector) == [(name, 'torchvision', 0, 'backbone')]
    fitted = weights.fit(detector, name, part='backbone')
    assert fitted.left_out == ['rpn.head.conv.0.0.weight']
    complete = weights.fit(whole, name).variables
    del complete['params']['classifier' if 'classifier' in complete['params'] else 'classifier.1']
    jax.tree.map(np.testing.assert_array_equal, fitted.variables, complete)


def features(name):
    """Returns the tensors of a network of torchvision without `features.` and the rest."""
    whole = state(name, aux=False)
    return {k.removeprefix('features.'): v for k, v in whole.items() if k.startswith('features.')}


def ssd(name):
    """Returns the tensors of ssd300_vgg16's backbone: the last stage has another module."""
    own = {f'features.{k}': v for k, v in features(name).items()}
    for old in [k for k in own if k.split('.')[1] in ('24', '26', '28')]:
        _, number, leaf = old.split('.')
        own[f'extra.0.{int(number) - 23}.{leaf}'] = own.pop(old)
    return own | {'scale_weight': np.ones(512), 'extra.0.7.1.weight': np.ones((8, 8, 3, 3))}


@pytest.mark.parametrize(
    ('name', 'make', 'prefix'),
    [
        ('mobilenetv3_small_100', features, 'backbone.'),
        ('mobilenetv3_large_100', features, 'backbone.body.'),
        ('densenet121', features, 'backbone.'),
        ('vgg16_bn', features, 'encoder.features.'),
        ('vgg16', ssd, 'backbone.'),
    ],
)
def test_a_backbone_lacks_all_layers_of_a_classifier(name, make, prefix):
    detector = {prefix + k: v for k, v in make(name).items()} | {'head.0.weight': np.ones((3, 3))}
    assert found(detector) == [(name, 'torchvision', 0, 'backbone')]
    assert bool(index.tensors(name).hidden) == (name != 'densenet121')


def test_hidden_layers_may_lack_the_last_one():
    whole = state('mobilenetv3_small_100')
    headless = {k: v for k, v in whole.items() if not k.startswith('classifier.3.')}
    assert found(headless) == [('mobilenetv3_small_100', 'torchvision', 0, 'backbone')]
    fitted = weights.fit(headless, 'mobilenetv3_small_100', without_head=True)
    assert 'conv_head' in fitted.variables['params']
    body = weights.fit(features('mobilenetv3_small_100'), 'mobilenetv3_small_100', part='backbone')
    assert not {'conv_head', 'classifier'} & body.variables['params'].keys()


def test_a_larger_network_is_no_backbone():
    """A deeper network has all tensors of a smaller one."""
    tensors = state('resnet152')
    for key in [k for k in tensors if re.match(r'layer3\.(2[3-9]|3)', k)]:
        tensors[key.replace('layer3.', 'layer3.1')] = tensors.pop(key)
    assert not recognize(tensors)
    assert fitting.same_tensors('resnet152') == ['resnet152_sd']
