"""Labels and texts of prepared data sets, read from their records once and kept in the cache.

Reading one feature of all records takes as long as reading all images.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cls.data.shards import Shards
from cls.storage import paths
from cls.storage.cache import cache_dir


def labels(shards: Shards) -> np.ndarray:
    """Returns the labels of all records, (N,) int32."""
    return _cached(shards, 'label', 'i', lambda value: value.int64_list.value[0])


def texts(shards: Shards, feature: str) -> list[str]:
    """Returns a text feature of all records, in their order."""
    values = _cached(shards, feature, 'S', lambda value: value.bytes_list.value[0])
    return [value.decode() for value in values.tolist()]


def _cached(shards: Shards, feature: str, kind: str, get: Callable[[Any], Any]) -> np.ndarray:
    """Returns a feature of all records, (N,) int32 or bytes, from the cache if it is there.

    Args:
      shards: The records. The name of the cached file has the digest of their files.
      feature: The name of the feature.
      kind: NumPy's kind of the values, 'i' or 'S'.
      get: (a stored value, a tf.train.Feature) -> the value.
    """
    digest = shards.fingerprint()
    file = cache_dir() / 'features' / f'{digest}-{feature}.npy'
    if digest and (kept := _load(file, len(shards), kind)) is not None:
        return kept
    stored = map(get, _stored(shards, feature))
    values = np.fromiter(stored, np.int32, len(shards)) if kind == 'i' else np.array(list(stored))
    if digest:
        content = io.BytesIO()
        np.save(content, values, allow_pickle=False)
        with contextlib.suppress(OSError):  # they can be read again
            file.parent.mkdir(parents=True, exist_ok=True)
            paths.write_whole(file, content.getvalue())
    return values


def _load(file: Any, count: int, kind: str) -> np.ndarray | None:
    try:
        kept = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, or damaged
        return None
    return kept if kept.shape == (count,) and kept.dtype.kind == kind else None


def _stored(shards: Shards, feature: str) -> Iterator[Any]:
    """Yields a feature of all records as it is stored, a tf.train.Feature."""
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2
    parse = messages.Example.FromString
    for record in shards.between(0, len(shards)):
        yield parse(record).features.feature[feature]
