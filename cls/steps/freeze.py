"""Frozen parts of a network: parameters, and the statistics of norms.

config.optim.freeze is a regular expression; a parameter with a match in its path, as in
'layer1/0/conv1/kernel', is frozen: it gets no gradient, no weight decay and no state of the
optimizer. A batch norm with all of its parameters frozen also normalizes with its running
statistics and does not update them, so a frozen part is the same function throughout (as in Keras;
in PyTorch these statistics are updated unless disabled separately). config.freeze_bn freezes the
statistics of all norms from a given time on, while their parameters are trained.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax

from cls.errors import UserError
from cls.nn import norm

_SHOWN = 20  # number of modules in an error message


def frozen_params(pattern: str, params: Any) -> Any:
    """Returns the tree of booleans that is True at frozen parameters.

    Args:
      pattern: regular expression, searched in 'module/module/leaf'; '': nothing is frozen.
      params: nested dict.

    Raises:
      UserError: the pattern matches no parameter, or all of them.
    """
    search = re.compile(pattern).search
    mask = jax.tree.map_with_path(lambda path, _: bool(pattern and search(name(path))), params)
    names = [name(path) for path, _ in jax.tree.leaves_with_path(params)]
    count = sum(jax.tree.leaves(mask))
    if pattern and count in (0, len(names)):
        modules = ', '.join(sorted({path.split('/')[0] for path in names})[:_SHOWN])
        raise UserError(
            f'config.optim.freeze is {pattern!r}, which matches {"all" if count else "none"} of '
            f'the {len(names)} parameters, as {names[-1]}: expected some of them to stay. They are '
            f'in {modules}.'
        )
    return mask


def name(path: tuple[Any, ...]) -> str:
    """Returns 'module/module/leaf' for a path as jax.tree_util gives it."""
    return '/'.join(entry.key for entry in path)


def frozen_mask(
    pattern: str, params: Any, batch_stats: Any, every_norm: bool = False
) -> dict[str, Any]:
    """Returns {'params', 'batch_stats'}, trees of booleans: True at frozen leaves.

    Args:
      pattern: config.optim.freeze.
      params: nested dict.
      batch_stats: nested dict.
      every_norm: whether the statistics of all norms are frozen, not only those of frozen norms.
    """
    of_params = frozen_params(pattern, params)

    def of_norm(path, _):
        *module, _leaf = (entry.key for entry in path)
        if not norm.is_norm(_below(batch_stats, module)):
            return False
        return every_norm or is_frozen(of_params, module)

    of_stats = jax.tree.map_with_path(of_norm, batch_stats)
    return {'params': of_params, 'batch_stats': of_stats}


def is_frozen(mask: Any, module: Sequence[str]) -> bool:
    """Whether a module has parameters and all of them are frozen.

    Args:
      mask: the result of `frozen_params`.
      module: path of a module without submodules.
    """
    parameters = _below(mask, module)
    return bool(parameters) and all(parameters.values())


def kept_norms(mask: Any) -> dict[str, Any]:
    """Returns the collection for `model.apply` that names the norms with frozen statistics.

    Args:
      mask: the 'batch_stats' of `frozen_mask`.
    """
    return norm.kept(mask, lambda path: _below(mask, path)['mean'])


def select(mask: Any, frozen: Any, updated: Any) -> Any:
    """Returns the leaves of `frozen` where a mask is True, and those of `updated` elsewhere."""
    return jax.tree.map(lambda keep, x, y: x if keep else y, mask, frozen, updated)


def _below(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree.get(key, {})  # a norm may have statistics and no parameters
    return tree
