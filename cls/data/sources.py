"""Data sources: random access to images and labels, wherever they are stored.

    source = load(config.data, 'train')
    source[3]  # {'image': (H, W, C) uint8, 'label': int}

`config.data.name` says which: 'digits', 'tfds:NAME', 'folder:DIR' or 'synthetic'. A source decodes
the images itself, so that it can name the one that is broken. All can be pickled, for workers.
"""

import abc
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cls.data.decode import BrokenImage, Decoded, Picture, decode, picture
from cls.errors import UserError, nearest

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
EVAL_FOLDERS = ('test', 'val', 'validation')
MEMORY_LIMIT = 256 * 2**20  # bytes of decoded images; a set that is larger is read as needed
_VERSION = re.compile(r'\d+\.\d+\.\d+')

Crop = Callable[[Picture], np.ndarray]


class Source(abc.ABC):
    """Random access to one split of a data set."""

    num_classes: int
    class_names: tuple[str, ...]  # () if the classes have none
    channels: int  # of every image: 1 or 3
    files: Sequence[str] = ()  # the images' names; () if they have none

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples, never 0."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict:
        """Returns {'image': (H, W, channels) uint8, 'label': int}; UserError if it is broken."""

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        """Returns (crop of an image, its label); what the crop leaves out need not be decoded."""
        example = self[index]
        return crop(Decoded(example['image'])), example['label']

    def labels(self) -> np.ndarray:
        """Returns all labels, (N,) int32."""
        return np.array([self[index]['label'] for index in range(len(self))], np.int32)


class InMemory(Source):
    """Images of one size in one array, which is cheaper than records by far if they are small.

    Args:
      images: (N, H, W, C) uint8.
      labels: (N,) int32.
      num_classes: The number of classes.
      class_names: Their names, or ().
      length: The number of examples if it differs from N: example i is image i % N.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
        class_names: tuple[str, ...] = (),
        length: int = 0,
    ):
        self.num_classes, self.class_names = num_classes, class_names
        self.shape = images.shape[1:]
        self.channels = images.shape[3]
        self._images, self._labels = images, labels
        self._length = length or len(images)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        row = index % len(self._images)
        return {'image': self._images[row], 'label': int(self._labels[row])}

    def labels(self) -> np.ndarray:
        return self._labels[np.arange(len(self)) % len(self._labels)]

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) indices -> copies of images (n, H, W, C) uint8 and labels (n,) int32."""
        rows = indices % len(self._images)
        return self._images[rows], self._labels[rows]

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> 'InMemory':
        """Applies `function` to every image; the results must have one shape."""
        images = np.stack([function(image) for image in self._images])
        return InMemory(images, self._labels, self.num_classes, self.class_names, self._length)


