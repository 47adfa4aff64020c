"""Published image classifiers as pure-function Flax models, their recipes, and one trainer.

Importing this package loads neither JAX nor any other library. `create_model`, `list_models`,
`load_config` and `UserError` are imported from their modules when they are first used.
"""

import importlib
import sys
import time

__version__ = '0.1.0'

# Name -> module and attribute. No name here is that of a module or folder of the package.
_EXPORTS = {
    'UserError': 'cls.errors:UserError',
    'create_model': 'cls.models:create',
    'list_models': 'cls.models:names',
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
