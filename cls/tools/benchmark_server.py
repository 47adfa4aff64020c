"""The servers of `benchmark serve`: that of `cls serve`, and the same one over onnxruntime.

See cls/tools/peers/answering.py for their input and output.
"""

import functools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from cls import __version__
from cls.errors import UserError
from cls.inference import loading
from cls.inference.export import onnx_file
from cls.inference.model import Model
from cls.inference.serving import app
from cls.inference.serving.batcher import SIZES
from cls.run import environment
from cls.tools import benchmark_worker, export
from cls.tools.peers.answering import answer
from cls.tools.serve import listening

ASKING = Path(__file__).with_name('peers') / 'asking.py'
# Kind -> the numbers of images that are computed at once; onnxruntime compiles nothing for each.
KINDS = {'cls': (), 'onnxruntime': range(1, SIZES[-1] + 1), 'onnxruntime, one by one': (1,)}


def serve(kind: str, name: str, folder: str, *numbers: str) -> None:
    """Serves a variant with new weights, and answers requests to ask it.

    Args:
      kind: one of KINDS.
      name: the variant.
      folder: has the images in `few`; seconds are written to `KIND NUMBER.json` there.
      *numbers: of requests at once, a work for each.
    """
    environment.start()
    model, versions = loading.create(name), benchmark_worker.versions()
    if kind != 'cls':
        versions = {'onnxruntime': of_onnxruntime(model, Path(folder) / f'{kind}.onnx')}
    host, port = started(model, KINDS[kind])
    files = sorted(map(str, (Path(folder) / 'few').iterdir()))
    works = {
        number: Asking((host, port), int(number), files, Path(folder) / f'{kind} {number}.json').ask
        for number in numbers
    }
    Asking((host, port), int(numbers[0]), files).ask(len(files))  # these do not count
    answer(works, versions=versions, pixels=model.preprocess.size)


def of_onnxruntime(model: Model, file: Path) -> str:
    """Lets onnxruntime compute the probabilities of a model; returns its version.

    Args:
      model: the model, which is changed.
      file: the file for its export.
    """
    import onnxruntime

    onnx_file.write(export.source_of(model, pixels=True), file)
    computed: Any = functools.partial(onnx_file.outputs, onnx_file.session(file))
    model.of_pixels = computed
    return onnxruntime.__version__


def started(model: Model, sizes: Sequence[int]) -> tuple[str, int]:
    """Starts the server of `cls serve` in a thread; returns its address."""
    listener = listening('127.0.0.1', 0)
    application = app.create(model, None, __version__, sizes)
    server = uvicorn.Server(uvicorn.Config(application, log_level='warning', access_log=False))
    thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise UserError('the server could not start.')
        time.sleep(0.05)
    return listener.getsockname()[:2]


class Asking:
    """A client that asks a server with some requests at once, and keeps the seconds of each."""

    def __init__(
        self,
        address: tuple[str, int],
        number: int,
        files: Sequence[str],
        output: Path | None = None,
    ) -> None:
        """Sets the arguments of the client, and the file for the seconds, None for no file."""
        self.command = [sys.executable, str(ASKING), address[0], str(address[1]), str(number)]
        self.files, self.output = files, output
        self.seconds: list[float] = []

    def ask(self, count: int) -> float:
        """Sends some requests; returns the seconds of all of them."""
        if not count:
            return 0.0
        done = subprocess.run(
            [*self.command, str(count), *self.files], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(f'the server failed: {done.stderr.strip()}')
        result = json.loads(done.stdout)
        self.seconds += result['each']
        if self.output:
            self.output.write_text(json.dumps(self.seconds))
        return result['all']


def percentiles(file: Path) -> tuple[float, float]:
    """Returns the median and the 99th percentile of the seconds in a file."""
    half, most = np.percentile(json.loads(file.read_text()), [50, 99])
    return float(half), float(most)
