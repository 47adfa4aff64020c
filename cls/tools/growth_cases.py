"""The cases of `cls benchmark growth`."""

import importlib
import itertools
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from cls import evaluate, models, train
from cls.data import broken, datasets, order, table_files
from cls.data import views as data_views
from cls.data.decode import BrokenImage, Rules
from cls.data.file_list import FileList
from cls.data.shards import Part, Shards
from cls.data.spec import DataSpec
from cls.distributed.rendezvous import rendezvous
from cls.evaluation import files, protocols
from cls.evaluation import plan as plans
from cls.evaluation.metrics import Predictions, Tally, outcomes
from cls.evaluation.protocols import EvalSpec
from cls.recipes import common  # pyright: ignore[reportAttributeAccessIssue]
from cls.run import environment
from cls.run.telemetry import Metrics
from cls.search.evaluators.train import Training
from cls.search.history import History
from cls.search.loop import search, submit_inline
from cls.search.searchers.evolution import Evolution
from cls.search.spaces.tabular import NasBench201
from cls.setup import set_up
from cls.steps.optim import OptimSpec, initial_state
from cls.tools import benchmark_machine, benchmark_worker, import_weights
from cls.tools.growth_case import Case, Target, Work
from cls.weights.export import reference_tensors

_WIDTHS = (1, 16, 144)  # of networks with 2, 8 and 24 times the channels
_LINKS = 10_000  # to a file; ext4 allows 65,000
_PARAMS = 1_250_000  # of SqueezeNet; ResNet-18 has 9 times as many, VGG-16 110 times


def _tree(folder: Path, split: str, classes: int, images: int) -> None:
    """Makes folders of classes with links to images of 8 pixels, `images` in all."""
    pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    content, photo = cv2.imencode('.jpg', pixels)[1].tobytes(), folder / 'photo.jpg'
    for number in range(images):
        if number % _LINKS == 0:
            photo.unlink(missing_ok=True)
            photo.write_bytes(content)
        place = folder / split / f'class {number % classes}'
        if number < classes:
            place.mkdir(parents=True)
        os.link(photo, place / f'{number}.jpg')


def _opened(place: Path, kind: str = 'folder') -> Work:
    spec = DataSpec(f'{kind}:{place}', image_size=8)

    def work() -> None:
        train_images, test = (datasets.load(spec, split) for split in ('train', 'eval'))
        datasets.identity(train_images, test)
        train_images.labels()

    return work


def _images(size: int, folder: Path) -> Work:
    _tree(folder, 'train', 10, size)
    _tree(folder, 'val', 10, 10)
    return _opened(folder)


def _classes(size: int, folder: Path) -> Work:
    _tree(folder, 'train', size, 2 * size)
    _tree(folder, 'val', size, size)
    return _opened(folder)


def _table(size: int, folder: Path) -> Work:
    """Returns the opening of a CSV file of images in 1,000 classes, a tenth to evaluate on."""
    _tree(folder, 'train', 1, 1)
    # Each path is another way to the same image, of the usual length of a path.
    ways = (''.join('.//' if i >> bit & 1 else './' for bit in range(21)) for i in range(size))
    with (folder / 'list.csv').open('w') as file:
        file.write('image,label,split\n')
        for i, way in enumerate(ways):
            split = 'val' if i % 10 == 3 else 'train'
            file.write(f'{way}photo.jpg,class {i // 10 % 1000},{split}\n')
    opened = _opened(folder / 'list.csv', 'csv')

    def work() -> None:
        table_files.read.cache_clear()
        opened()

    return work


def _small(folder: Path) -> ConfigDict:
    """Returns a config that trains a ResNet-8 on images of 8 pixels for a step."""
    config = common.base()
    config.model.name, config.model.stage_sizes = 'resnet20_cifar', (1, 1, 1)
    config.data.name, config.data.image_size = f'folder:{folder}', 8
    config.batch, config.duration = 40, '1 steps'
    config.schedule.warmup = '0 steps'
    return config


def _evaluated(size: int, folder: Path) -> Work:
    (folder / 'data').mkdir()
    _tree(folder / 'data', 'train', 1000, 1000)
    _tree(folder / 'data', 'val', 10, 40)
    train.job(_small(folder / 'data'), folder / 'run')
    os.rename(folder / 'data' / 'val', folder / 'few')
    _tree(folder / 'data', 'val', 10, size)

    def work() -> None:
        with tempfile.TemporaryDirectory() as output:
            evaluate.job(_small(folder / 'data'), folder / 'run', Path(output))

    return work


def _logged(size: int, folder: Path) -> Work:
    values = {f'train/{name}': 0.5 for name in ('loss', 'top1', 'grad_norm', 'param_norm')}

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            workdir = Path(inner)
            for first in (0, size):  # a run, and the run that continues it
                metrics = Metrics(workdir, first)
                for step in range(first + 1, first + size + 1 if first == 0 else first + 2):
                    metrics.write(step, values)
                metrics.close()

    return work


