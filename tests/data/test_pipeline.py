"""Batches: every example once an epoch, the same for any number of processes and restarts."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cls.data import datasets, order, pipeline, readers, sources, transforms
from cls.errors import UserError


class Numbered(sources.Source):
    """`length` images of 12x12 pixels, decoded one by one; all pixels of image i are i."""

    class_names = ()
    channels = 1

    def __init__(self, length: int, num_classes: int = 10):
        self.num_classes, self._length = num_classes, length

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(index)
        image = np.full((12, 12, 1), index, np.uint8)
        return {'image': image, 'label': index % self.num_classes}


def held(length: int) -> sources.InMemory:
    """Returns the images of `Numbered` in memory."""
    read = Numbered(length)
    images = np.stack([read[i]['image'] for i in range(length)])
    return sources.InMemory(images, np.arange(length, dtype=np.int32) % 10, 10)


def take(iterator, count: int) -> list[dict]:
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def joined(batches: list[dict]) -> dict:
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_equal(got: list[dict], expected: list[dict]) -> None:
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        for key in ('image', 'label', 'mask'):
            np.testing.assert_array_equal(one[key], other[key])


# A source and a crop for each way of reading batches.
CROPS = {
    'in memory, as it is': (held, {'image_size': 12}),
    'in memory, padded': (held, {'image_size': 12, 'train_crop': 'pad', 'pad': 3}),
    'in memory, resized first': (held, {'image_size': 9, 'train_crop': 'pad', 'pad': 3}),
    'in memory, one by one': (held, {'image_size': 8, 'train_crop': 'random_resized'}),
    'decoded': (Numbered, {'image_size': 12, 'train_crop': 'pad', 'pad': 3}),
    'decoded, jitter': (
        Numbered,
        {'image_size': 8, 'train_crop': 'scale_jitter', 'scale': (9, 14)},
    ),
    'repeated': (held, {'image_size': 12, 'train_crop': 'pad', 'pad': 3, 'repeats': 3}),
    'balanced': (Numbered, {'image_size': 8, 'train_crop': 'distorted_box', 'balanced': True}),
}


@pytest.fixture(params=CROPS)
def train(request, make_data):
    """A function: options -> iterator over training batches of 46 examples."""
    make, fields = CROPS[request.param]

    def start(batch=12, seed=0, process=(0, 1)):
        return pipeline.train_batches(
            make(46),
            make_data(**fields),
            batch=batch,
            seed=seed,
            num_classes=10,
            process=process,
        )

    return start


def test_shapes(train):
    batch = next(train())
    size = batch['image'].shape[1]
    assert batch['image'].shape == (12, size, size, 1)
    assert (batch['image'].dtype, batch['label'].dtype) == (np.uint8, np.int32)
    assert batch['mask'].dtype == bool
    assert batch['mask'].all()


@pytest.mark.parametrize(
    ('source', 'fields'),
    [
        (held, {'image_size': 12, 'train_crop': 'pad', 'pad': 3}),
        (held, {'image_size': 12, 'train_crop': 'random_resized'}),
        (Numbered, {'image_size': 12, 'train_crop': 'pad', 'pad': 3}),
    ],
    ids=['in memory', 'in memory, one by one', 'decoded'],
)
def test_sizes_are_a_function_of_the_step(source, fields, make_data):
    """Each phase has the batches of a run at only its size, wherever the iteration begins."""

    def start(sizes=(), **others):
        data = make_data(**{**fields, **others})
        return pipeline.train_batches(
            source(46), data, batch=12, seed=0, num_classes=10, sizes=sizes
        )

    grown = take(start(sizes=((0, 4), (2, 8), (5, 12))), 7)
    assert [batch['image'].shape[1] for batch in grown] == [4, 4, 8, 8, 8, 12, 12]
    alone = {
        4: take(start(image_size=4, pad=1), 2),
        8: take(start(image_size=8, pad=2), 5),
        12: take(start(), 7),
    }
    assert_equal(grown, alone[4] + alone[8][2:] + alone[12][5:])
    for step in (1, 3, 6):
        again = start(sizes=((0, 4), (2, 8), (5, 12)))
        again.set_state({'step': step})
        assert_equal(take(again, 7 - step), grown[step:])


def test_what_is_in_pixels_grows_with_the_image(make_data):
    data = make_data(image_size=224, scale=(256, 480), pad=4)
    half = data.at_size(112)
    assert (half.image_size, half.scale, half.pad) == (112, (128, 240), 2)
    assert (data.image_size, data.scale, data.pad) == (224, (256, 480), 4)
    assert data.at_size(224) is data


def test_random_images_come_in_any_size(make_data):
    data = make_data(name='synthetic', image_size=8, train_crop='random_resized')
    source = datasets.load(data, 'train')
    batches = pipeline.train_batches(
        source, data, batch=4, seed=0, num_classes=1000, sizes=((0, 4), (1, 8))
    )
    assert [batch['image'].shape[1:] for batch in take(batches, 2)] == [(4, 4, 3), (8, 8, 3)]


def test_each_example_once_in_an_epoch(make_data):
    """Four epochs of 46 in batches of 8, some across epochs; no two epochs have the same order."""
    iterator = pipeline.train_batches(
        Numbered(46), make_data(image_size=12), batch=8, seed=0, num_classes=10
    )
    seen = joined(take(iterator, 23))
    order = seen['image'][:, 0, 0, 0]
    np.testing.assert_array_equal(seen['label'], order % 10)
    epochs = order.reshape(4, 46)
    for epoch in epochs:
        assert sorted(epoch) == list(range(46))
    for first in range(4):
        for second in range(first):
            # Two random orders have about one example at the same position.
            assert (epochs[first] == epochs[second]).sum() < 8
        assert (epochs[first] == np.arange(46)).sum() < 8


def test_repeats(make_data):
    """A batch of 12 has 4 examples three times, 4 rows apart, each with another crop.

    Every example comes three times before any is repeated.
    """
    data = make_data(image_size=12, train_crop='pad', pad=4, repeats=3)
    for make in (Numbered, held):
        iterator = pipeline.train_batches(make(40), data, batch=12, seed=0, num_classes=10)
        batches = take(iterator, 20)
        everything = []
        for batch in batches:
            labels = batch['label'].reshape(3, 4)
            np.testing.assert_array_equal(labels[0], labels[1])
            np.testing.assert_array_equal(labels[0], labels[2])
            shown = batch['image'].max(axis=(1, 2, 3)).reshape(3, 4)  # all pixels of image i are i
            np.testing.assert_array_equal(shown[0], shown[2])
            everything.append(shown[0])
        for epoch in np.concatenate(everything).reshape(2, 40):
            assert sorted(epoch) == list(range(40))
        crops = np.stack([b['image'].reshape(3, 4, -1) > 0 for b in batches])
        same = (crops[:, 0] == crops[:, 1]).all(axis=-1)
        assert same.mean() < 0.2


def test_balanced(make_data):
    """Each of three classes with 1, 4 and 10 images comes once in every three positions."""
    labels = np.repeat([0, 3, 4], [1, 4, 10]).astype(np.int32)
    images = np.arange(15, dtype=np.uint8)[:, None, None, None] * np.ones((12, 12, 1), np.uint8)
    source = sources.InMemory(images, labels, 5)
    data = make_data(image_size=12, balanced=True)
    drawn = {}
    for seed in (0, 1):
        iterator = pipeline.train_batches(source, data, batch=15, seed=seed, num_classes=5)
        seen = joined(take(iterator, 16))
        drawn[seed] = seen['image'][:, 0, 0, 0]
        np.testing.assert_array_equal(labels[drawn[seed]], seen['label'])
        turns = seen['label'].reshape(80, 3)
        np.testing.assert_array_equal(np.sort(turns), np.tile([0, 3, 4], (80, 1)))
        assert len({tuple(turn) for turn in turns}) == 6
        for label, count in ((3, 4), (4, 10)):
            rounds = drawn[seed][seen['label'] == label].reshape(-1, count)
            for images_of in rounds:
                assert sorted(images_of) == list(np.flatnonzero(labels == label))
            assert len({tuple(images_of) for images_of in rounds}) > 4
    assert (drawn[0] != drawn[1]).any()


def test_batches_may_be_larger_than_the_set(make_data):
    iterator = pipeline.train_batches(
        Numbered(5), make_data(image_size=12), batch=15, seed=0, num_classes=10
    )
    assert sorted(next(iterator)['image'][:, 0, 0, 0]) == sorted(3 * list(range(5)))


@pytest.mark.parametrize('count', [2, 4])
def test_same_on_any_number_of_processes(train, count):
    """The concatenated parts of all processes are the batch of one process, with its crops."""
    alone = take(train(), 9)
    parts = [take(train(process=(index, count)), 9) for index in range(count)]
    assert_equal([joined([part[i] for part in parts]) for i in range(9)], alone)


def test_resumed_equals_uninterrupted(train):
    """From a state in JSON, at once or after other batches, also on other process counts."""
    whole = take(train(), 9)
    iterator = train()
    for _ in range(5):
        next(iterator)
    state = json.dumps(iterator.get_state())
    assert state == '{"step": 5}'
    next(iterator)
    iterator.set_state(json.loads(state))
    assert_equal(take(iterator, 4), whole[5:])
    parts = []
    for index in range(2):
        iterator = train(process=(index, 2))
        iterator.set_state(json.loads(state))
        assert iterator.get_state() == {'step': 5}
        parts.append(take(iterator, 4))
    assert_equal([joined([part[i] for part in parts]) for i in range(4)], whole[5:])


def test_seed_and_step_matter(train):
    first, second = take(train(seed=1), 2)
    other = next(train(seed=2))
    assert (first['label'] != other['label']).any()
    assert (first['label'] != second['label']).any()


def test_crops_differ_between_epochs_and_seeds(make_data):
    """With a set of one example, only crops can differ."""
    data = make_data(image_size=12, train_crop='pad', pad=4)
    for make in (Numbered, held):
        crops = {}
        for seed in (0, 1):
            source = make(2)
            iterator = pipeline.train_batches(source, data, batch=64, seed=seed, num_classes=10)
            images = joined(take(iterator, 2))['image']
            crops[seed] = (images == 1).sum(axis=(1, 2, 3))
            assert len(np.unique(crops[seed])) > 10
        assert (crops[0] != crops[1]).any()


def test_synthetic_is_not_cropped(make_data):
    data = make_data(name='synthetic', image_size=16, train_crop='random_resized')
    source = datasets.load(data, 'train')
    iterator = pipeline.train_batches(source, data, batch=4, seed=0, num_classes=1000)
    batch = next(iterator)
    for index, image in zip(
        order.shuffled(np.arange(4), len(source), 0), batch['image'], strict=True
    ):
        np.testing.assert_array_equal(image, source[index]['image'])
    data = dataclasses.replace(data, eval_resize=20)
    batch = next(iter(pipeline.eval_batches(source, data, batch=4, num_classes=1000)))
    np.testing.assert_array_equal(batch['image'][3], source[3]['image'])


WORKERS = """
import sys
import numpy as np
import dataclasses
from absl import flags
from cls.data import datasets, pipeline
from cls.data.spec import DataSpec
from cls.errors import UserError

