"""The groups of a stream on a CPU: how many batches are computed before more images are decoded."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cls.inference import stream
from cls.inference.preprocess import Preprocess

BATCH = 2


class Network:
    """A model whose batches take these seconds, on a clock of its own."""

    module, variables, variant = None, None, 'none'
    preprocess = Preprocess(size=4, resize=4)
    batch, mesh = BATCH, SimpleNamespace(size=1)

    def __init__(self, seconds):
        self.seconds, self.now, self.groups = iter(seconds), 0.0, []

    def program(self, key, function, axis=0):
        return self._compute

    def _compute(self, variables, images):
        self.groups[-1] += 1
        self.now += next(self.seconds)
        return {'logits': np.zeros((1, len(images), 3))}

    def put(self, images):
        return images

    def probabilities(self, logits):
        return logits


def groups_of(monkeypatch, seconds):
    """Returns the numbers of batches between decoding, for batches of these times."""
    network = Network(seconds)

    class Turn(threading.Event):
        def clear(self):
            super().clear()
            network.groups.append(0)

    monkeypatch.setattr(stream, 'time', SimpleNamespace(perf_counter=lambda: network.now))
    monkeypatch.setattr(stream, 'threading', SimpleNamespace(Event=Turn))
    image = np.zeros((4, 4, 3), np.uint8)
    count = BATCH * len(seconds) - 1  # the last batch is not full: it is computed at the end
    results = list(stream.stream(network, ((str(i), image) for i in range(count))))
    assert [result.name for result in results] == [str(i) for i in range(count)]
    return network.groups


@pytest.mark.parametrize(
    'seconds', [0.01, 0.5, 1.0, 1.01, 1.25, 1.5, 2.0, 2.01, 3.5, 4.0, 4.5, 60.0]
)
def test_a_group_is_four_batches_or_four_seconds(monkeypatch, seconds):
    """Only a group of one batch may be longer, and no further batch would fit into the others."""
    most = max(n for n in range(1, 5) if n == 1 or n * seconds <= 4)
    groups = groups_of(monkeypatch, [seconds] * (1 + 3 * most + 1))
    assert groups == [1, most, most, most, 1]  # nothing is known before the first batch


def test_the_newest_batch_decides_on_the_next_group(monkeypatch):
    seconds = [60.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0, 5.0, 0.5]
    assert groups_of(monkeypatch, seconds) == [1, 1, 4, 2, 2, 1]
