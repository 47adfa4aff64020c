"""The part of a config on augmentation: its defaults, its checks, and its way into the recipe."""

import dataclasses

import jax
import pytest

from cls.augment.spec import AugmentSpec
from cls.config import load as configs
from cls.config.defaults import FIELDS
from cls.errors import UserError
from cls.setup import set_up


def small(*overrides):
    return configs.load('configs/resnet.py', overrides)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('augment.policy', 'autoaugment_imagnet', 'Did you mean autoaugment_imagenet'),
        ('augment.distortion', 'inceptoin', 'Did you mean inception'),
        ('augment.erasing_fill', 'color', "expected one of 'noise', 'mean'"),
        ('augment.layers', '0', r'\[1, 16\]'),
        ('augment.magnitude', '31', r'\[0, 30\]'),
        ('augment.hue', '0.6', r'\[0, 0.5\]'),
        ('augment.erasing', '1.5', r'\[0, 1\]'),
        ('augment.mixup', '-1', '0 or more'),
        ('augment.cutmix', 'nan', 'is a float'),
        ('augment.rotation', '-10', r'\[0, 180\]'),
        ('augment.hsl', '(36,50)', 'expected 3 numbers'),
        ('augment.lighting', '0.1', 'have no colors'),
        ('augment.hsl', '(36,0,0)', 'have no colors'),
        ('data.contrast', 'gobal', 'Did you mean global'),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        set_up(small((field, value)), jax.devices()[:1])


def test_every_field_has_its_check_and_reaches_the_recipe():
    config = small()
    assert set(config.augment) == {field.name for field in dataclasses.fields(AugmentSpec)}
    assert config.augment.to_dict() == dataclasses.asdict(AugmentSpec())
    for field in dataclasses.fields(AugmentSpec):
        stated = FIELDS[f'augment.{field.name}']
        assert stated.interval or isinstance(field.default, str)
    recipe = set_up(
        small(
            ('augment.mixup', '0.2'), ('augment.policy', 'randaugment'), ('data.contrast', 'global')
        )
    ).recipe
    assert recipe.augment == AugmentSpec(mixup=0.2, policy='randaugment')
    assert recipe.contrast == 'global'
    with pytest.raises(UserError, match='expected 0 to 10'):
        set_up(small(('augment.policy', 'randaugment_increasing'), ('augment.magnitude', '11')))
    with pytest.raises(UserError, match='batch > 1'):
        set_up(small(('augment.mixup', '0.2'), ('batch', '1')), jax.devices()[:1])


def test_all_mistakes_are_reported_together():
    config = small(
        ('augment.policy', 'randaugmnt'),
        ('augment.hue', '0.1'),
        ('augment.mixup', '0.2'),
        ('batch', '1'),
    )
    with pytest.raises(UserError) as caught:
        AugmentSpec.from_config(config, 1)
    message = str(caught.value)
    for part in ('Did you mean randaugment', 'augment.hue is 0.1', 'no colors', 'batch > 1'):
        assert part in message
    assert '\n' not in message
