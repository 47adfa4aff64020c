"""Configs: loading from files, overrides of fields, comparison, and conversion to JSON."""

import ast
import importlib.util
import json
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cls import models, registration
from cls.config import defaults, files, genotype_files, presets
from cls.config.field import FREE, LENGTH, is_number
from cls.errors import UserError, nearest
from cls.nn import limits
from cls.storage import paths

DTYPES = ('float32', 'bfloat16', 'float16')
ROOT = files.ROOT


def load(
    spec: str, overrides: Sequence[tuple[str, str]] = (), begun: ConfigDict | None = None
) -> ConfigDict:
    """Returns the locked config of a file or recipe, 'FILE.py:ARGUMENT' or 'resnet:cifar10'.

    Args:
      spec: path of a file that defines get_config(argument), or name of a recipe, and the argument.
      overrides: (dotted name, text) pairs; the text is parsed as the type of the field.
      begun: the config of the run to continue, for arms that count images, see
        cls.config.presets.

    Raises:
      UserError: there is no such file, its argument is unknown, or an override does not fit.
    """
    path, _, argument = spec.partition(':')
    config = _run(files.find(path), argument)
    defaults.check(config, _override_all(config, overrides))
    _fill(config, {name for name, _ in overrides}, begun)
    return config.lock()


def arms(file: Path) -> Mapping[str, str]:
    """Returns the arms of a config file, and one line about each; {} for a file without arms."""
    try:
        _run(file, '?')
    except files.UnknownArm as error:
        return error.arms
    except UserError:
        pass  # a user's file, with its own arguments
    return {}


def _fill(config: ConfigDict, given: Set[str], begun: ConfigDict | None) -> None:
    """Sets the fields that depend on images and weights, in the parts with a preset."""
    before = {} if begun is None else {prefix: part for prefix, part, _ in defaults.parts(begun)}
    for prefix, part, _ in defaults.parts(config):
        if part.get('preset'):
            own = {name.removeprefix(prefix) for name in given if name.startswith(prefix)}
            presets.fill(part, own, before.get(prefix))


def _run(file: Path, argument: str) -> ConfigDict:
    """Returns the config of a file for an argument. Raises UserError if there is none."""
    try:
        module_spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
        if module_spec is None or module_spec.loader is None:
            raise UserError(f'{file} is not a config: expected a Python file, NAME.py.')
        module = importlib.util.module_from_spec(module_spec)
        with registration.registered_by(str(file.resolve())):
            module_spec.loader.exec_module(module)
            if not callable(getattr(module, 'get_config', None)):
                raise UserError(f'{file} is not a config: it has no function get_config(argument).')
            config = module.get_config(argument)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # of any kind, raised by the file
        where = _line_of(file, error)
        text = (str(error).splitlines() or [''])[0]
        raise UserError(
            f'the config {file} cannot be read: {type(error).__name__}{where}: {text[:200]}. '
            'Fix the file.'
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f'{file} is not a config: its get_config returned {type(config).__name__}, expected an '
            'ml_collections.ConfigDict, as cls.recipes.common.base() gives one.'
        )
    try:
        to_json(config)
    except TypeError as error:  # a function, an array
        raise UserError(
            f'{file} has a field that no run folder can keep ({error}): expected numbers, text, '
            'tuples and groups of these.'
        ) from error
    return config


def _line_of(file: Path, error: BaseException) -> str:
    """Returns ' in line N' for the last line of a file in the traceback of an error, or ''."""
    if isinstance(error, SyntaxError):
        return f' in line {error.lineno}' if error.lineno else ''
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f' in line {frames[-1].lineno}' if frames else ''


def parse_overrides(
    arguments: Sequence[str], flags: Sequence[str] = ('--config', '--workdir')
) -> list[tuple[str, str]]:
    """Returns the (name, text) pairs of '--config.name=text' arguments.

    Args:
      arguments: those that a program's parser left.
      flags: of the program, for the message.

    Raises:
      UserError: an argument is not such a pair.
    """
    pairs = []
    for argument in arguments:
        name, equals, text = argument.removeprefix('--config.').partition('=')
        if not argument.startswith('--config.') or not equals:
            known = (*flags, '--config.FIELD=VALUE')
            hint = nearest(argument, known) or f' Known: {", ".join(known)}.'
            raise UserError(f'cannot read the argument {argument!r}.{hint}')
        pairs.append((name, text))
    return pairs