left_open = []

def hashes(data, workers, steps, start=0):
    data = dataclasses.replace(data, workers=workers)
    source = datasets.load(data, 'train')
    iterator = pipeline.train_batches(source, data, batch=4, seed=0, num_classes=3)
    iterator.set_state({'step': start})
    found = [hash(next(iterator)['image'].tobytes()) for _ in range(steps)]
    assert iterator.get_state() == {'step': start + steps}
    left_open.append(iterator)
    return found

if __name__ == '__main__':
    data = DataSpec('folder:' + sys.argv[1], image_size=24, train_crop='random_resized')
    threads = hashes(data, 0, 7)
    assert len(set(threads)) == 7
    assert hashes(data, 2, 7) == threads
    assert hashes(data, 3, 4, start=3) == threads[3:]
    open(sys.argv[1] + '/train/owl/0.jpg', 'wb').write(b'no image')
    try:
        hashes(data, 2, 7)
    except UserError as error:
        print(error)
"""


@pytest.mark.sweep  # six worker processes, and each imports Grain
def test_workers_give_the_same(birds, tmp_path):
    """In a program without absl.app; a UserError in a worker is raised as UserError.

    The program ends without an error if its workers have not been stopped.
    """
    (tmp_path / 'program.py').write_text(WORKERS)
    run = subprocess.run(
        [sys.executable, str(tmp_path / 'program.py'), str(birds)],
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONHASHSEED': '0', 'PYTHONPATH': os.getcwd()},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith('1 of the 11 images in')
    assert 'Traceback' not in run.stderr


@pytest.mark.parametrize('count', [1, 3])
@pytest.mark.parametrize('make', [Numbered, held])
def test_eval_each_example_once(make_data, make, count):
    """25 examples in batches of 12; on 3 processes, two have only padding in the last batch."""
    parts = []
    for index in range(count):
        batches = pipeline.eval_batches(
            make(25), make_data(image_size=12), batch=12, num_classes=10, process=(index, count)
        )
        assert len(batches) == 3
        parts.append(list(batches))
        assert_equal(list(batches), parts[-1])  # a second time
    for batch in (batch for part in parts for batch in part):
        assert batch['image'].shape == (12 // count, 12, 12, 1)
        assert batch['image'].dtype == np.uint8
        assert batch['label'].dtype == np.int32
        assert not batch['image'][~batch['mask']].any()
        assert not batch['label'][~batch['mask']].any()
    everything = joined([joined([part[i] for part in parts]) for i in range(3)])
    np.testing.assert_array_equal(everything['mask'], np.arange(36) < 25)
    np.testing.assert_array_equal(everything['image'][:25, 0, 0, 0], np.arange(25))
    np.testing.assert_array_equal(everything['label'][:25], np.arange(25) % 10)


def test_eval_crops(make_data, birds):
    data = make_data(name=f'folder:{birds}', image_size=24, eval_resize=32)
    source = datasets.load(data, 'eval')
    batches = list(pipeline.eval_batches(source, data, batch=3, num_classes=3))
    images = joined(batches)['image']
    for index in range(5):
        expected = transforms.center_crop(source[index]['image'], 24, 32)
        np.testing.assert_array_equal(images[index], expected)


def test_eval_crop_of_images_in_memory(make_data):
    """eval_resize is applied, although the images have the network's input size."""
    images = np.random.default_rng(0).integers(256, size=(3, 12, 12, 1), dtype=np.uint8)
    source = sources.InMemory(images, np.zeros(3, np.int32), 10)
    data = make_data(image_size=12, eval_resize=16)
    (batch,) = pipeline.eval_batches(source, data, batch=3, num_classes=10)
    for image, crop in zip(images, batch['image'], strict=True):
        np.testing.assert_array_equal(crop, transforms.center_crop(image, 12, 16))


