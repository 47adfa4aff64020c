"""Images held out of training sets of all kinds: by class and seed, each in exactly one part."""

import pickle

import numpy as np
import pytest

from cls.data import datasets, pipeline, subset
from cls.data.sources import InMemory
from cls.data.splits import Validation
from cls.errors import UserError


def every_image(source):
    return sorted(
        source[i]['image'].tobytes() + bytes([source[i]['label']]) for i in range(len(source))
    )


def test_a_tenth_of_each_class_of_the_digits_is_held_out_by_the_seed(make_data):
    whole = datasets.load(make_data(), 'train')
    parts = {}
    for seed in (0, 0, 1):
        data = make_data(validation='0.1', seed=seed)
        train, validation = datasets.training(data)
        assert every_image(whole) == sorted(every_image(train) + every_image(validation))
        each = np.bincount(whole.labels())
        assert np.bincount(validation.labels()).tolist() == [int(n / 10 + 0.5) for n in each]
        chosen = every_image(validation)
        assert parts.setdefault(seed, chosen) == chosen
        assert isinstance(train, InMemory)  # as without: on the devices during the training
        test = datasets.testing(data, validation)
        assert (len(test), test.split, test is validation) == (355, 'test', False)
    assert parts[0] != parts[1]


def test_records_that_are_decoded_one_by_one_are_divided(make_data, speckles):
    data = make_data(name='tfds:speckles', dir=str(speckles), validation='0.3')
    whole = datasets.load(make_data(name='tfds:speckles', dir=str(speckles)), 'train')
    train, validation = datasets.training(data)
    assert every_image(whole) == sorted(every_image(train) + every_image(validation))
    copy = pickle.loads(pickle.dumps(validation))
    assert every_image(copy) == every_image(validation)
    assert copy.labels().tolist() == [validation[i]['label'] for i in range(len(validation))]
    assert train.identity()['digest'] != validation.identity()['digest']
    assert (
        validation.identity()
        != datasets.training(
            make_data(name='tfds:speckles', dir=str(speckles), validation='0.3', seed=1)
        )[1].identity()
    )
    (batch,) = pipeline.eval_batches(validation, data, batch=8, num_classes=3)
    assert batch['mask'].sum() == len(validation)


def test_synthetic_images_are_divided_by_number(make_data):
    train, validation = datasets.training(make_data(name='synthetic', validation='0.25'))
    assert len(train) + len(validation) == 1_281_167
    assert len(validation) == 320_292
    with pytest.raises(UserError, match="validation is 'val', and synthetic has no such split"):
        datasets.check_disjoint(make_data(name='synthetic', validation='val'))


def test_names_of_a_subset_are_those_of_its_images():
    class Named(InMemory):
        files = tuple('abcdef')

    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    source = Named(images, np.zeros(6, np.int32), 2)
    part = subset.Subset(source, np.array([4, 1]))
    assert (list(part.files), part.files[0], part.files[:1]) == (['e', 'b'], 'e', ['e'])
    assert [part[i]['image'].item() for i in range(2)] == [4, 1]


@pytest.mark.parametrize('names', [(), [f'{i}.png' for i in range(1000)]])
def test_classes_are_divided_alike_with_one_image_left_on_each_side(names):
    labels = np.repeat([3, 0, 1, 2], [900, 2, 3, 95])
    chosen = Validation(0.01).held_out(labels, 5, names)
    assert [chosen[labels == label].sum() for label in range(4)] == [1, 1, 1, 9]
    nearly_all = Validation(0.999).held_out(labels, 5, names)
    assert [(~nearly_all)[labels == label].sum() for label in range(4)] == [1, 1, 1, 1]
    with pytest.raises(UserError, match='class 7 has one image'):
        Validation(0.5).held_out(np.array([1, 1, 7]), 0)
    with pytest.raises(UserError, match="have no names: expected '0.5'"):
        Validation(0.5, by_name=True).held_out(labels, 0)


def test_named_parts_must_not_overlap(make_data):
    def parts(**fields):
        data = make_data(**fields)
        datasets.check_disjoint(data)
        train, validation = datasets.training(data)
        return len(train), len(validation), len(datasets.testing(data, validation))

    assert parts(train_split='train[:90%]', validation='train[90%:]') == (1298, 144, 355)
    assert parts(validation='test') == (1442, 355, 355)  # the same images
    for fields, common in (
        ({'validation': 'train[90%:]'}, "'train'. and config.eval.validation .* have 144 images"),
        ({'validation': 'test[:9]', 'eval_split': 'test'}, 'data.eval_split .* have 9 images'),
        ({'validation': 'test', 'eval_split': 'test'}, "are both 'test'"),
        ({'validation': '0.1', 'eval_split': 'train[:7]'}, 'have 7 images'),
    ):
        with pytest.raises(UserError, match=common):
            parts(**fields)
    with pytest.raises(UserError, match="'dev' is not a split of digits"):
        datasets.training(make_data(validation='dev'))


def test_the_held_out_part_can_be_evaluated_by_name(make_data):
    data = make_data(validation='0.1', eval_split='validation')
    _, validation = datasets.training(data)
    assert datasets.testing(data, validation) is validation
    assert datasets.load(data, 'eval').split == '0.1 of each class held out of train'
