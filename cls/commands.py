"""The commands of `cls`, one row each, with the module that is imported on demand.

May import: nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
      module: has `main(argv, prog, **options)` and `parser(prog, **options)`.
      summary: one line of the list of commands.
      options: further arguments of both functions.
    """

    module: str
    summary: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


COMMANDS = {
    'train': Command('cls.main', 'train a model, or search for one', {'job': 'train'}),
    'evaluate': Command('cls.main', 'evaluate checkpoints', {'job': 'evaluate'}),
    'print': Command('cls.main', 'print the resolved config', {'job': 'print'}),
    'sweep': Command('cls.tools.sweep', 'train many runs: fields x seeds, or a search'),
    'compare': Command('cls.tools.compare', 'compare runs over their seeds'),
    'predict': Command('cls.tools.predict', 'predict the classes of images'),
    'explain': Command('cls.tools.explain', 'show the pixels that speak for a class'),
    'summary': Command('cls.tools.summary', 'describe a network, its weights and its recipes'),
    'draw': Command('cls.tools.draw', 'draw the genotype of a network or a search'),
    'models': Command('cls.tools.models', 'list the registered models'),
    'fields': Command('cls.tools.fields', 'list the fields of a training config'),
    'import': Command('cls.tools.import_weights', 'make a run folder from foreign weights'),
    'export-weights': Command('cls.tools.export_weights', 'write weights for timm, Keras ...'),
    'serve': Command('cls.tools.serve', 'answer over HTTP, with a page for images'),
    'prepare': Command('cls.tools.prepare', 'prepare data sets for training'),
    'benchmark': Command('cls.tools.benchmark', 'measure speed, and compare it'),
    'report': Command('cls.tools.report', 'write the HTML page of a run, of runs, of a sweep'),
    'robustness': Command('cls.tools.robustness', "evaluate on ImageNet's other test sets"),
    'export': Command('cls.tools.export', 'export a model for other programs'),
    'condense': Command('cls.tools.condense', 'convert a CondenseNet for inference'),
    'compile-for': Command('cls.tools.compile_for', 'compile a train step for TPUs'),
    'search-report': Command('cls.tools.search_report', 'compare searches'),
    'build-onednn': Command('cls.tools.onednn', 'speed up training on a CPU'),
    'completion': Command('cls.tools.completion', 'print the completion of a shell'),
}
