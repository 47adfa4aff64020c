"""The table of published weights, and the preparation of images that it gives to checkpoints."""

import hashlib
import json

import pytest

from cls import models
from cls.errors import UserError
from cls.models import registry
from cls.weights import card as cards
from cls.weights import hub, origin, processor, published
from cls.weights.images import prepared_for

V1, V2 = 'resnet50-0676ba61.pth', 'resnet50-11ad3fa6.pth'
RESNET = {  # of microsoft/resnet-50
    'crop_pct': 0.875,
    'do_normalize': True,
    'do_resize': True,
    'image_mean': [0.485, 0.456, 0.406],
    'image_std': [0.229, 0.224, 0.225],
    'resample': 3,
    'size': {'shortest_edge': 224},
}
SIDES, LARGE = {'height': 224, 'width': 224}, {'shortest_edge': 384}
SQUARE = {'height': 200, 'width': 200}
EFFICIENTNET = {  # of google/efficientnet-b0
    'crop_size': {'height': 289, 'width': 289},
    'do_center_crop': False,
    'image_mean': [0.485, 0.456, 0.406],
    'image_std': [0.47853944, 0.4732864, 0.47434163],
    'include_top': True,
    'resample': 0,
    'rescale_factor': 0.00392156862745098,
    'rescale_offset': False,
    'size': SIDES,
}
MOBILENET = {  # of google/mobilenet_v2_1.0_224
    'crop_size': {'height': 224, 'width': 224},
    'do_center_crop': True,
    'do_normalize': True,
    'do_rescale': True,
    'do_resize': True,
    'image_mean': [0.5, 0.5, 0.5],
    'image_std': [0.5, 0.5, 0.5],
    'resample': 2,
    'rescale_factor': 0.00392156862745098,
    'size': {'shortest_edge': 256},
}


def located(tmp_path, name='weights.pth', card=None, **more):
    file = tmp_path / name
    file.write_bytes(b'weights')
    return hub.Located(file, card or {}, **more)


def test_rows_are_of_registered_variants_with_possible_values():
    names = set(models.names())
    for row in published.rows():
        assert row.variant in names, row
        assert row.source.startswith(('hf:', 'http')) and row.classes > 1, row
        assert not row.resize or row.resize >= row.size > 0, row
        assert len(row.mean) == len(row.std) in (0, 3), row
        assert all(0 <= x <= 1 for x in row.mean) and all(0 < x <= 1 for x in row.std), row
        assert row.interpolation in ('', 'bilinear', 'bicubic'), row


def test_a_name_alone_stands_for_one_set_of_weights_of_its_classes():
    for name in models.names():
        defaults = [row for row in published.of_variant(name) if row.default]
        assert len(defaults) <= 1
        for row in defaults:
            assert row.classes == registry.create(name).num_classes, row
    assert published.default('resnet50').file == V2
    assert published.default('amoebanet_a_n6_f190') is None


def test_the_two_recipes_of_torchvision_resize_differently(tmp_path):
    """The numbers are those of torchvision's documentation of ResNet50_Weights."""
    variant = models.variant('resnet50')
    for file, resize in ((V1, 256), (V2, 232)):
        prepared = prepared_for(variant, located(tmp_path, file), file)
        assert (prepared.size, prepared.resize, prepared.assumed) == (224, resize, '')
        assert file in prepared.known_from['crop']
    unknown = prepared_for(variant, located(tmp_path), 'weights.pth')
    assert unknown.resize == 256 and unknown.row is None
    assert 'resize 232 of IMAGENET1K_V2' in unknown.assumed


def test_weights_are_recognized_by_source_tag_name_and_content(tmp_path, monkeypatch):
    there = located(tmp_path)
    row = published.named('hf:timm/resnet50.a1_in1k')
    assert published.find('resnet50', 'hf:timm/resnet50.a1_in1k@main')[0] == row
    card = {'architecture': 'resnet50', 'pretrained_cfg': {'tag': 'a1_in1k'}}
    assert published.find('resnet50', str(there.file), there.file, card)[0] == row
    assert published.find('resnet50', V1, tmp_path / V1)[0].tag == 'IMAGENET1K_V1'
    assert published.find('resnet50', str(there.file), there.file) == (None, '')
    digest = 'sha256:' + hashlib.sha256(b'weights').hexdigest()[:8]
    own = [r for r in published.rows() if r.file != V1]
    own += [r.__class__(**{**r.__dict__, 'hash': digest}) for r in published.rows() if r.file == V1]
    monkeypatch.setattr(published, 'rows', lambda: tuple(own))
    found, evidence = published.find('resnet50', str(there.file), there.file)
    assert found.file == V1 and evidence == 'the sha256 of weights.pth'


def test_the_preparation_of_tags_differs(tmp_path):
    variant = models.variant('resnet50')
    a1 = prepared_for(variant, located(tmp_path), 'hf:timm/resnet50.a1_in1k')
    assert (a1.size, a1.resize, a1.interpolation, a1.other) == (224, 235, 'bicubic', (288, 1.0))
    larger = prepared_for(variant, located(tmp_path), 'hf:timm/resnet50.a1_in1k', 288)
    assert (larger.size, larger.resize) == (288, 288)


