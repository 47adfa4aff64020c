"""The TPU slices to compile the ImageNet recipes for, and the table of the results.

Results are kept in launch/compiled.json, by config, slice and fields. An entry that is removed
there is compiled again.
"""

import dataclasses
import fnmatch
import functools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cls import ensemble
from cls.config import load as configs
from cls.config.files import RECIPES, ROOT
from cls.errors import UserError
from cls.run.telemetry import write_json
from cls.storage import paths
from cls.tools import markdown
from cls.tools.tpu import slices
from cls.tools.tpu.slices import CHIPS, GIB

FILE = ROOT / 'launch' / 'compiled.json'
BEGIN = '<!-- table of slices, by python -m cls.tools.compile_for --write launch/README.md -->'
KINDS = ('v5e', 'v5p')  # chips in the table

# With fewer images of 224 pixels (or as many pixels in other sizes), a chip is idle too often.
LEAST = 16

# More models of the papers, besides each config's own: argument, and fields of its docstring.
MORE = {
    'amoebanet': (('variant=amoebanet_a_n6_f448', ()),),
    'efficientnet': (
        ('variant=tf_efficientnet_b7', ('data.image_size=600', 'data.eval_resize=686')),
    ),
    'resnet': (('variant=resnet152_v1', ()),),
}

# Models that do not fit as `suited` chooses: (model, chip) -> (slice, fields besides the recipe's).
# If a chip has fewer images than a group of the recipe, these are the group. Xception's 1,920
# images are sixty groups of 32, and only four chips have whole groups. AmoebaNet's 469 million
# parameters are sharded over chips too.
OTHERWISE: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ('xception', 'v5e'): ('8x8', ('model.bn_group=30',)),
    ('dpn92', 'v5e'): ('4x4', ('model.bn_group=40',)),
    ('dpn92', 'v5p'): ('2x2x4', ('model.bn_group=40',)),
    ('inception_v4', 'v5e'): ('2x4', ('model.bn_group=40',)),
    ('inception_resnet_v2', 'v5e'): ('2x4', ('model.bn_group=40',)),
    ('nasnet_a_large', 'v5e'): ('8x8', ('model.bn_group=25',)),
    ('nasnet_a_large', 'v5p'): ('2x4x4', ('model.bn_group=25',)),
    ('pnasnet5_large', 'v5e'): ('8x8', ('model.bn_group=25',)),
    ('pnasnet5_large', 'v5p'): ('2x4x4', ('model.bn_group=25',)),
    ('amoebanet_a_n6_f190', 'v5e'): ('4x4', ('model.bn_group=16',)),
    ('amoebanet_a_n6_f448', 'v5e'): ('8x8', ('model.bn_group=4', 'mesh.fsdp=8')),
    ('tf_efficientnet_b7', 'v5e'): ('16x16', ('model.bn_group=16',)),
    ('tf_efficientnet_b7', 'v5p'): ('4x4x8', ('model.bn_group=32',)),
}


@dataclasses.dataclass(frozen=True)
class Pod:
    """A config, and the slice to compile it for."""

    config: str  # FILE.py:ARGUMENT
    fields: tuple[str, ...]  # of the recipe, as 'model.dtype=bfloat16'
    topology: str
    made_to_fit: tuple[str, ...] = ()  # fields besides the recipe's

    @property
    def key(self) -> str:
        """The key of the entry in launch/compiled.json."""
        return ' '.join((self.topology, self.config, *self.fields, *self.made_to_fit))

    @property
    def command(self) -> list[str]:
        """The command that compiles the config; --quick may be appended."""
        fields = [f'--config.{field}' for field in (*self.fields, *self.made_to_fit)]
        tool = [sys.executable, '-m', 'cls.tools.compile_for', '--json']
        return [*tool, '--topology', self.topology, '--config', self.config, *fields]


def pods(pattern: str = '*') -> list[Pod]:
    """Returns the rows of the table with a matching config, in the order of chip and config."""
    rows = []
    for kind in KINDS:
        for file in sorted(RECIPES.glob('*.py')):
            if fnmatch.fnmatchcase(file.stem, pattern):
                rows += _pods_of(file, kind)
    return rows


def _pods_of(file: Path, kind: str) -> list[Pod]:
    rows = []
    for argument, fields in (('', ()), *MORE.get(file.stem, ())):
        spec = f'configs/{file.name}:imagenet2012' + (argument and f',{argument}')
        config = imagenet(spec, fields)
        if config is None:
            return []
        name, fit = OTHERWISE.get((config.model.name, kind)) or suited(config, kind)
        rows.append(Pod(spec, fields, f'{kind}:{name}', fit))
    return rows


@functools.cache
def imagenet(spec: str, fields: tuple[str, ...] = ()) -> ConfigDict | None:
    """Returns a config; None for a file without an ImageNet preset, or for an ensemble."""
    try:
        config = configs.load(
            spec, [(name, text) for name, _, text in (f.partition('=') for f in fields)]
        )
    except UserError:
        return None
    return None if ensemble.is_ensemble(config) else config