def _override_all(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Sets fields; returns the mistakes among them: dotted name -> a sentence."""
    wrong = {}
    # A genotype is checked when it is set: its limit must be set before.
    for name, text in sorted(overrides, key=lambda pair: not pair[0].endswith('limits.layers')):
        try:
            _override(config, name, text)
        except UserError as error:
            wrong[name] = str(error)
            continue
        if name.endswith('limits.layers'):
            defaults.check(config, wrong)
            node = config
            for part in name.split('.')[:-1]:
                node = node[part]
            limits.limit_layers(node.layers)
    return wrong


def _override(config: ConfigDict, name: str, text: str) -> None:
    *parents, field = name.split('.')
    node = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, ConfigDict) else None
    is_open = defaults.is_open('.'.join(parents))
    if not isinstance(node, ConfigDict) or (field not in node and not is_open):
        known = [key for key, _ in flatten(config)]
        hint = defaults.renamed(name) or nearest(name, known) or ' `cls print` shows all fields.'
        raise UserError(f'the config has no field {name!r}.{hint}')
    if field == 'genotype' and parents[-1:] == ['model']:
        node[field] = _genotype(node, text)
        return
    if isinstance(node.get(field), ConfigDict):
        fields = ', '.join(node[field]) or f'{name}.NAME'
        raise UserError(f'config.{name} is a group; set one of its fields: {fields}.')
    if parents[-1:] == ['args']:  # checked against the signature of the optimizer
        with node.ignore_type():
            node[field] = {'true': True, 'false': False}.get(text.lower(), _literal(text))
    elif field in node:
        node[field] = _read(text, node[field], name)
    else:  # a field of the module that is not in the config; the variant's value has its type
        current = getattr(models.create(node.name), field, None)
        plain = isinstance(current, (bool, int, float, str, tuple))
        node[field] = _read(text, current, name) if plain else _literal(text)


def _genotype(model: ConfigDict, path: str) -> Any:
    """Returns the content of a genotype file, so that the config does not depend on the file."""
    data = genotype_files.load(path)
    models.create(model.name, genotype=data)  # raises if it does not fit
    return _tuples(data)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return text


def _read(text: str, current: Any, name: str) -> Any:
    """Parses text as the type of the field's current value."""
    value: Any = text if isinstance(current, str) else _literal(text)
    if isinstance(current, bool):
        value = {'true': True, 'false': False}.get(text.lower(), value)
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(current, tuple) and not isinstance(value, tuple):
        value = (value,)
    fits = type(value) is type(current)
    if fits and isinstance(current, tuple) and current:  # as tuples of numbers, or of durations
        kinds = (int, float) if isinstance(current[0], (int, float)) else type(current[0])
        fits = all(isinstance(item, kinds) for item in value)
    if not fits:
        wanted = type(current).__name__
        article = 'an' if wanted == 'int' else 'a'
        raise UserError(f'config.{name} is {article} {wanted} (now {current!r}); {text!r} is not.')
    return value


def flatten(config: ConfigDict, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every field, sorted by name."""
    for key in sorted(config):
        if isinstance(config[key], ConfigDict):
            yield from flatten(config[key], f'{prefix}{key}.')
        else:
            yield prefix + key, config[key]


def create_model(config: ConfigDict, num_classes: int) -> Any:
    """Returns the module that config.model describes. Raises UserError if it is invalid."""
    overrides = {key: value for key, value in config.model.to_dict().items() if key != 'name'}
    if overrides.get('dtype') not in DTYPES:
        dtypes = ', '.join(DTYPES)
        raise UserError(f'config.model.dtype is {overrides.get("dtype")!r}; known: {dtypes}.')
    for key, value in overrides.items():
        if wanted := _unlike_a_size(key, value):
            raise UserError(f'config.model.{key} is {value!r}: expected {wanted}.')
    if overrides['dtype'] == 'float32' and models.origin(config.model.name):
        module = models.variant(config.model.name).module
        if 'dtype' not in models.fields(module):  # a plain module computes in float32
            del overrides['dtype']
    return models.create(config.model.name, **{'num_classes': num_classes, **overrides})


def _unlike_a_size(key: str, value: Any) -> str:
    """Returns the expected range of a number, or of numbers, that are outside it; '' if inside.

    Modules state no ranges: their numbers are sizes, counts and rates, and never negative.
    """
    numbers = [x for x in (value if isinstance(value, tuple) else (value,)) if is_number(x)]
    if key.endswith(('rate', 'momentum')):
        return '' if all(0 <= x <= 1 for x in numbers) else 'a part, from 0 to 1'
    most = 2**24 if key == 'num_classes' else 2**16
    return '' if all(0 <= x <= most for x in numbers) else f'0 to {most}'


def to_json(config: ConfigDict) -> str:
    """Returns the config as sorted JSON text, the inverse of `from_json`."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def from_json(text: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns a locked config with overridden fields; lists become tuples.

    Fields that did not exist when the text was written have their defaults.
    """
    config = ConfigDict(_upgraded(_tuples(paths.parse_json(text))))
    config = defaults.complete(defaults.with_new_names(config))
    if overrides:
        defaults.check(config, _override_all(config, overrides))
    return config.lock()


def _upgraded(value: Any) -> Any:
    """Returns fields of an earlier version with their current meaning.

    Before data.class_order existed, the default of data.eval_split was 'test', or for ImageNet
    'validation', without a meaning for folders. It becomes '', the default that finds these splits.
    """
    if not isinstance(value, dict):
        return value
    value = {key: _upgraded(item) for key, item in value.items()}
    old = 'eval_split' in value and 'class_order' not in value
    if old and value['eval_split'] in ('test', 'validation'):
        value['eval_split'] = ''
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def is_outward(name: str) -> bool:
    """Whether the training is independent of a field."""
    field = defaults.field(name)
    return field is not None and field.change == FREE


def is_length(name: str) -> bool:
    """Whether a field is the length of a training; it may change when a run continues."""
    field = defaults.field(name)
    in_search = name.startswith(
        'proxy.'
    )  # a search with trials of another length is another search
    return field is not None and field.change == LENGTH and not in_search


def identity(config: ConfigDict) -> str:
    """Returns a text that is equal for two configs if they describe the same training."""
    return json.dumps([pair for pair in flatten(config) if not is_outward(pair[0])])


def differences(one: str, other: str) -> str:
    """Returns the differences of two configs in JSON, for example 'optim.lr (0.1, now 0.2), ...'.

    Fields that the training is independent of are ignored, and so is its length, see `lengths`.
    """
    return _changes(one, other, lambda name: not is_outward(name) and not is_length(name))


def lengths(one: str, other: str) -> str:
    """Returns the differences of two configs in the length of the training, like `differences`."""
    return _changes(one, other, is_length)


def _changes(one: str, other: str, counts: Callable[[str], bool]) -> str:
    before, after = (dict(flatten(from_json(text))) for text in (one, other))
    return ', '.join(
        f'{name} ({before.get(name)!r}, now {after.get(name)!r})'
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and counts(name)
    )