class Records(Source):
    """A split of a prepared TFDS data set, decoded example by example.

    Args:
      records: TFDS's data source of {'image': bytes, 'label': int}.
      name: What to call it in messages.
      channels: Of the images.
      num_classes: The number of classes.
      class_names: Their names.
    """

    def __init__(self, records, name: str, channels: int, num_classes: int, class_names: tuple):
        self.num_classes, self.class_names, self.channels = num_classes, class_names, channels
        self._records, self._name = records, name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        return self._decoded(index, self._records[int(index)])

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        record = self._records[int(index)]
        with self._naming(index):
            return crop(picture(record['image'], self.channels)), int(record['label'])

    def labels(self) -> np.ndarray:
        labels = np.empty(len(self), np.int32)
        for rows, records in self._all():
            labels[rows] = [record['label'] for record in records]
        return labels

    def _decoded(self, index: int, record: dict) -> dict:
        with self._naming(index):
            image = decode(record['image'], self.channels)
        return {'image': image, 'label': int(record['label'])}

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Says which image is broken."""
        try:
            yield
        except BrokenImage as error:
            raise UserError(
                f'The image of example {index} of {self._name} cannot be decoded ({error}): '
                'prepare the data set again from intact files.'
            ) from error

    def _all(self) -> Iterator[tuple[range, list[dict]]]:
        """Yields all records; reading many at once is several times faster."""
        for start in range(0, len(self), 2048):
            rows = range(start, min(start + 2048, len(self)))
            yield rows, self._records.__getitems__(list(rows))

    def in_memory(self, shape: tuple[int, int, int]) -> InMemory:
        """Decodes everything; `shape` is that of every image."""
        images = np.empty((len(self), *shape), np.uint8)
        labels = np.empty(len(self), np.int32)
        for rows, records in self._all():
            for row, record in zip(rows, records, strict=True):
                example = self._decoded(row, record)
                images[row], labels[row] = example['image'], example['label']
        return InMemory(images, labels, self.num_classes, self.class_names)


class Folder(Source):
    """Image files, decoded to RGB one by one.

    Args:
      folder: Where they lie, for messages.
      files: Their paths.
      labels: (N,) int32.
      class_names: The classes' names, by label.
      exif: Whether the images are turned as their EXIF data say.
    """

    channels = 3
    _verifying = threading.Lock()  # one for all folders: it is held once, before the end

    def __init__(
        self,
        folder: Path,
        files: list[str],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        exif: bool = True,
    ):
        self.num_classes, self.class_names = len(class_names), class_names
        self._folder, self._files, self._labels = folder, files, labels
        self._exif = exif
        self._verdict = ''

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict:
        with self._naming():
            content = _content(self._files[index])
            image = decode(content, self.channels, exif=self._exif)
        return {'image': image, 'label': int(self._labels[index])}

    @property
    def files(self) -> list[str]:
        """Returns the images' paths in the folder."""
        return [os.path.relpath(file, self._folder) for file in self._files]

    def read(self, index: int, crop: Crop) -> tuple[np.ndarray, int]:
        with self._naming():
            content = _content(self._files[index])
            image = crop(picture(content, self.channels, exif=self._exif))
        return image, int(self._labels[index])

    def labels(self) -> np.ndarray:
        return self._labels

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Says which images are broken."""
        try:
            yield
        except (OSError, BrokenImage) as error:
            raise UserError(self._verify()) from error

    def _verify(self) -> str:
        """Decodes every file and returns a line that counts and names the broken ones.

        Who has one broken file often has more: better to hear of them all at once.
        """
        with self._verifying:  # several threads may come upon broken files at once
            if not self._verdict:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    intact = list(pool.map(_is_intact, self._files))
                broken = [file for file, good in zip(self._files, intact, strict=True) if not good]
                names = ', '.join(str(Path(file).relative_to(self._folder)) for file in broken[:5])
                self._verdict = (
                    f'{len(broken)} of the {len(self)} images in {self._folder} cannot be decoded: '
                    f'{names}{", ..." if len(broken) > 5 else ""}. Replace or remove them.'
                )
        return self._verdict


def _content(file: str) -> bytes:
    with open(file, 'rb', buffering=0) as opened:  # a buffer would be one copy more
        return opened.read()


def _is_intact(file: str) -> bool:
    try:
        decode(_content(file), Folder.channels)
    except (OSError, BrokenImage):
        return False
    return True


def load(data: ConfigDict, split: str) -> Source:
    """Opens the data set that `config.data` names.

    Args:
      data: `config.data`.
      split: 'train' or 'eval'.

    Raises:
      UserError: if there is no such data set or split, it is not prepared, or `num_classes` is
        less than it has.
    """
    if split not in ('train', 'eval'):
        raise ValueError(split)
    kind, _, rest = data.name.partition(':')
    if data.name == 'digits':
        # Here and below: TFDS is slow to import, and folders do without.
        from cls.data import digits

        source = _open(digits.prepare(data.dir), 'digits', data[f'{split}_split'])
    elif kind == 'tfds' and rest:
        source = _open(prepared(rest, data.dir), rest, data[f'{split}_split'])
    elif kind == 'folder' and rest:
        source = _folder(Path(rest).expanduser(), split, data.exif)
    elif data.name == 'synthetic':
        return _synthetic(data, split)
    else:
        known = ['digits', 'synthetic', *(f'tfds:{name}' for name in known_datasets())]
        raise UserError(
            f"config.data.name is '{data.name}': expected digits, tfds:NAME, folder:DIR or "
            f'synthetic.{nearest(data.name, known)}'
        )
    if data.num_classes and data.num_classes < source.num_classes:
        raise UserError(
            f'config.data.num_classes is {data.num_classes}, but {data.name} has '
            f'{source.num_classes} classes: expected 0 (as the data set says) or at least that.'
        )
    return source


def _synthetic(data: ConfigDict, split: str) -> InMemory:
    """Random images in ImageNet's numbers: 64 of them, so that one costs but a copy."""
    rng = np.random.default_rng(split == 'eval')
    images = rng.integers(256, size=(64, data.image_size, data.image_size, 3), dtype=np.uint8)
    num_classes = data.num_classes or 1000
    labels = rng.integers(num_classes, size=64, dtype=np.int32)
    return InMemory(images, labels, num_classes, length=1_281_167 if split == 'train' else 50_000)


# ------------------------------------------------------------------------------------------------
# Folders
# ------------------------------------------------------------------------------------------------


def _folder(root: Path, split: str, exif: bool) -> Folder:
    """Opens DIR/train/<class>/* or the first there is of DIR/{test,val,validation}/<class>/*."""
    train = root / 'train'
    if not train.is_dir():
        raise UserError(
            f'{train} is no folder: expected the training images as {train}/<class>/*.jpg.'
        )
    class_names = _class_folders(train)
    folder = train
    if split == 'eval':
        found = [root / name for name in EVAL_FOLDERS if (root / name).is_dir()]
        if not found:
            raise UserError(
                f'{root} has no folder of images to evaluate on: expected one of '
                f'{", ".join(EVAL_FOLDERS)} beside train, with the same classes in it.'
            )
        folder = found[0]
        if unknown := [name for name in _class_folders(folder) if name not in class_names]:
            raise UserError(
                f"{folder} has the class '{unknown[0]}', which {train} has not: expected classes "
                f'of train only.{nearest(unknown[0], class_names)}'
            )
    files, labels = [], []
    for label, name in enumerate(class_names):
        images = _image_files(folder / name) if (folder / name).is_dir() else []
        if not images and (split == 'train' or (folder / name).is_dir()):
            raise UserError(
                f'{folder / name} has no images: expected files that end in '
                f'{", ".join(IMAGE_SUFFIXES)}; remove the folder if the class is to go.'
            )
        files += images
        labels += [label] * len(images)
    return Folder(folder, files, np.array(labels, np.int32), tuple(class_names), exif)