def test_large_sets_are_not_resized_in_memory(make_data, monkeypatch):
    """They are resized one by one, with the same result."""
    data = make_data(image_size=9, train_crop='none')
    expected = take(pipeline.train_batches(held(46), data, batch=8, seed=0, num_classes=10), 3)
    monkeypatch.setattr(readers, 'MEMORY_LIMIT', 100)
    got = take(pipeline.train_batches(held(46), data, batch=8, seed=0, num_classes=10), 3)
    assert_equal(got, expected)


def test_wrong_labels(make_data):
    """num_classes is that of the network: set by hand, it may be too small for the labels."""
    data = make_data(image_size=12)
    message = r'Example \d has the label \d: expected 0 to 3. Check config.data.num_classes'
    for source in (Numbered(10), held(10)):
        with pytest.raises(UserError, match=message):
            next(pipeline.train_batches(source, data, batch=10, seed=0, num_classes=4))
        with pytest.raises(UserError, match=r'Example 4 has the label 4: expected 0 to 3'):
            list(pipeline.eval_batches(source, data, batch=10, num_classes=4))
    unlabeled = sources.InMemory(np.zeros((2, 12, 12, 1), np.uint8), np.array([-1, 0]), 10)
    with pytest.raises(UserError, match=r'Example 0 has the label -1'):
        list(pipeline.eval_batches(unlabeled, data, batch=2, num_classes=10))


