"""The configs of run folders: reading, and comparison with the config of a continued run."""

import functools
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cls import models
from cls.config import load as configs
from cls.errors import UserError
from cls.run import workdir as folders
from cls.run.workdir import RunConfig
from cls.storage import paths

log = logging.getLogger(__name__)

# Fields, in an ensemble those of a member, that an evaluation of the same weights may change.
_NAMED = re.compile(r'(members\.(?P<member>[^.]+\.))?(data|model)\.(.+\.)?(?P<field>[^.]+)')
_LONGEST = 150  # letters of a file's name; file systems allow 255


def run_config(config: ConfigDict) -> RunConfig:
    """Returns a config in the form that run folders store and compare."""
    text, name = configs.to_json(config), config.get('model', {}).get('name')
    return RunConfig(
        text,
        functools.partial(configs.differences, other=text),
        functools.partial(configs.lengths, other=text),
        models.origin(name) if name else '',
    )


def load_config(workdir: Path, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
    """Returns the config of a run folder, with overridden fields.

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
                f'{file} cannot be read, and there is no config in a checkpoint: give --config '
                'and the fields that the run began with.'
            )
        if text is None:
            raise UserError(
                f'{workdir} is not a run folder (no config.json); --config FILE.py begins a run.'
            )
        log.warning('%s is damaged: taking the config of the checkpoint.', file)
    check_models(workdir, paths.parse_json(text))
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


def check_models(workdir: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for a run of a variant that is registered by a user's config file.

    The error asks for the file, because no file that a run folder names is executed.

    Args:
      workdir: the run folder.
      config: the content of its config.json.
    """

    def inside(part: Any, key: str) -> Any:
        return part.get(key) if isinstance(part, dict) else None

    members = inside(config, 'members')
    parts = [config, *(members.values() if isinstance(members, dict) else ())]
    names = [inside(inside(part, 'model'), 'name') for part in parts]
    names = [name for name in names if name and isinstance(name, str)]
    if unknown := [name for name in names if not models.is_known(name)]:
        raise UserError(
            f'{workdir} is of {unknown[0]!r}, which cls.models has not: expected also --config '
            f'{folders.registered_by(workdir) or "FILE.py"}, the config file that registers it.'
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
