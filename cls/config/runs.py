"""The configs of run folders: reading, and comparison with the config of a continued run."""

import dataclasses
import functools
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cls import models, registration
from cls.config import load as configs
from cls.data import registered
from cls.errors import UserError
from cls.run import workdir as folders
from cls.run.workdir import RunConfig
from cls.steps import losses, optim
from cls.storage import paths

log = logging.getLogger(__name__)

# Fields, in an ensemble those of a member, that an evaluation of the same weights may change.
_NAMED = re.compile(r'(members\.(?P<member>[^.]+\.))?(data|model)\.(.+\.)?(?P<field>[^.]+)')
_LONGEST = 150  # letters of a file's name; file systems allow 255


def run_config(config: ConfigDict) -> RunConfig:
    """Returns a config in the form that run folders store and compare."""
    text = configs.to_json(config)
    origins = (name.origin for name in names(config.to_dict()))
    return RunConfig(
        text,
        functools.partial(configs.differences, other=text),
        functools.partial(configs.lengths, other=text),
        next(filter(None, origins), ''),
    )


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in a config that a config file of the user may register.

    Attributes:
      kind: 'model', 'loss', 'optimizer' or 'data set'.
      name: the name.
      known: whether it is known in this process.
      origin: the config file that registers it, '' for the names of cls.
    """

    kind: str
    name: str
    known: bool
    origin: str


def names(config: Mapping[str, Any]) -> Iterator[Name]:
    """Yields the names in the content of a config.json, of an ensemble those of its members."""

    def inside(part: Any, key: str) -> Any:
        return part.get(key) if isinstance(part, dict) else None

    members = inside(config, 'members')
    for part in (config, *(members.values() if isinstance(members, dict) else ())):
        for group, (kind, is_known) in _NAMES.items():
            name = inside(inside(part, group), 'name')
            if not name or not isinstance(name, str):
                continue
            first = name.partition(':')[0]
            origin = models.origin(name) if group == 'model' else registration.origin(kind, first)
            yield Name(kind, first if group == 'data' else name, is_known(name), origin)


# Of each group of a config: the kind of its name, and whether there is something of a name.
_NAMES: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    'model': ('model', models.is_known),
    'loss': ('loss', losses.LOSSES.__contains__),
    'optim': ('optimizer', optim.is_known),
    'data': ('data set', registered.is_known),
}
KINDS = frozenset(kind for kind, _ in _NAMES.values())


def load_config(
    workdir: Path, overrides: Sequence[tuple[str, str]] = (), kinds: Set[str] = frozenset({'model'})
) -> ConfigDict:
    """Returns the config of a run folder, with overridden fields.

    Its names of these kinds must be known, see `check_names`.

    If config.json cannot be read, the config of the newest checkpoint is returned, with a warning.

    Raises UserError if there is none.
    """
    folders.check_entries(workdir)
    text, kept = folders.config_text(workdir), folders.kept_config(workdir)
    if text is None or (kept and _names(kept) - _names(text)):
        file = workdir / 'config.json'
        text = kept
        if text is None and file.exists():
            raise UserError(
                f'{file} cannot be read, and there is no config in a checkpoint: run cls train '
                f'with --workdir {workdir} and the --config and fields that the run began with.'
            )
        if text is None:
            raise UserError(
                f'{workdir} is not a run folder (no config.json); cls train --config FILE.py '
                'begins a run.'
            )
        log.warning('%s is damaged: taking the config of the checkpoint.', file)
    check_names(workdir, paths.parse_json(text), kinds)
    return configs.from_json(text, overrides)


def members(config: ConfigDict, workdir: Path) -> list[tuple[ConfigDict, Path]]:
    """Returns each member's config and run folder; for a loaded member, the folder's config."""
    parts = []
    for name, member in config.members.items():
        if config.loaded[name]:
            folder = paths.path(config.loaded[name])
            parts.append((load_config(folder), folder))
        else:
            parts.append((member, workdir / name))
    return parts


def _names(text: str) -> set[str]:
    """Returns the dotted names of the fields in a config's JSON text."""
    return {name for name, _ in configs.flatten(ConfigDict(paths.parse_json(text)))}


def check_names(workdir: Path, config: Mapping[str, Any], kinds: Set[str] = KINDS) -> None:
    """Raises UserError for a run with a name that is registered by a user's config file.

    The error asks for the file, because no file that a run folder names is executed.

    Args:
      workdir: the run folder.
      config: the content of its config.json.
      kinds: the kinds of names to check; a network alone needs only its model.
    """
    for name in names(config):
        if name.kind in kinds and not name.known:
            raise UserError(
                f'{workdir} is of the {name.kind} {name.name!r}, which cls has not: expected also '
                f'--config {folders.registered_by(workdir) or "FILE.py"}, the config file that '
                'registers it.'
            )


def report_name(title: str, config: ConfigDict, workdir: Path) -> str:
    """Returns the file name of an evaluation in a run folder, without suffix.

    Evaluations that can differ have different names: 'evaluation', 'evaluation-dense-256-512',
    'evaluation-ten_crop-eval_size=288'.

    Args:
      title: the title of the protocol, see `EvalSpec.title`.
      config: the config of the evaluation, of a run or an ensemble.
      workdir: the run folder; values that are equal in its config.json are not in the name.
    """
    parts = [title] if title != 'single' else []
    saved = folders.saved_config(workdir)
    before = dict(configs.flatten(configs.from_json(saved))) if saved else {}
    for name, value in configs.flatten(config):
        field = _NAMED.fullmatch(name)
        if field and name in before and value != before[name] and not configs.is_outward(name):
            parts.append(f'{field["member"] or ""}{field["field"]}={value}')
    name = '-'.join(['evaluation', *parts])
    if len(name) > _LONGEST:
        name = f'{name[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}'
    return re.sub(r'[^\w.=,-]+', '_', name)
