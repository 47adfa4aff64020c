"""Networks of repositories, cloned into the folder CLS_REPOSITORIES as OWNER+NAME.

The networks of a repository are built in its own folder, as their files import each other.
"""

import contextlib
import functools
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(os.environ.get('CLS_REPOSITORIES', '/tmp/repos'))


class Logits(torch.nn.Module):
    """A network whose first output are the logits."""

    def __init__(self, network, finish=lambda state: state):
        super().__init__()
        self.network = network
        self.finish = finish

    def forward(self, images):
        output = self.network(images)
        return output[0] if isinstance(output, tuple) else output

    def state_dict(self):
        return self.network.state_dict()

    def load_state_dict(self, state, strict):
        return self.network.load_state_dict(self.finish(state), strict=strict)


def build(folder, module, make, finish=lambda state: state):
    """Returns a network of a repository.

    Args:
      folder: of the repository, and below it.
      module: the name of the file.
      make: a function of the module.
      finish: a function of the state dict, for tensors that have to be consistent.
    """
    path = ROOT / folder
    sys.path.insert(0, str(path))
    before = set(sys.modules)
    # Some modules print, and one has an option for tensors of CUDA alone.
    torch.cuda.FloatTensor = torch.FloatTensor
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            imported = __import__(module, fromlist=['*'])
            network = make(imported)
    finally:
        sys.path.remove(str(path))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], '__file__', None) or ''
            if not file or file.startswith(str(ROOT)):
                del sys.modules[name]
    for name, child in network.named_modules():
        if isinstance(child, torch.nn.AvgPool2d) and name in ('avgpool', 'globalpool'):
            setattr(network, name, torch.nn.AdaptiveAvgPool2d(1))
    return Logits(network, finish)


def network(folder, module, make, size=32, **more):
    """Returns the builder of a network and the size of the row's images."""
    return functools.partial(build, folder, module, make, **more), size


def arguments(**values):
    return SimpleNamespace(dropout_rate=0.0, bottleneck=4, **values)
