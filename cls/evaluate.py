"""Evaluation: every image of a split exactly once, on any number of devices and processes."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cls import mesh as meshes
from cls.checkpoint import Checkpoints
from cls.errors import UserError
from cls.runtime import load_classes
from cls.setup import Setup, abstract_state, set_up
from cls.state import TrainState
from cls.telemetry import write_json

EvalStep = Callable[[Any, Any], dict[str, jax.Array]]


def evaluate(
    eval_step: EvalStep,
    variables: Any,
    batches: Iterable[Any],
    mesh: Mesh,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns top-1 and top-5 in percent and the mean loss in nats, over all images.

    Args:
      eval_step: (variables, batch) -> sums.
      variables: on the mesh.
      batches: this process's share of the padded and masked batches.
      mesh: of the devices.
      check: called before every batch; may raise to end the evaluation.
    """
    sharding = meshes.batch_sharding(mesh)
    totals = {'top1': 0, 'top5': 0, 'loss': 0.0, 'count': 0}
    for batch in batches:
        check()
        sums = jax.device_get(eval_step(variables, meshes.put_batch(batch, sharding)))
        totals = {name: total + sums[name].item() for name, total in totals.items()}
    count = totals.pop('count')
    return {
        'top1': 100 * totals['top1'] / count,
        'top5': 100 * totals['top5'] / count,
        'loss': totals['loss'] / count,
    }


def evaluate_state(
    setup: Setup,
    eval_step: EvalStep,
    state: TrainState,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Returns 'test/top1', ... of the weights as trained and, if kept, 'test_ema/top1', ..."""
    weights = {'test': state.variables()} | ({'test_ema': state.ema} if state.ema else {})
    result = {}
    for name, variables in weights.items():
        values = evaluate(eval_step, variables, setup.test_batches(), setup.mesh, check)
        result |= {f'{name}/{metric}': value for metric, value in values.items()}
    return result


def job(config: ConfigDict, workdir: Path) -> dict[str, float]:
    """Evaluates the newest checkpoint of a run; writes and returns workdir/evaluation.json.

    Raises UserError when the run has no checkpoint.
    """
    setup, state = restore(config, workdir)
    if setup.test.subset or setup.test.label_sets:
        raise UserError(
            f'{config.data.name} is not scored by one label among all classes: evaluate on it with '
            'python -m cls.tools.robustness.'
        )
    result = {'step': int(state.step)} | evaluate_state(setup, setup.eval_step(), state)
    if jax.process_index() == 0:
        write_json(workdir / 'evaluation.json', result)
    return result


def restore(config: ConfigDict, workdir: Path) -> tuple[Setup, TrainState]:
    """Returns what a config sets up, and the newest state of a run folder.

    Raises UserError when the run has no checkpoint.
    """
    if not (workdir / 'checkpoints').is_dir():  # opening them would make the folder
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (--job train).')
    setup = set_up(config, classes=load_classes(workdir))
    state, _ = setup.new_state()
    checkpoints = Checkpoints(workdir / 'checkpoints', config.checkpoint.keep)
    restored = checkpoints.restore(abstract_state(state, setup.mesh))
    checkpoints.close()
    if restored is None:
        raise UserError(f'{workdir} has no checkpoint to evaluate; train first (--job train).')
    return setup, restored[0]
