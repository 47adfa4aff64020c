"""Searches that train a supernet, a single network that contains the whole space.

  base.py         the training of a supernet in a run
  darts.py        DARTS: its network of mixed operations, and its bilevel step
  nasbench201.py  the same over the cells of NAS-Bench-201
  proxylessnas.py ProxylessNAS: its steps; proxyless_net.py its network of gated paths,
                  proxyless_paths.py their draws, gates and costs
  report.py       tables of finished runs

Such a run is an ordinary run of cls.train, on a config with config.search.supernet. It has its own
step and batches; checkpoints, preemption, metrics and goodput are the trainer's. config.model is
the supernet, whose architecture parameters are params['alpha']. The weights are trained on the
training images, the architecture on the images that are evaluated meanwhile: a config sets
data.train_split and data.eval_split to two parts of the training set, or eval.validation.

The import of this package registers the supernets with cls.models and their training with
cls.steps.supernet.
"""

from collections.abc import Callable

import flax.linen as nn
from ml_collections import ConfigDict

from cls import models
from cls.search import registry
from cls.search.supernets import darts, nasbench201, proxyless_net
from cls.search.supernets.base import SupernetSpec, SupernetTraining
from cls.steps import supernet


def create(
    config: ConfigDict,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    to_steps: Callable[[str], int],
) -> SupernetTraining:
    """Returns the training that config.search.supernet describes, see cls.steps.supernet.Create."""
    spec = SupernetSpec.from_config(config)
    method = registry.create('supernet', config.search.supernet)
    return SupernetTraining(method.prepared(spec, model, image_shape, to_steps), model, spec)


models.register_supernet('darts_supernet', darts.Net)
models.register_supernet('nasbench201_supernet', nasbench201.Net)
models.register_supernet('proxyless_supernet', proxyless_net.Net)
supernet.register(create)
