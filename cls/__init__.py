"""Published image classifiers as pure-function Flax models, their recipes, and one trainer.

  model = cls.load('runs/birds')  # or a file, 'hf:timm/resnet50.a1_in1k', 'resnet50'
  model.predict('bird.jpg')

Importing this package loads neither JAX nor any other library. `load`, `create`, `list_models`,
`fit`, `Model`, `Prediction`, `create_model`, `load_config` and `UserError` are imported from their
modules when they are first used.
"""

import importlib
import sys
import time

__version__ = '0.1.0'

# Name -> module and attribute. No name here is that of a module or folder of the package.
_EXPORTS = {
    'Model': 'cls.inference:Model',
    'Prediction': 'cls.inference:Prediction',
    'UserError': 'cls.errors:UserError',
    'create': 'cls.inference:create',
    'create_model': 'cls.models:create',
    'fit': 'cls.jobs:fit',
    'list_models': 'cls.inference:list_models',
    'load': 'cls.inference:load',
    'load_config': 'cls.config.load:load',
}
# No `__all__`: with it pdoc leaves out the modules of the package.

# The start of the program, for its time ledger. The start of the process would be that of a script
# that installed everything and then became this program by `exec`.
BEGAN = time.perf_counter()

if sys.argv[:1] == ['-m']:  # python -m cls.NAME imports this first
    from cls import signals

    signals.begin(sys.orig_argv)


def __getattr__(name: str):  # without typing, which costs more than the rest
    """Imports a name of `_EXPORTS` when it is first used."""
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module, _, attribute = _EXPORTS[name].partition(':')
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    """Returns the names of the package, including those not imported yet."""
    return sorted({*globals(), *_EXPORTS})
