"""The choice of the weights among the entries of a checkpoint.

Training scripts store the weights under some key, next to an optimizer and often to an average of
the weights. The plain weights are used unless the average is asked for.
"""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cls.errors import UserError, nearest
from cls.weights.unpickle import ADVICE, Inert, Standin

# Entries of a checkpoint's outermost dict for the weights; the first present one is used.
ENTRIES = (
    *('state_dict', 'model', 'model_state_dict', 'net', 'network', 'model_state', 'module'),
    *('backbone', 'weights', 'params', 'variables'),
)
# Entries for an exponential average of the weights.
AVERAGES = (
    *('state_dict_ema', 'model_ema', 'ema_state_dict', 'model_ema_state_dict', 'ema_model'),
    *('ema_model_state_dict', 'ema', 'params_ema', 'ExponentialMovingAverage'),
)
# The callback WeightAveraging of Lightning writes the average to 'state_dict' and the plain weights
# to this entry, as if the average were the module's own weights.
_PLAIN_IN_LIGHTNING = 'current_model_state'
# Prefixes of an average among the names of the weights, if a module has both.
_AVERAGE_PREFIXES = ('model_ema.', 'ema_model.', 'ema.', 'averaged_model.')
# Prefixes that wrappers of a whole module add to every name: DataParallel, torch.compile,
# Lightning, heads on a backbone, the wrapper of timm's models in transformers.
PREFIXES = ('module.', '_orig_mod.', 'model.', 'net.', 'network.', 'backbone.', 'timm_model.')
_COUNT = 'n_averaged'  # of the wrapper of averages; it has no prefix
# Training scripts' keys for the names of the classes, see card.py.
CLASS_NAMES = (
    *('label_names', 'class_names', 'classes', 'class_to_idx', 'idx_to_class'),
    *('id2label', 'label2id'),
)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Selected:
    """The weights of a checkpoint and its other entries.

    Attributes:
      tensors: name -> array.
      entry: the key of the tensors, 'model.state_dict' in a dict within a dict, '' for the
        outermost dict.
      unused: the other keys with tensors by name.
      averages: those of them that are averages of the weights.
    """

    tensors: dict[str, np.ndarray]
    entry: str = ''
    unused: tuple[str, ...] = ()
    averages: tuple[str, ...] = ()


def select(content: Any, entry: str, ema: bool, path: Path) -> Selected:
    """Returns the weights in a file's outermost object.

    Args:
      content: the object, with arrays for tensors.
      entry: the key of the weights; '' for the usual ones.
      ema: whether to use the average of the weights.
      path: the file, for the log.

    Raises:
      UserError: no weights, or none under this key, or no average.
    """
    if isinstance(content, Inert | Standin):
        raise UserError(
            f'refused: it asks for {content.name}, a whole pickled module or another object, which '
            f'is more than tensors, containers and numbers, and nothing was run; {ADVICE}'
        )
    if not isinstance(content, dict):
        raise UserError(f'holds a {type(content).__name__}, not a dict; {ADVICE}')
    averages = _averages(content)
    used = entry or _usual(content, averages, ema)
    others = [shown(key) for key in content if key != used]
    inside = content
    if used:
        if not isinstance(content.get(used), dict):
            raise UserError(
                f'has no dict {used!r}.{nearest(used, others)} It has {", ".join(others[:10])}'
            )
        inside, used = _innermost(content[used], used)
        _log.info('%s: weights are its entry %r; other entries: %s', path, used, others[:20])
    tensors = _tensors(inside, used, path)
    found = Selected(tensors, used, _unused(content, used.partition('.')[0]), averages)
    return _without_prefixes(_divided(found, ema and used not in averages))


def _averages(content: Mapping[Any, Any]) -> tuple[str, ...]:
    if all(_has_tensors(content.get(key)) for key in ('state_dict', _PLAIN_IN_LIGHTNING)):
        return ('state_dict',)
    return tuple(key for key in AVERAGES if _has_tensors(content.get(key)))


def _usual(content: Mapping[Any, Any], averages: tuple[str, ...], ema: bool) -> str:
    """Returns the key of the weights, '' if they are directly in the outermost dict."""
    if ema and averages:
        return averages[0]
    if averages == ('state_dict',):
        return _PLAIN_IN_LIGHTNING
    present = [key for key in ENTRIES if isinstance(content.get(key), dict)]
    with_tensors = [key for key in present if _has_tensors(content[key])]
    if not with_tensors and averages and not _arrays(content):
        return averages[0]
    return (with_tensors or present or [''])[0]


def _innermost(inside: dict, used: str) -> tuple[dict, str]:
    """Returns the dict of the tensors within a dict, and its name."""
    while not _arrays(inside):
        key = next((key for key in ENTRIES if _has_tensors(inside.get(key))), '')
        if not key:
            break
        inside, used = inside[key], f'{used}.{key}'
    return inside, used