def _trials(size: int, folder: Path) -> Work:
    def accuracy(trial: Any) -> dict[str, float]:
        return {'accuracy': float(np.mean(trial.code))}

    def work() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            for evaluations in (size, size + 1):  # a search, and the search that continues it
                search(
                    Evolution(NasBench201(), 0),
                    submit_inline(accuracy),
                    lambda result: result['accuracy'],
                    History(Path(inner) / 'history.jsonl'),
                    evaluations=evaluations,
                )

    return work


def _processes(size: int, folder: Path) -> Work:
    del folder

    def work() -> None:
        port = benchmark_machine.free_port()
        stacks = threading.stack_size(2**19)
        with ThreadPoolExecutor(size) as threads:
            meet = [
                threads.submit(rendezvous, ('127.0.0.1', port), index, size, 300, 'flags', 'token')
                for index in range(size)
            ]
            for connections in [future.result() for future in meet]:
                connections.end()
        threading.stack_size(stacks)

    return work


def _compiled(size: int, folder: Path) -> Work:
    """The train step of a ResNet with N blocks in each of three stages, compiled."""
    del folder
    jax.config.update('jax_enable_compilation_cache', False)
    config = benchmark_worker.config_of('resnet20_cifar', 2, 8)
    config.model.stage_sizes = (size, size, size)
    training = benchmark_worker.Training(set_up(config))

    def work() -> None:
        jax.clear_caches()
        training.compile()

    return work


def _rows(size: int, folder: Path) -> Work:
    """One shard of N records, of which 2,000 are read in random order."""
    reader = Shards([Part(_shard(folder / 'shard', size), 0, size)])
    indices = np.random.default_rng(0).integers(size, size=2000).tolist()
    return lambda: [reader[index] for index in indices]


def _shards(size: int, folder: Path) -> Work:
    """N shards, of which one record each is read."""
    parts = [Part(_shard(folder / str(number), 1), 0, 1) for number in range(size)]

    def work() -> None:
        reader = Shards(parts)
        for index in range(size):
            reader[index]

    return work


def _shard(file: Path, records: int) -> str:
    module: Any = importlib.import_module('array_record.python.array_record_module')
    writer = module.ArrayRecordWriter(str(file), 'group_size:1')
    for number in range(records):
        writer.write(number.to_bytes(100, 'little'))
    writer.close()
    return str(file)


