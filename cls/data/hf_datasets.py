"""Data sets of Hugging Face's `datasets` on disk: datasets:DIR, read without that package.

DIR is one of these:

  what save_to_disk wrote: dataset_dict.json with a folder for each split, or one split;
  a copy of a data set on the Hub: Parquet files with names of splits, the images in them;
  an image folder: metadata.csv, .jsonl or .parquet with a column file_name, for all or each split.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cls.data import arrow_images, split_files, table_files, tables
from cls.data import labels as cells
from cls.data.arrow_images import ArrowImages
from cls.data.labels import Column
from cls.data.listed import Listed
from cls.data.scan import listed, subfolders
from cls.data.spec import DataSpec
from cls.errors import UserError, nearest
from cls.storage import download, paths

_METADATA = ('metadata.csv', 'metadata.jsonl', 'metadata.parquet')
_EXPECTED = (
    "expected a folder that save_to_disk wrote, the Hub's Parquet files, or images with a "
    'metadata.csv'
)
_LABELS = (*table_files.LABELS, 'fine_label')
_IMAGES = (*table_files.IMAGES, 'img')


@dataclasses.dataclass(frozen=True)
class Stored:
    """A split with its images in files.

    Attributes:
      images: the images.
      labels: their labels.
      split: the name of the split.
    """

    images: ArrowImages
    labels: Column
    split: str


def open_dataset(rest: str, split: str, data: DataSpec, classes: Sequence[str]) -> Listed:
    """Opens a split, 'train' or 'eval', of a data set of Hugging Face's `datasets`.

    Args:
      rest: the folder.
      split: 'train' or 'eval'.
      data: the specification.
      classes: the names of a run's classes by label; (): those of the data set.

    Raises UserError for a folder of another layout, and columns without images or labels.
    """
    root = _root(rest)
    if metadata := _metadata_files(root):
        part_of = functools.partial(_table_part, root, metadata, data)
        names = functools.partial(names_of, rest, data)
        return tables.of_parts(f'datasets:{rest}', part_of, split, data, classes, names)
    files = _files_of(root)
    training = split_files.chosen(str(root), files, 'train', data)
    name = training if split == 'train' else split_files.chosen(str(root), files, split, data)
    if name is None:
        raise split_files.no_training(f'datasets:{rest}', files)
    stored = _stored(root, files[name], name, data)
    first = stored if training in (name, None) else _stored(root, files[training], training, data)
    found = cells.classes_of(first.labels, None, classes, data.class_order, f'{root}')
    labels = cells.numbered(
        stored.labels, None, found, data.multi_label, lambda row: f'{root}: {name} example {row}'
    )
    return Listed(root, stored.images, labels, found, name, data.exif)


def has_training(rest: str, data: DataSpec) -> bool:
    """Returns whether a data set has training images. Raises UserError for another folder."""
    root = _root(rest)
    if metadata := _metadata_files(root):
        return _table_part(root, metadata, data, 'train') is not None
    return split_files.chosen(str(root), _files_of(root), 'train', data) is not None


def names_of(rest: str, data: DataSpec) -> list[str]:
    """Returns the names of the splits, ['all'] without any. Raises UserError."""
    root = _root(rest)
    metadata = _metadata_files(root)
    if '' in metadata:
        return tables.names_in(_whole_table(metadata[''], data))
    return list(metadata or _files_of(root))


def _root(rest: str) -> Path:
    root = download.fetched(rest)
    if not root.is_dir():
        raise UserError(f'{root} is not a folder: {_EXPECTED}.')
    return root


# ------------------------------------------------------------------------------------------------
# Layouts
# ------------------------------------------------------------------------------------------------


def _files_of(root: Path) -> dict[str, list[Path]]:
    """Returns the Arrow or Parquet files of each split; 'all' for a single split without a name."""
    if (root / 'dataset_dict.json').is_file():
        names = _json(root / 'dataset_dict.json').get('splits')
        if not isinstance(names, list) or not names:
            raise UserError(f'{root}/dataset_dict.json names no splits: {_EXPECTED}.')
        return {str(name): _saved(root / str(name)) for name in names}
    if (root / 'state.json').is_file():
        return {str(_json(root / 'state.json').get('_split') or 'all'): _saved(root)}
    for suffix in ('parquet', 'arrow'):
        if files := sorted(root.rglob(f'*.{suffix}')):
            _check_single(root, files)
            return split_files.by_split(root, files)
    inner = subfolders(root)
    hint = f' (folder:{root} reads folders of classes)' if inner else ''
    raise UserError(f'{root} has no file of a data set{hint}: {_EXPECTED}.')


def _saved(folder: Path) -> list[Path]:
    """Returns the Arrow files of a folder that save_to_disk wrote."""
    state = _json(folder / 'state.json')
    names = [file.get('filename') for file in state.get('_data_files', [])]
    if not names or not all(isinstance(name, str) and '/' not in name for name in names):
        raise UserError(f'{folder}/state.json names no files: expected those of save_to_disk.')
    return [folder / name for name in names]


def _check_single(root: Path, files: Sequence[Path]) -> None:
    """Raises UserError if the first folders below a root are configurations of a data set."""
    first = {file.relative_to(root).parts[0] for file in files if file.parent != root}
    configs = sorted(name for name in first - {'data'} if not split_files.split_of(f'{name}/'))
    if len(configs) > 1 or (configs and 'data' in first):
        raise UserError(
            f'{root} has several configurations, {listed(configs, 5)}: expected one of them, as '
            f'datasets:{root / configs[0]}.'
        )


def _json(file: Path) -> dict[str, Any]:
    try:
        value = paths.parse_json(file.read_text())
        if not isinstance(value, dict):
            raise ValueError('not an object')
        return value
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(f'{file} cannot be read ({why}): {_EXPECTED}.') from error


def _metadata_files(root: Path) -> dict[str, Path]:
    """Returns the metadata of an image folder by split, {'': file} for one file of all."""
    found = [root / name for name in _METADATA if (root / name).is_file()]
    if found:
        return {'': found[0]}
    return {
        folder: root / folder / name
        for folder in subfolders(root)
        for name in reversed(_METADATA)
        if split_files.is_split(folder) and (root / folder / name).is_file()
    }


def _table_part(
    root: Path, files: dict[str, Path], data: DataSpec, split: str
) -> tables.Part | None:
    """Returns the rows of a split of an image folder."""
    if '' not in files:
        name = split_files.chosen(str(root), files, split, data)
        if name is None:
            return None
        return tables.Part(table_files.table(files[name], data), None, name)
    return tables.part_of_table(_whole_table(files[''], data), data, split)


def _whole_table(file: Path, data: DataSpec) -> table_files.Table:
    """Returns the table of all splits, which folders name if no column does."""
    table = table_files.table(file, data)
    return table if table.splits else dataclasses.replace(table, splits=_splits_of_paths(table))


def _splits_of_paths(table: table_files.Table) -> Column | None:
    """Returns the splits of images in folders with names of splits; None for other folders."""
    import pyarrow as pa

    first = [file.partition('/')[0] for file in table.files]
    if not all(map(split_files.is_split, set(first))):
        return None
    return cells.column(pa.array(first))


# ------------------------------------------------------------------------------------------------
# Columns
# ------------------------------------------------------------------------------------------------


def _stored(root: Path, files: Sequence[Path], split: str, data: DataSpec) -> Stored:
    """Opens the files of a split. Raises UserError for columns without images or labels."""
    import pyarrow as pa

    if absent := [file for file in files if not file.is_file()]:
        raise UserError(f'{absent[0]} is missing: expected all files of the data set.')
    schema = _schema(files[0])
    features = _features(root, schema)
    image = _column(root, schema, features, 'Image', data.image_column, 'image')
    label = _column(root, schema, features, 'ClassLabel', data.label_column, 'label')
    kind = schema.field(image).type
    if not (pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f'{root}: the column {image!r} has {kind}: expected encoded images, or another '
            'config.data.image_column.'
        )
    identity = '\n'.join(f'{file.name} {file.stat().st_size}' for file in files)
    parts = [_labels_in(file, label) for file in files]
    array = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
    try:
        labels = cells.column(array, _names(features.get(label)), data.multi_label)
    except ValueError as error:
        raise UserError(
            f'{root}: the column {label!r} cannot be read ({error}): expected names or integers.'
        ) from error
    if not len(array):
        raise UserError(f'{root} has no examples of the split {split}: expected some.')
    if files[0].suffix == '.parquet':
        moment = '\n'.join(str(file.stat().st_mtime_ns) for file in files)
        files = arrow_images.copied(files, image, f'{identity}\n{moment}')
    images = ArrowImages(root, files, image, [len(part) for part in parts], identity)
    return Stored(images, labels, split)


def _schema(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    if file.suffix != '.parquet':
        return arrow_images.table(file).schema
    try:
        return parquet.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'{file} cannot be read ({reason}): expected a Parquet file.') from error


def _labels_in(file: Path, label: str) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if file.suffix != '.parquet':
            return arrow_images.table(file)[label]
        with parquet.ParquetFile(file) as opened:
            return opened.read([label])[label]
    except (KeyError, OSError, pa.ArrowException) as error:
        raise UserError(
            f'{file} has no column {label!r} that can be read: expected the columns of the first '
            'file of the split.'
        ) from error


def _features(root: Path, schema: Any) -> dict[str, Any]:
    """Returns the features of `datasets` by column, from the files or README.md; {} for none."""
    try:
        text = (schema.metadata or {}).get(b'huggingface', b'{}')
        features = json.loads(text).get('info', {}).get('features')
        if isinstance(features, dict):
            return features
    except (ValueError, AttributeError, RecursionError):
        pass
    return _card_features(root)


def _card_features(root: Path) -> dict[str, Any]:
    """Returns the features in README.md of a data set on the Hub, in the form of the files."""
    from huggingface_hub import metadata_load

    card = next((d / 'README.md' for d in (root, root.parent) if (d / 'README.md').is_file()), None)
    try:
        info = (metadata_load(card) or {}).get('dataset_info') if card else None
    except Exception:  # of any YAML
        return {}
    infos = info if isinstance(info, list) else [info]
    named = [i for i in infos if isinstance(i, dict) and i.get('config_name') == root.name]
    features, result = next((i for i in named or infos if isinstance(i, dict)), {}), {}
    for feature in features.get('features', []):
        kind = feature.get('dtype') or feature.get('sequence') or feature.get('list')
        if kind == 'image':
            result[feature['name']] = {'_type': 'Image'}
        elif isinstance(kind, dict) and 'class_label' in kind:
            names = kind['class_label'].get('names', {})
            ordered = [names[key] for key in sorted(names, key=int)]
            result[feature['name']] = {'_type': 'ClassLabel', 'names': ordered}
    return result


def _names(feature: Any) -> tuple[str, ...]:
    """Returns the names in a feature that is a ClassLabel or a list of these, () for others."""
    while isinstance(feature, list) or (isinstance(feature, dict) and 'feature' in feature):
        feature = feature[0] if isinstance(feature, list) else feature['feature']
    names = feature.get('names') if isinstance(feature, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _column(
    root: Path, schema: Any, features: dict[str, Any], kind: str, wanted: str, field: str
) -> str:
    """Returns the column of images or labels: as asked for, by its feature, or by its name."""
    names = schema.names
    if wanted:
        if wanted not in names:
            raise UserError(
                f'config.data.{field}_column is {wanted!r}, and {root} has no such column: '
                f'expected one of {listed(names, 12)}.{nearest(wanted, names)}'
            )
        return wanted
    of_kind = [n for n in names if (features.get(n) or {}) and _is(features[n], kind)]
    known = [name for name in (_IMAGES if field == 'image' else _LABELS) if name in names]
    if len(of_kind) == 1 or (not of_kind and known):
        return (of_kind or known)[0]
    if both := [name for name in known if name in of_kind]:
        return both[0]
    raise UserError(
        f'{root} has the columns {listed(names, 12)}'
        + (f', of which {" and ".join(of_kind)} are of the kind {kind}' if of_kind else '')
        + f': say which one has the {field}s, as --config.data.{field}_column='
        f'{(of_kind or names)[0]}.'
    )


def _is(feature: Any, kind: str) -> bool:
    if kind == 'ClassLabel':
        return bool(_names(feature))
    return isinstance(feature, dict) and feature.get('_type') == kind