def _arrays(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, np.ndarray) for value in content.values())


def _has_tensors(content: Any, depth: int = 2) -> bool:
    if not isinstance(content, dict):
        return False
    if _arrays(content):
        return True
    return depth > 0 and any(_has_tensors(content.get(key), depth - 1) for key in ENTRIES)


def _tensors(inside: dict, used: str, path: Path) -> dict[str, np.ndarray]:
    values = inside.items()
    tensors = {k: v for k, v in values if isinstance(k, str) and isinstance(v, np.ndarray)}
    for name, value in values:
        if isinstance(value, Inert) and value.why:
            raise UserError(f'refused: {shown(name)} holds {value.why}; {ADVICE}')
    if not tensors:
        _refuse_empty(inside, used)
    dropped = [shown(key) for key in inside if key not in tensors]
    if dropped:
        _log.info('%s: left out values that are not tensors: %s', path, dropped[:20])
    return tensors


def _refuse_empty(content: Mapping[Any, Any], used: str) -> None:
    where = f'its entry {used!r}' if used else 'it'
    modules = [f'{shown(k)} is a {v.name}' for k, v in content.items() if isinstance(v, Inert)]
    names = ', '.join(map(shown, list(content)[:10])) or 'nothing'
    hint = f' ({", ".join(modules[:3])}: if that is the network, {ADVICE})' if modules else ''
    raise UserError(f'{where} holds no tensors but {names}{hint}; name the entry that does')


def _unused(content: Mapping[Any, Any], used: str) -> tuple[str, ...]:
    """Returns the keys of the dicts of tensors that are not used."""
    if not used:
        return ()
    return tuple(
        shown(key) for key, value in content.items() if key != used and _has_tensors(value)
    )


def _divided(found: Selected, ema: bool) -> Selected:
    """Returns the weights without an average among them, or with `ema` only the average."""
    names = [name for name in found.tensors if name != _COUNT]
    for prefix in _AVERAGE_PREFIXES:
        inside = {name for name in names if name.startswith(prefix)}
        if not inside or len(inside) == len(names):
            continue
        kept = {k: v for k, v in found.tensors.items() if (k in inside) == ema}
        averages = (*found.averages, prefix) if not ema else found.averages
        unused = (*found.unused, prefix if not ema else 'the plain weights')
        return dataclasses.replace(found, tensors=kept, averages=averages, unused=unused)
    if ema:
        raise UserError(
            f'has no average of the weights: expected one of {", ".join(AVERAGES)}; leave out --ema'
        )
    return found


def _without_prefixes(found: Selected) -> Selected:
    """Returns the tensors without the prefixes that wrappers add to every name."""
    tensors = found.tensors
    for prefix in (*_AVERAGE_PREFIXES, *2 * PREFIXES):
        if all(name.startswith(prefix) or name == _COUNT for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dataclasses.replace(found, tensors=tensors)


def shown(key: Any) -> str:
    """Returns a key of a dict as text; of keys that are not plain values only the type."""
    return str(key) if isinstance(key, str | int | float) else f'a {type(key).__name__}'


def card(content: Any) -> dict[str, Any]:
    """Returns a card from a training script's arguments; {} without any.

    timm's and torchvision's scripts, and PyTorch's for ImageNet, store `arch` or `args`, Lightning
    `hyper_parameters`. Many other scripts store the names of the classes.
    """
    if not isinstance(content, Mapping):
        return {}
    arguments = content.get('args', content.get('hyper_parameters'))
    if isinstance(arguments, Inert):
        arguments = arguments.items or arguments.state
    arguments = arguments if isinstance(arguments, Mapping) else {}
    named = (*map(content.get, ('arch', 'architecture')), *map(arguments.get, ('model', 'arch')))
    word = next((name for name in named if isinstance(name, str) and name), '')
    fields: dict[str, Any] = {'architecture': word} if word else {}
    fields |= {field: value for holder in (arguments, content) for field, value in _names(holder)}
    constructor = arguments.get('model_kwargs')
    constructor = dict(constructor) if isinstance(constructor, Mapping) else {}
    for argument, name in (('bn_eps', 'bn_eps'), ('gp', 'global_pool')):
        if arguments.get(argument) is not None:
            constructor[name] = arguments[argument]
    if constructor:
        fields['model_args'] = constructor
    return fields


def _names(holder: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    """Returns the (field, value) pairs that name classes; only texts count as names."""
    pairs = []
    for field in CLASS_NAMES:
        value = holder.get(field)
        items = (*value.keys(), *value.values()) if isinstance(value, Mapping) else value
        if isinstance(items, list | tuple) and any(isinstance(item, str) for item in items):
            pairs.append((field, value))
    return pairs