def _names(size: int, folder: Path) -> Work:
    groups = [(f'n{10_000_000 + number}/', size // 10) for number in range(10)]

    def names(prefix: str, count: int) -> Any:
        return (f'{prefix[:-1]}_{number}.JPEG' for number in range(count))

    files_ = FileList(folder, ((prefix, names(prefix, n)) for prefix, n in groups))
    return lambda: pickle.loads(ForkingPickler.dumps(files_))[-1]


def _broken(size: int, folder: Path) -> Work:
    _tree(folder, 'train', 10, size)
    names = [f'class {number % 10}/{number}.jpg' for number in range(size)]
    (folder / 'train' / names[0]).unlink()
    (folder / 'train' / names[0]).write_bytes(b'')
    files_ = FileList(folder / 'train', [('', names)])
    error = broken.BrokenFile(folder / 'train', names[0], BrokenImage('not an image'))
    return lambda: broken.verdict(error, files_, 3, Rules())


def _balanced(size: int, folder: Path) -> Work:
    del folder
    labels = np.random.default_rng(0).integers(1000, size=size, dtype=np.int32)
    return lambda: order.Balanced(labels, 0)(np.arange(256))


def _confusion(size: int, folder: Path) -> Work:
    """Probabilities of N images of N classes, tallied and written."""
    random = np.random.default_rng(0)

    def work() -> None:
        tally, batch = Tally(size), 64
        for start in range(0, size, batch):
            index = np.arange(start, min(start + batch, size), dtype=np.int32)
            probabilities = random.random((len(index), size))
            tally.add(outcomes(Predictions(probabilities, index, index)))
        tally.scalars()
        files.write_confusion(folder / 'confusion.npz', tally)

    return work


def _listed(size: int, folder: Path) -> Work:
    """The most probable of N classes, of 200 images."""
    probabilities = np.random.default_rng(0).random((200, size))
    index = np.arange(200, dtype=np.int32)
    labels = index % size

    def work() -> None:
        with files.Listing() as listing:
            listing.add(outcomes(Predictions(probabilities, labels, index), listed=True))
            listing.write(folder / 'predictions.csv', size)

    return work


def _leaves(size: int, folder: Path) -> Work:
    """The initial state of the optimizer for N kernels of different shapes."""
    del folder
    params = {
        str(n): {'kernel': jax.ShapeDtypeStruct((n + 1, 8), jnp.float32)} for n in range(size)
    }
    return lambda: initial_state(OptimSpec(), params)


def _wide(size: int, folder: Path) -> ConfigDict:
    """Returns a config with a WRN-16 of about N parameters, whose run folder is made."""
    _tree(folder, 'train', 10, 40)
    _tree(folder, 'val', 10, 40)
    config = _small(folder)
    config.model = ConfigDict({'name': 'wrn16_8_cifar', 'k': round((size / 171_000) ** 0.5)})
    config.model.dtype = 'float32'
    # In a process of its own: memory that it leaves would serve the work that is measured.
    apart = multiprocessing.get_context('spawn').Process(target=_train, args=(config, folder))
    apart.start()
    apart.join()
    return config


def _train(config: ConfigDict, folder: Path) -> None:
    with redirect_stdout(sys.stderr):  # stdout has the answers
        environment.start()
        train.job(config, folder / 'run')


def _evaluated_weights(size: int, folder: Path) -> Work:
    config = _wide(size, folder)

    def work() -> None:
        with tempfile.TemporaryDirectory() as output:
            evaluate.job(config, folder / 'run', Path(output))

    return work


def _resumed(size: int, folder: Path) -> Work:
    config, steps = _wide(size, folder), itertools.count(2)

    def work() -> None:
        config.duration = f'{next(steps)} steps'
        train.job(config, folder / 'run')

    return work


def _imported(size: int, folder: Path) -> Work:
    name = {1: 'squeezenet1_1', 9: 'resnet18', 110: 'vgg16'}[size // _PARAMS]
    variant, model = models.variant(name), models.create(name)
    shapes: Any = models.abstract_variables(model, 224, 3)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    save_file(reference_tensors(zeros, variant), folder / f'{name}.safetensors')

    def work() -> None:
        shutil.rmtree(folder / 'run', ignore_errors=True)
        arguments = ['--from', str(folder / f'{name}.safetensors'), '--model', name]
        import_weights.main([*arguments, '--workdir', str(folder / 'run')])

    return work


def _proxies(size: int, folder: Path) -> Work:
    """N trials of a search that find the data of their proxy."""
    _tree(folder, 'train', 10, 2000)
    _tree(folder, 'val', 10, 10)
    config = ConfigDict({'seed': 0, 'proxy': _small(folder)})
    space = NasBench201()
    return lambda: [Training.from_config(space, config) for _ in range(size)]


def _views(size: int, folder: Path) -> Work:
    """The batches of 20 images in 12 or 144 views, decoded and cropped."""
    _tree(folder, 'train', 10, 20)
    _tree(folder, 'val', 10, 20)
    data = DataSpec(f'folder:{folder}', image_size=32)
    source = datasets.load(data, 'eval')
    spec = EvalSpec(protocol=f'crops_{size}')
    plan = plans.plan(protocols.find(spec.protocol), spec, data, source, plans.Batching(64, 1))

    def work() -> None:
        with ThreadPoolExecutor(2) as pool:
            read = data_views.reader(source, plan.views, pool)
            for _ in data_views.batches(read, plan.order, plan.scales, 3):
                pass

    return work


CASES = {
    'images': Case('open a folder of images', 200, _images),
    'workers': Case('send the list of files to workers', 12_800, _names, Target(each=40)),
    'classes': Case(
        'open a folder of classes with two images each', 218, _classes, Target(seconds=8)
    ),
    'table': Case(
        'open a CSV file of images', 20_000, _table, Target(exponent=1.1, seconds=20, mib=700)
    ),
    'broken': Case('name a broken image of a folder', 200, _broken, Target(seconds=35)),
    'shards': Case('read a record of each shard', 10, _shards),
    'records': Case('read 2,000 records of one shard', 1_750, _rows, Target(exponent=0.1)),
    'balanced': Case('draw balanced classes', 140_000, _balanced, Target(seconds=2)),
    'views': Case('views of 20 images', 12, _views, factors=(1, 12), fixed=True),
    'evaluated': Case('evaluate images of 1,000 classes', 100, _evaluated),
    'confusion': Case(
        'tally N images of N classes', 218, _confusion, Target(exponent=2.1, mib=100)
    ),
    'listed': Case('list the most probable classes of 200 images', 218, _listed),
    'leaves': Case("make the optimizer's state of parameters", 4, _leaves, Target(seconds=0.5)),
    'weights': Case(
        'evaluate a network of N parameters',
        684_000,
        _evaluated_weights,
        Target(each=8),
        _WIDTHS,
        True,
    ),
    'resumed': Case(
        'continue a run with N parameters', 684_000, _resumed, Target(each=13.6), _WIDTHS, True
    ),
    'imported': Case(
        'import a file of N parameters', _PARAMS, _imported, Target(each=10), (1, 9, 110), True
    ),
    'steps': Case('log steps, and continue', 50, _logged),
    'trials': Case('search by evolution in a table, and continue', 20, _trials),
    'proxies': Case("open a proxy's data in trials", 1, _proxies, Target(seconds=10)),
    'processes': Case('processes meet (threads of one)', 4, _processes, Target(exponent=1.4)),
    'depth': Case(
        'compile the step of a ResNet with 6 N + 2 layers',
        8,
        _compiled,
        Target(exponent=1.2, seconds=60),
        (1, 3, 9),
    ),
}