def _class_folders(folder: Path) -> list[str]:
    """Returns the sorted names of the classes' folders; UserError if there is none."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith('.'))
    if not names:
        raise UserError(
            f'{folder} is empty: expected one folder per class in it, as {folder}/<class>/*.jpg.'
        )
    return names


def _image_files(folder: Path) -> list[str]:
    """Returns the sorted paths of the images in a class's folder."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES))
    return [os.path.join(folder, name) for name in names if not name.startswith('.')]


# ------------------------------------------------------------------------------------------------
# Prepared TFDS data sets
# ------------------------------------------------------------------------------------------------


def tfds_dir(directory: str = '') -> epath.Path:
    """Where prepared data sets lie: `directory`, else TFDS_DATA_DIR, else TFDS's default."""
    return epath.Path(
        directory or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
    ).expanduser()


def known_datasets() -> list[str]:
    """Returns the names of the data sets that TFDS can prepare."""
    import tensorflow_datasets as tfds

    # Community data sets are listed through TensorFlow, and kept elsewhere anyway.
    return tfds.list_builders(with_community_datasets=False)


def prepare_command(name: str, directory: str = '') -> str:
    """Returns the command that prepares tfds:NAME."""
    return f'python -m cls.tools.prepare {name}' + (f' --data_dir {directory}' if directory else '')


def find_prepared(name: str, directory: str = '') -> epath.Path | None:
    """Returns the folder of the newest version of a prepared data set, or None.

    Args:
      name: NAME or NAME/CONFIG. The configuration need not be named if only one is prepared.
      directory: See `tfds_dir`.

    Raises UserError if several configurations are there to choose from.
    """
    folder = tfds_dir(directory) / name
    if not folder.is_dir():
        return None
    if versions := _versions(folder):
        return versions[-1]
    configs = [child for child in sorted(folder.iterdir()) if child.is_dir() and _versions(child)]
    if len(configs) > 1:
        names = ', '.join(f'{name}/{config.name}' for config in configs)
        raise UserError(f'{folder} has several configurations: say which one, of {names}.')
    return _versions(configs[0])[-1] if configs else None


def _versions(folder: epath.Path) -> list[epath.Path]:
    """Returns the folders of complete versions, the newest last."""
    found = [
        child
        for child in folder.iterdir()
        if _VERSION.fullmatch(child.name) and (child / 'dataset_info.json').exists()
    ]
    return sorted(found, key=lambda child: [int(part) for part in child.name.split('.')])


def prepared(name: str, directory: str):
    """Returns TFDS's builder for NAME or NAME/CONFIG; it does not need the builder's own code.

    Raises UserError if the data set is not prepared, or not as array_record.
    """
    import tensorflow_datasets as tfds

    folder = find_prepared(name, directory)
    command = prepare_command(name, directory)
    if folder is None:
        known = known_datasets()
        if name.partition('/')[0] in known:
            raise UserError(f'{name} is not prepared in {tfds_dir(directory)}: run `{command}`.')
        raise UserError(
            f"'{name}' is neither prepared in {tfds_dir(directory)} nor known to TFDS: expected "
            f'the name of a TFDS data set.{nearest(name, known)}'
        )
    builder = tfds.builder_from_directory(folder)
    if (file_format := builder.info.file_format.value) != 'array_record':
        raise UserError(
            f'{folder} is prepared as {file_format}, which needs TensorFlow to read: expected '
            f'array_record. Move that folder away and run `{command}`.'
        )
    return builder


def _open(builder, name: str, split: str) -> Source:
    """Opens a split of a prepared data set, in memory if it is small."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    image, label = (features.get(key) for key in ('image', 'label'))
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise UserError(
            f'{name} is no set for classification, its features are {", ".join(sorted(features))}: '
            "expected an 'image' and a 'label' that is a class."
        )
    records = _split_records(builder, name, split)
    height, width, channels = image.shape
    channels = 1 if channels == 1 else 3
    source = Records(records, name, channels, label.num_classes, tuple(label.names))
    if height and width and len(source) * height * width * channels <= MEMORY_LIMIT:
        return source.in_memory((height, width, channels))
    return source


def _split_records(builder, name: str, split: str):
    """Returns TFDS's data source of a split such as 'train' or 'train[:90%]'."""
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    except ValueError as error:  # of a split that is unknown, malformed or empty
        raise UserError(
            f"'{split}' is no split of {name}: expected one of {', '.join(builder.info.splits)}, "
            'or a part of one that has examples, such as train[:90%].'
        ) from error
