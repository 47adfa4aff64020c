"""Labels of prepared data sets, read from their records once and kept in the cache folder."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from cls.data.shards import Shards
from cls.storage import paths
from cls.storage.cache import cache_dir


def labels(shards: Shards) -> np.ndarray:
    """Returns the labels of all records, (N,) int32.

    Reading them takes as long as reading all images, so they are kept in a file, under the digest
    of the records' files.
    """
    digest = shards.fingerprint()
    file = cache_dir() / 'labels' / f'{digest}.npy'
    if digest and (kept := _load(file, len(shards))) is not None:
        return kept
    read = np.fromiter(
        (value.int64_list.value[0] for value in values(shards, 'label')), np.int32, len(shards)
    )
    if digest:
        content = io.BytesIO()
        np.save(content, read, allow_pickle=False)
        with contextlib.suppress(OSError):  # they can be read again
            file.parent.mkdir(parents=True, exist_ok=True)
            paths.write_whole(file, content.getvalue())
    return read


def _load(file: Any, count: int) -> np.ndarray | None:
    try:
        kept = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, or damaged
        return None
    return kept if kept.shape == (count,) and kept.dtype == np.int32 else None


def values(shards: Shards, feature: str) -> Iterator[Any]:
    """Yields a feature of all records as it is stored, a tf.train.Feature."""
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2
    parse = messages.Example.FromString
    for record in shards.between(0, len(shards)):
        yield parse(record).features.feature[feature]