def test_threads_give_the_same(make_data, birds, monkeypatch):
    """Decoding with zero, one or five threads; partial decoding equals that of whole images."""
    data = make_data(name=f'folder:{birds}', image_size=24, train_crop='pad')
    source = datasets.load(data, 'train')
    found = {}
    for threads in (0, 1, 5):
        monkeypatch.setattr(pipeline, 'reading_threads', lambda source, threads=threads: threads)
        iterator = pipeline.train_batches(source, data, batch=6, seed=0, num_classes=3)
        found[threads] = take(iterator, 4)
    assert_equal(found[1], found[0])
    assert_equal(found[5], found[0])
    first = int(order.shuffled(np.arange(1), len(source), 0)[0])
    crop = transforms.train_crop(data)
    expected = crop(source[first]['image'], order.draws(order.key(0, 1), np.arange(1))[0])
    np.testing.assert_array_equal(found[0][0]['image'][0], expected)


def test_eval_size(make_data, birds):
    data = make_data(name=f'folder:{birds}', image_size=24, eval_size=32, eval_resize=36)
    source = datasets.load(data, 'eval')
    batches = list(pipeline.eval_batches(source, data, batch=3, num_classes=3))
    assert [batch['image'].shape for batch in batches] == 2 * [(3, 32, 32, 3)]
    expected = transforms.center_crop(source[1]['image'], 32, 36)
    np.testing.assert_array_equal(batches[0]['image'][1], expected)


