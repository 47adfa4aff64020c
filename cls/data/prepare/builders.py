"""TFDS data sets prepared without TensorFlow, from the files that the authors publish.

    prepare('cifar10', data_dir, manual)

The data sets equal TFDS's in name, version, features, keys (so in the order of their records) and
pixels. The code here replaces the parts of TFDS that need TensorFlow: reading of the files, and
encoding of pixels as PNG.
"""

import dataclasses
import fcntl
import functools
import hashlib
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from cls.data.prepare import archives, imagenet
from cls.errors import UserError

Examples = Iterator[tuple[int | str, dict]]
DEBIAN = Path('/usr/share/datasets')
# (builder, file name -> its path) -> split name -> the split's examples
Generate = Callable[[tfds.core.DatasetBuilder, dict[str, Path]], dict[str, Examples]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The files of a data set and the function that reads examples from them."""

    base: str  # the URL of the files, without their names; '': they may not be redistributed
    files: tuple[tuple[str, ...], ...]  # one file of each tuple is needed; the first is downloaded
    generate: Generate
    debian: str = ''  # pattern of the folder of the files in a package of Debian


def png(image: np.ndarray) -> bytes:
    """Returns (H, W, 1 or 3) uint8 encoded as PNG."""
    return cv2.imencode('.png', image[..., ::-1] if image.shape[-1] == 3 else image)[1].tobytes()


# ------------------------------------------------------------------------------------------------
# From files to examples
# ------------------------------------------------------------------------------------------------

_IDX = {
    'train': ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz'),
    'test': ('t10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte.gz'),
}


def _mnist(builder: tfds.core.DatasetBuilder, files: dict[str, Path]) -> dict[str, Examples]:
    del builder

    def examples(images_file: str, labels_file: str) -> Examples:
        images, labels = (archives.read_idx(files[name]) for name in (images_file, labels_file))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(f'{files[images_file]}: {images.shape}, its labels {labels.shape}')
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {'image': png(image[..., None]), 'label': int(label)}

    return {split: examples(*names) for split, names in _IDX.items()}


_CIFAR_KEYS = {  # of each label in TFDS: (key of its class names, key of the label) in the pickles
    'cifar10': {'label': (b'label_names', 'labels')},
    'cifar100': {
        'coarse_label': (b'coarse_label_names', 'coarse_labels'),
        'label': (b'fine_label_names', 'fine_labels'),
    },
}


def _cifar(builder: Any, files: dict[str, Path]) -> dict[str, Examples]:
    info, keys = builder._cifar_info, _CIFAR_KEYS[builder.name]
    (archive,) = files.values()
    python = 'python' in archive.name
    parts = {'train': info.train_files, 'test': info.test_files}
    if python:
        parts = {key: [name.removesuffix('.bin') for name in names] for key, names in parts.items()}
        meta = ['batches.meta' if builder.name == 'cifar10' else 'meta']
    else:
        meta = info.label_files
    content = archives.read_members(archive, [*meta, *parts['train'], *parts['test']])
    for column, (key, (names_key, _)) in enumerate(keys.items()):
        if python:
            names = [name.decode() for name in archives.unpickle(content[meta[0]])[names_key]]
        else:
            names = content[meta[column]].decode().split()
        builder.info.features[key].names = names

    def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
        if python:
            return archives.cifar_python(content[name], [key for _, key in keys.values()])
        return archives.cifar_binary(content[name], len(keys))

    def examples(split: str) -> Examples:
        rows = (row for name in parts[split] for row in zip(*batch(name), strict=True))
        for index, (labels, image) in enumerate(rows):
            own = dict(zip(keys, map(int, labels), strict=True))
            yield index, {'id': f'{split}_{index:05d}', 'image': png(image), **own}

    return {split: examples(split) for split in parts}


def _svhn(builder: tfds.core.DatasetBuilder, files: dict[str, Path]) -> dict[str, Examples]:
    del builder

    def examples(split: str) -> Examples:
        images, labels = archives.read_mat(files[f'{split}_32x32.mat'])
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {'id': f'{split}_{index:06d}', 'image': png(image), 'label': int(label)}

    return {split: examples(split) for split in ('train', 'test', 'extra')}


_MNIST_FILES = tuple((name,) for names in _IDX.values() for name in names)
_FASHION = 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/'
_CIFAR_URL = 'https://www.cs.toronto.edu/~kriz/'
RECIPES = {
    'mnist': Recipe('https://storage.googleapis.com/cvdf-datasets/mnist/', _MNIST_FILES, _mnist),
    'fashion_mnist': Recipe(_FASHION, _MNIST_FILES, _mnist, debian='*fashion*mnist*'),
    'cifar10': Recipe(_CIFAR_URL, (('cifar-10-binary.tar.gz', 'cifar-10-python.tar.gz'),), _cifar),
    'cifar100': Recipe(
        _CIFAR_URL, (('cifar-100-binary.tar.gz', 'cifar-100-python.tar.gz'),), _cifar
    ),
    'svhn_cropped': Recipe(
        'http://ufldl.stanford.edu/housenumbers/',
        tuple((f'{split}_32x32.mat',) for split in ('train', 'test', 'extra')),
        _svhn,
    ),
    'imagenet2012': Recipe('', tuple((tar,) for tar in imagenet.SIZES), imagenet.splits),
}


# ------------------------------------------------------------------------------------------------
# Files
# ------------------------------------------------------------------------------------------------


def locate(name: str, manual: Path) -> dict[str, Path]:
    """Returns {first name in the tuple of `Recipe.files`: path} of the files that already exist.

    They are looked for in manual/NAME, in manual, and in the folders of Debian's packages;
    compressed, or decompressed (without .gz).
    """
    recipe = RECIPES[name]
    folders = [manual / name, manual]
    folders += sorted(DEBIAN.glob(recipe.debian)) if recipe.debian else []
    files = {}
    for names in recipe.files:
        wanted = [*names, *(n.removesuffix('.gz') for n in names if not n.endswith('.tar.gz'))]
        candidates = (folder / n for folder in folders for n in wanted)
        if file := next((c for c in candidates if c.is_file()), None):
            files[names[0]] = file
    return files


def download(name: str, file: str, folder: Path) -> Path:
    """Downloads a file of a data set into a folder unless it exists; returns its path.

    It is checked against TFDS's SHA-256. An incomplete download is removed.

    Raises UserError if there is no connection, or the content differs.
    """
    url = urljoin(RECIPES[name].base, file)
    expected = _url_infos(name)[url]
    target, partial = folder / file, folder / f'{file}.partial'
    if target.is_file():
        return target
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as source, partial.open('wb') as output:
            bar = tqdm(
                desc=file, total=int(expected.size), unit='B', unit_scale=True, file=sys.stderr
            )
            while block := source.read(2**20):
                digest.update(block)
                output.write(block)
                bar.update(len(block))
            bar.close()
        if digest.hexdigest() != expected.checksum:
            raise UserError(
                f'{url} has changed ({partial.stat().st_size:,} bytes, expected '
                f'{expected.size:,} with SHA-256 {expected.checksum[:12]}...): run this again, or '
                f'put {file} into the folder that --manual_dir names.'
            )
        partial.rename(target)
    except urllib.error.URLError as error:
        raise UserError(
            f'{url} cannot be downloaded ({error.reason}): run this again, or put {file} into the '
            'folder that --manual_dir names.'
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _url_infos(name: str) -> dict:
    """Returns TFDS's list of the files of a data set: URL -> size and checksum."""
    root = Path(tfds.__file__).parent
    paths = (root / 'url_checksums' / f'{name}.txt', root / 'datasets' / name / 'checksums.tsv')
    (path,) = (path for path in paths if path.is_file())
    download: Any = tfds.download
    return download.checksums.load_url_infos(path)


# ------------------------------------------------------------------------------------------------
# Preparation
# ------------------------------------------------------------------------------------------------


def prepare(name: str, data_dir: Path, manual: Path) -> str:
    """Prepares one of RECIPES, and downloads missing files; returns its folder.

    The folder is renamed to its name when it is complete. Processes take turns; the incomplete
    folder of a killed process is removed.

    Raises UserError for files that are missing, cannot be downloaded, or have another content.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / f'.{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = locate(name, manual)
        for names in RECIPES[name].files:
            if names[0] not in files:
                files[names[0]] = download(name, names[0], data_dir / 'downloads' / name)
        core: Any = tfds.core
        for left_over in (data_dir / name).glob(f'{core.constants.INCOMPLETE_PREFIX}*'):
            shutil.rmtree(left_over)
        builder = _builder(name, data_dir, functools.partial(RECIPES[name].generate, files=files))  # pyright: ignore[reportCallIssue]
        try:
            builder.download_and_prepare()
        except ValueError as error:
            raise UserError(
                f'{name} cannot be prepared: {error}. Expected intact files of the data set in '
                f'{", ".join(sorted({str(file.parent) for file in files.values()}))}.'
            ) from error
    return str(builder.data_dir)


def _builder(name: str, data_dir: Path, generate: Callable) -> tfds.core.DatasetBuilder:
    """Returns TFDS's builder of a data set, with `generate` in place of its own reading."""
    base: Any = tfds.builder_cls(name)

    class Builder(base, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        # TFDS looks for the description of a data set next to the module of its builder.
        __module__ = base.__module__
        url_infos = None  # nothing is downloaded through TFDS

        def _split_generators(self, dl_manager) -> dict[str, Examples]:
            del dl_manager
            return generate(self)

    Builder.name = name
    create: Any = Builder
    return create(data_dir=data_dir, file_format='array_record')
