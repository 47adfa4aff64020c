"""MLflow; MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN, ... are read by the package itself."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cls.run.loggers import drawing
from cls.run.loggers.base import Logger, Package, Place

mlflow: Any = Package('mlflow')
entities: Any = Package('mlflow.entities')

_BATCH = 100  # parameters in a request, MLflow's limit
_LONGEST = 500  # letters of a parameter; servers of version 1 refuse longer ones


def open_logger(place: Place) -> 'Run':
    """Returns a logger for a run. Raises the errors of MLflow, as for a wrong address."""
    return Run(place)


class Run(Logger):
    """A run of an MLflow server, or of the database or folder of MLFLOW_TRACKING_URI."""

    def __init__(self, place: Place) -> None:
        """Creates the run, with the fields of its config as parameters, or continues one."""
        self._uri = mlflow.get_tracking_uri()
        self._client = mlflow.MlflowClient(self._uri)
        if place.id:
            self._client.update_run(place.id, status='RUNNING')
            self.id = place.id
            history = self._client.get_metric_history(place.id, 'epoch')  # every line has it
            self.last_step = max((metric.step for metric in history), default=-1)
            self._experiment = self._client.get_run(place.id).info.experiment_id
            return
        found = self._client.get_experiment_by_name(place.project)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(place.project)
        )
        tags = {'workdir': str(place.workdir)}
        run = self._client.create_run(self._experiment, run_name=place.name, tags=tags)
        self.id = run.info.run_id
        params = [
            entities.Param(name, str(value)[:_LONGEST]) for name, value in place.config.items()
        ]
        for start in range(0, len(params), _BATCH):
            self._client.log_batch(self.id, params=params[start : start + _BATCH])

    def how_to_view(self) -> str:
        if self._uri.startswith('http'):
            return f'mlflow: {self._uri}/#/experiments/{self._experiment}/runs/{self.id}'
        return f'mlflow: run {self.id}; mlflow ui --backend-store-uri {self._uri} shows it'

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [entities.Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        self._image(name, drawing.grid(images))

    def confusion(self, step: int, name: str, counts: np.ndarray, classes: Sequence[str]) -> None:
        self._image(name, drawing.heat_map(counts))
        table = {'classes': drawing.named(classes, len(counts)), 'counts': counts.tolist()}
        self._client.log_dict(self.id, table, f'{name}.json')

    def _image(self, name: str, image: np.ndarray) -> None:
        self._client.log_image(self.id, Image.fromarray(image), artifact_file=f'{name}.png')

    def summary(self, step: int, values: Mapping[str, Any]) -> None:
        """Logs numbers as metrics 'result/...' and text as tags."""
        now = int(1000 * time.time())
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        metrics = [
            entities.Metric(f'result/{name}', float(value), now, step)
            for name, value in numbers.items()
            if math.isfinite(value)
        ]
        tags = [
            entities.RunTag(name, value) for name, value in values.items() if isinstance(value, str)
        ]
        self._client.log_batch(self.id, metrics=metrics, tags=tags)

    def close(self, failed: bool = False) -> None:
        self._client.set_terminated(self.id, 'FAILED' if failed else 'FINISHED')
