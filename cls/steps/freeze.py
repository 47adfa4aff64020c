"""Parts of a net that training leaves as they are: parameters, and the statistics of norms.

config.optim.freeze is a regular expression; a parameter whose path, as 'layer1/0/conv1/kernel', has
a match in it stays as it is: it gets no gradient, no weight decay and no state of the optimizer. A
batch norm all of whose parameters stay also uses and keeps its running statistics, so that a frozen
part is the same function throughout (as Keras has it; in PyTorch such statistics go on unless one
remembers to stop them). config.freeze_bn holds the statistics of all norms from a moment on, while
their parameters are trained.
"""

import re
from typing import Any

import jax

from cls.errors import UserError
from cls.nn import norm

_SHOWN = 20  # how many of a net's modules an error names


def frozen(pattern: str, params: Any) -> Any:
    """Returns the tree of booleans that says which parameters stay as they are.

    Args:
      pattern: regular expression, searched in 'module/module/leaf'; '': none stays.
      params: nested dict.

    Raises:
      UserError: the pattern is no regular expression, or matches no parameter or all of them.
    """
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UserError(
            f'config.optim.freeze is {pattern!r}, which is no regular expression: {error}.'
        ) from None
    found = jax.tree.map_with_path(lambda path, _: bool(pattern and search(name(path))), params)
    names = [name(path) for path, _ in jax.tree.leaves_with_path(params)]
    count = sum(jax.tree.leaves(found))
    if pattern and count in (0, len(names)):
        what = 'all' if count else 'none'
        modules = ', '.join(sorted({path.split('/')[0] for path in names})[:_SHOWN])
        raise UserError(
            f'config.optim.freeze is {pattern!r}, which matches {what} of the {len(names)} '
            f'parameters, as {names[-1]}: expected some of them to stay. They are in {modules}.'
        )
    return found


def name(path: tuple[Any, ...]) -> str:
    """Returns 'module/module/leaf' for a path as jax.tree_util gives it."""
    return '/'.join(entry.key for entry in path)


def still(pattern: str, params: Any, batch_stats: Any, every_norm: bool = False) -> dict[str, Any]:
    """Returns {'params', 'batch_stats'}, trees of booleans: what a step leaves as it is.

    Args:
      pattern: config.optim.freeze.
      params: nested dict.
      batch_stats: nested dict.
      every_norm: whether the statistics of all norms stay, not only those of frozen ones.
    """
    fixed = frozen(pattern, params)

    def stays(path, _):
        *module, leaf = (entry.key for entry in path)
        if not norm.is_norm(_below(batch_stats, module)):
            return False
        fixed_here = _below(fixed, module)
        return every_norm or bool(fixed_here) and all(fixed_here.values())

    return {'params': fixed, 'batch_stats': jax.tree.map_with_path(stays, batch_stats)}


def kept(still_stats: Any) -> dict[str, Any]:
    """Returns the collection for `model.apply` that holds the norms whose statistics stay."""
    return norm.kept(still_stats, lambda path: _below(still_stats, path)['mean'])


def hold(stays: Any, old: Any, new: Any) -> Any:
    """Returns the leaves of `old` that stay, and those of `new` that do not."""
    return jax.tree.map(lambda stay, x, y: x if stay else y, stays, old, new)


def _below(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree.get(key, {})  # a norm may have statistics and no parameters
    return tree
