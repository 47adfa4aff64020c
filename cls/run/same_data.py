"""Check that a run continues on the data that it started with.

`FILE` in the run folder identifies them by the number of examples and a digest of their list.
"""

import logging
from pathlib import Path
from typing import Any

from cls.distributed import agreement
from cls.errors import UserError
from cls.run.checkpoint_files import load_record
from cls.storage import paths

FILE = 'data.json'
Data = dict[str, dict[str, Any]]  # as cls.data.datasets.identity returns it
log = logging.getLogger(__name__)


def check(workdir: Path, data: Data, begun: bool, allow: bool) -> None:
    """Raises UserError if a run that has begun would continue on other data, unless allowed.

    Also raises it if the processes do not see the same data. A run folder from before FILE existed
    continues on any data.
    """
    everywhere = agreement.gather('data everywhere', data)
    for index, other in enumerate(everywhere):
        if line := _changes(everywhere[0], other):
            raise UserError(
                f'process {index} reads other data than process 0: {line} there. Expected the same '
                'files everywhere.'
            )
    before = agreement.on_first('data before', lambda: _load(workdir) if begun else None)
    if before and 'validation' in data and 'validation' not in before:
        # Before config.eval.validation, a part held out was the only one to evaluate on.
        before = {'train': before['train'], 'validation': before['eval']}
    if not before or not (line := _changes(before, data)):
        return
    line = f'the data have changed since {workdir} was begun: {line}'
    if not allow:
        raise UserError(
            f'{line}. Restore them, or choose another --workdir; to continue all the same, with '
            'other epochs and another order from here on: --config.data.allow_changed=True.'
        )
    log.warning('%s; it continues, as config.data.allow_changed says.', line)


def _load(workdir: Path) -> Data | None:
    """Returns the content of FILE, or its copy in the newest checkpoint; None: unknown."""
    file = workdir / FILE
    if not file.exists():
        return None
    kept = load_record(workdir / 'checkpoints').get('data')
    try:
        return _parts(paths.parse_json(file.read_text()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        if kept:
            log.warning('%s is damaged: taking the copy in the checkpoint.', file)
            return _parts(kept)
        log.warning(
            '%s is damaged (%r): whether the data of the run have changed is not known.',
            file,
            error,
        )
        return None


def _parts(value: Any) -> Data:
    parts = ('train', 'eval', *(('validation',) if 'validation' in value else ()))
    return {part: dict(value[part]) for part in parts}


def _changes(before: Data, now: Data) -> str:
    """Returns the differences as 'train: 52 examples, now 60; ...', '' if there are none."""
    parts = []
    for part, fields in now.items():
        if (old := before.get(part)) is None:
            continue
        if old.get('examples') != fields['examples']:
            parts.append(f'{part}: {old.get("examples")} examples, now {fields["examples"]}')
        elif old.get('digest') != fields.get('digest'):
            parts.append(f'{part}: other names, sizes or labels of its {fields["examples"]} files')
        for name in ('version', 'split'):
            if old.get(name) != fields.get(name):
                parts.append(f'{part}: {name} {old.get(name)!r}, now {fields.get(name)!r}')
    return '; '.join(parts)