def test_keras_in_the_mode_of_caffe_is_bgr_without_scaling(tmp_path):
    file = 'vgg16_weights_tf_dim_ordering_tf_kernels.h5'
    prepared = prepared_for(models.variant('vgg16'), located(tmp_path, file), file)
    assert prepared.space == 'BGR'
    assert prepared.mean == pytest.approx((123.68, 116.779, 103.939), abs=1e-3)
    assert prepared.std == pytest.approx((1, 1, 1), abs=1e-3)
    by_package = prepared_for(models.variant('vgg16'), located(tmp_path), 'x', package='keras')
    assert by_package.space == 'BGR' and by_package.mean == prepared.mean


@pytest.mark.parametrize(
    ('fields', 'size', 'resize', 'interpolation', 'mean'),
    [
        (RESNET, 224, 256, 'bicubic', (123.675, 116.28, 103.53)),
        (MOBILENET, 224, 256, 'bilinear', (127.5,) * 3),
        (RESNET | {'size': 224}, 224, 256, 'bicubic', (123.675, 116.28, 103.53)),
        (MOBILENET | {'do_normalize': False}, 224, 256, 'bilinear', (0, 0, 0)),
        (EFFICIENTNET, 224, 224, 'nearest', (123.675, 116.28, 103.53)),
        (EFFICIENTNET | {'do_center_crop': True, 'crop_size': SQUARE}, 200, 224, 'nearest', None),
        (RESNET | {'size': LARGE}, 384, 384, 'bicubic', None),
    ],
)
def test_preprocessor_config_of_transformers(tmp_path, fields, size, resize, interpolation, mean):
    there = located(tmp_path, processor=fields)
    prepared = prepared_for(models.variant('resnet50'), there, 'x')
    assert (prepared.size, prepared.resize) == (size, resize)
    assert prepared.interpolation == interpolation
    assert prepared.squash == (fields['size'] in (SIDES, LARGE))
    assert mean is None or prepared.mean == pytest.approx(mean, abs=1e-3)
    assert set(prepared.known_from.values()) == {hub.PROCESSOR}


def test_efficientnet_of_transformers_divides_by_the_deviation_twice():
    fields = MOBILENET | {'image_std': [0.5, 0.25, 0.5], 'include_top': True}
    assert processor.as_card(fields, 'x')['std'] == [0.25, 0.0625, 0.25]


def test_pixels_from_minus_one_to_one():
    """(x / 127.5 - 1 - 0.5) / 0.5 = (x / 255 - 0.75) / 0.25."""
    fields = MOBILENET | {'rescale_factor': 1 / 127.5, 'rescale_offset': True}
    card = processor.as_card(fields, 'x')
    assert card['mean'] == [0.75] * 3 and card['std'] == [0.25] * 3


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (RESNET | {'resample': 1}, 'resample is 1'),
        (MOBILENET | {'do_center_crop': False}, 'images have several shapes: expected crop_size'),
        (RESNET | {'image_mean': 0.5}, 'three channels'),
        (RESNET | {'size': {'longest_edge': 224}}, 'no size'),
        (RESNET | {'do_rescale': False}, 'do_rescale'),
    ],
)
def test_other_image_processors_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        processor.as_card({**RESNET, 'crop_pct': None, **fields}, 'preprocessor_config.json')


@pytest.mark.parametrize(
    ('text', 'license'),
    [
        ('---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\n# Model', 'cc-by-nc-4.0'),
        ('---\nlicense: other\nlicense_name: "apple-ascl"\n---\n', 'apple-ascl'),
        ('# Model\nlicense: mit\n', ''),
        ('---\ntags:\n- a\n---\nlicense: mit\n', ''),
        ('', ''),
    ],
)
def test_the_license_of_a_model_card(text, license):
    assert cards.license_of(text) == license


def test_the_license_is_the_cards_or_else_the_tables(tmp_path):
    variant, source = models.variant('resnet50'), 'hf:timm/resnet50.fb_swsl_ig1b_ft_in1k'
    prepared = prepared_for(variant, located(tmp_path), source)
    of_table = origin.of(source, located(tmp_path), prepared, 'timm', False)
    assert of_table.published == 'timm resnet50.fb_swsl_ig1b_ft_in1k'
    assert of_table.lines() == [
        'License: cc-by-nc-4.0 (from the table of timm): no commercial use.'
    ]
    of_card = origin.of(source, located(tmp_path, license='mit'), prepared, 'timm', False)
    assert of_card.lines() == ['License: mit (from README.md).']
    origin.write(tmp_path, of_card)
    assert origin.read(tmp_path) == of_card
    assert json.loads((tmp_path / 'weights.json').read_text())['sha256'] == of_card.sha256
    (tmp_path / 'weights.json').write_text('[1]')
    with pytest.raises(UserError, match='weights.json: expected the JSON'):
        origin.read(tmp_path)