def suited(config: ConfigDict, kind: str) -> tuple[str, tuple[str, ...]]:
    """Returns the largest slice of a chip that a config's batch keeps busy, and fields for it.

    Each chip has at least LEAST images, and if possible whole groups of batch normalization. If no
    slice has whole groups (1,600 images in groups of 32 are fifty groups), the images of each chip
    are one group: normalization across chips would send all activations.
    """
    least = LEAST * (224 / config.data.image_size) ** 2
    together = config.batch // config.accumulate
    group = config.model.get('bn_group', 0) or 1
    for images in (group, 1):
        for name in reversed(CHIPS[kind].shapes):
            chips = math.prod(map(int, name.split('x')))
            if together % (chips * images) == 0 and together // chips >= least:
                whole_groups = images == group
                return name, () if whole_groups else (f'model.bn_group={together // chips}',)
    return CHIPS[kind].shapes[0], ()


# --------------------------------------------------------------------------------------- compiling


def compile_all(pattern: str, quick: bool = False) -> bool:
    """Compiles each config that FILE lacks in a separate process, and adds its result to FILE.

    Unless `quick`, results that were compiled with little effort are compiled again.

    Returns whether all could be compiled; a program that does not fit counts as compiled.

    Raises UserError if no config matches the pattern, or libtpu is not installed.
    """
    slices.check_libtpu()
    wanted = pods(pattern)
    if not wanted:
        raise UserError(f'no config with ImageNet matches {pattern!r}, as resnet or *net*.')
    complete = True
    for number, pod in enumerate(wanted, 1):
        results = load()
        if pod.key in results and (quick or not results[pod.key]['quick']):
            continue
        print(f'{number} of {len(wanted)}: {pod.key}', flush=True)
        begin = time.perf_counter()
        command = [*pod.command, '--quick'] if quick else pod.command
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        seconds = time.perf_counter() - begin
        if ran.returncode:
            lines = ran.stderr.strip().splitlines() or ['no message']
            print(f'  failed after {seconds:.0f} s: {lines[-1]}', flush=True)
            complete = False
            continue
        report = json.loads(ran.stdout.splitlines()[-1])
        write_json(FILE, load() | {pod.key: report})
        print(f'  {"fits" if report["fits"] else "DOES NOT FIT"}, {seconds:.0f} s', flush=True)
    return complete


def load() -> dict[str, Any]:
    """Returns the kept results, by key. Raises UserError for a damaged file."""
    if not FILE.exists():
        return {}
    try:
        kept = paths.parse_json(FILE.read_text())
        if all('memory' in report and 'quick' in report for report in kept.values()):
            return kept
    except (ValueError, AttributeError, TypeError):
        pass
    raise UserError(
        f'{FILE} is damaged: restore it, as from git, or delete it to compile all again.'
    )


# --------------------------------------------------------------------------------------- the table

HEADER = (
    'config',
    'slice',
    'batch, pixels',
    'with',
    'memory of a chip, GiB',
    'collectives, MB',
    'step, ms: bound / estimate',
    'bound by',
    'images/s, at most / estimate',
    'MFU, %',
)


def write(file: Path) -> None:
    """Renews the table in a file.

    Raises UserError if the file lacks the marks, and without kept results.
    """
    kept = load()
    if not kept:
        raise UserError(f'{FILE} has no results: compile them with --all.')
    markdown.renew(file, BEGIN, table(kept))


def table(known: dict[str, Any]) -> str:
    """Returns the table of the results in Markdown."""
    rows = [row(pod, known[pod.key]) for pod in pods() if pod.key in known]
    return markdown.table([HEADER, *rows])


def row(pod: Pod, report: dict[str, Any]) -> list[str]:
    """Returns the cells of a result."""
    name = pod.config.removeprefix('configs/').replace('.py:imagenet2012', '').split(',variant=')
    memory = f'{report["memory"]["needed"] / GIB:.1f} of {report["memory_of_chip"] / GIB:.1f}'
    cells = [
        name[-1],
        pod.topology,
        f'{report["batch"]:,}, {report["pixels"]}',
        ', '.join(f'`{field}`' for field in pod.made_to_fit) or '-',
        memory,
    ]
    if not report['fits']:
        return [*cells[:-1], f'{memory}: does not fit', *'-----']
    sent = ', '.join(f'{k} {v["bytes"] / 1e6:,.0f}' for k, v in report['collectives'].items())
    limit, expected = max(report['bounds'].values()), report.get('seconds_estimate')
    return [
        *cells,
        sent or '-',
        f'{1000 * limit:.1f} / {f"{1000 * expected:.1f}" if expected else "-"}',
        'HBM' if report['bound_by'] == 'memory' else report['bound_by'],
        _pair(report, 'images_per_second', ',.0f', 1),
        _pair(report, 'mfu', '.0f', 100),
    ]


def _pair(report: dict[str, Any], name: str, form: str, unit: float) -> str:
    values = [report.get(f'{name}_{kind}') for kind in ('bound', 'estimate')]
    return ' / '.join('-' if value is None else f'{unit * value:{form}}' for value in values)