def test_errors_of_threads_arrive(make_data, birds):
    (birds / 'train' / 'owl' / '0.jpg').write_bytes(b'no image')
    data = make_data(name=f'folder:{birds}', image_size=24)
    source = datasets.load(data, 'train')
    with pytest.raises(UserError, match='1 of the 11 images in'):
        take(pipeline.train_batches(source, data, batch=11, seed=0, num_classes=3), 1)


@pytest.mark.parametrize(
    ('fields', 'options', 'message'),
    [
        ({}, {'batch': 10, 'process': (0, 4)}, 'batch of 10 .* by 4 process'),
        ({}, {'batch': 0}, 'batch of 0 .*positive multiple'),
        ({}, {'seed': -1}, 'config.seed is -1: expected 0 or more'),
        ({'workers': -2}, {}, 'config.data.workers is -2'),
        ({'train_crop': 'crop'}, {}, "train_crop is 'crop'"),
        ({'repeats': 3}, {}, 'data.repeats is 3: expected a divisor of the 8 examples'),
        ({'repeats': 0}, {}, 'data.repeats is 0'),
    ],
)
def test_train_errors(make_data, fields, options, message):
    options = {'batch': 8, 'seed': 0, 'num_classes': 10} | options
    with pytest.raises(UserError, match=message):
        pipeline.train_batches(Numbered(9), make_data(**fields), **options)


def test_eval_errors(make_data):
    with pytest.raises(UserError, match='batch of 10 .* by 4 process'):
        pipeline.eval_batches(Numbered(9), make_data(), batch=10, num_classes=10, process=(0, 4))
    with pytest.raises(UserError, match='eval_resize is 8'):
        pipeline.eval_batches(Numbered(9), make_data(eval_resize=8), batch=8, num_classes=10)


def test_info(make_data):
    data = make_data(image_size=16)
    train, test = (datasets.load(data, split) for split in ('train', 'eval'))
    info = pipeline.info(train, test, data)
    assert (info.num_classes, info.num_train, info.num_eval) == (10, 1442, 355)
    assert info.image_shape == (16, 16, 1)
    assert info.class_names[3] == '3'
    assert pipeline.info(train, test, make_data(num_classes=12)).num_classes == 12
