"""Converts the names of a state dict to a network's own, without prefixes and extra entries."""

import collections
import itertools
import re
from collections.abc import Callable, Collection, Mapping

import numpy as np

from cls.errors import UserError

# Last parts of the names of counters that profilers (thop), wrappers (AveragedModel) and the
# dropouts of Keras store with the tensors.
_COUNTS = ('total_ops', 'total_params', 'n_averaged', 'seed_generator_state')
# Modules that wrappers insert: torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ('_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')
_BETWEEN = re.compile(rf'(?:^|(?<=\.))(?:{"|".join(_WRAPPERS)})\.')
_DEEPEST = 6  # the most modules in a prefix


def own(
    state_dict: Mapping[str, np.ndarray],
    wanted: Collection[str],
    renamed: Callable[[str], str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns (a network's tensors under its own names, the names of the tensors left out).

    Counters of profilers are left out. Wrappers and training scripts add a prefix (`module.`,
    `model.`, `backbone.`). If most of the network's tensors have one, tensors without it are left
    out too, unless they belong to the network.

    Args:
      state_dict: name -> array.
      wanted: the network's names.
      renamed: from older names to the present ones.

    Raises:
      UserError: two prefixes give different tensors for the network; two names become one.
    """
    counts = {
        name: None
        for name in state_dict
        if name.rpartition('.')[2] in _COUNTS and name not in wanted
    }
    tensors = {name: value for name, value in state_dict.items() if name not in counts}
    text = '\n'.join(tensors)
    if any(wrapper in text for wrapper in _WRAPPERS):
        tensors = {_BETWEEN.sub('', name): value for name, value in tensors.items()}
    if len(tensors) + len(counts) < len(state_dict):
        raise UserError('the file has some tensors with and without a wrapper in their names')
    wanted = frozenset(wanted)
    prefix = _prefix(tensors, wanted, renamed)
    found, outside = {}, []
    for name, value in tensors.items():
        new = renamed(name.removeprefix(prefix))
        foreign = not name.startswith(prefix)
        if foreign and (new not in wanted or prefix + new in tensors):
            outside.append(name)
            continue
        if new in found:
            raise UserError(f'the file has some tensors under an old and a new name, as {new}')
        found[new] = value
    return found, [*counts, *outside]


def _prefix(
    tensors: Mapping[str, np.ndarray], wanted: frozenset[str], renamed: Callable[[str], str]
) -> str:
    """Returns the prefix of most of the network's tensors, '' for none."""
    half = len(wanted) // 2

    def under(prefix: str, inside: Collection[str]) -> dict[str, np.ndarray]:
        """Returns the network's tensors among those with a prefix, {} for half of it or less."""
        found, spare = {}, len(inside) - half
        for name in inside:
            new = renamed(name.removeprefix(prefix))
            if new in wanted:
                found[new] = tensors[name]
                continue
            spare -= 1
            if spare <= 0:
                return {}
        return found

    if len(under('', tensors)) > half:
        return ''
    inside = collections.defaultdict(list)
    for name in tensors:
        for prefix in itertools.accumulate(_modules(name)):
            inside[prefix].append(name)
    candidates = {
        prefix: under(prefix, names) for prefix, names in inside.items() if len(names) > half
    }
    most = max(map(len, candidates.values()), default=0)
    if most <= half:
        return ''
    best, *others = (prefix for prefix, names in candidates.items() if len(names) == most)
    for other in others:
        same = all(
            n in candidates[best] and np.array_equal(candidates[best][n], value)
            for n, value in candidates[other].items()
        )
        if not same:
            raise UserError(
                f'the file has the network twice, under {best!r} and {other!r}, with different '
                'tensors; save only the wanted one'
            )
    return best


def _modules(name: str) -> list[str]:
    return [f'{part}.' for part in name.split('.')[:-1][:_DEEPEST]]
