"""Measures the speed of networks, layers, the training loop and input pipelines.

  cls benchmark networks --torch PYTHON     training and inference steps, compared with PyTorch's
  cls benchmark loop --torch PYTHON         the training loop on small images, likewise
  cls benchmark predict PHOTOS              `cls predict`, compared with its parts and with timm
  cls benchmark serve PHOTOS                `cls serve`, compared with onnxruntime
  cls benchmark start                       time to the end of the first step
  cls benchmark seeds                       seeds trained together, compared with separate runs
  cls benchmark model NAME --batch N        the train step of a network, and the training loop
  cls benchmark layers                      convolutions and pools, compared with XLA's own
  cls benchmark augment                     augmentations, an image in batches of two sizes
  cls benchmark growth                      time and memory as the work grows
  cls benchmark weights --torch PYTHON      recognition and import of checkpoints, likewise
  cls benchmark input FOLDER                decoding and augmentation, compared with other libraries

cls benchmark TASK --help describes a task and its flags.
"""

import sys

from cls import huge_pages
from cls.cli import Parser, run
from cls.tools import (
    benchmark_augment,
    benchmark_growth,
    benchmark_input,
    benchmark_layers,
    benchmark_loop,
    benchmark_model,
    benchmark_networks,
    benchmark_predict,
    benchmark_record,
    benchmark_seeds,
    benchmark_serve,
    benchmark_start,
    benchmark_weights,
)

PROG = 'python -m cls.tools.benchmark'

TASKS = {
    'networks': benchmark_networks,
    'loop': benchmark_loop,
    'predict': benchmark_predict,
    'serve': benchmark_serve,
    'start': benchmark_start,
    'seeds': benchmark_seeds,
    'growth': benchmark_growth,
    'model': benchmark_model,
    'layers': benchmark_layers,
    'augment': benchmark_augment,
    'input': benchmark_input,
    'weights': benchmark_weights,
}


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__)
    tasks = flags.add_subparsers(dest='task', required=True, metavar='TASK')
    for name, module in TASKS.items():
        module.add_flags(tasks.add_parser(name, description=module.__doc__))
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Prints the measurements; returns the exit code."""
    args = parser(prog).parse_args(argv)
    task = 'gpu' if getattr(args, 'gpu', False) else args.task
    benchmark_record.check_targets(task, args)
    return TASKS[args.task].run_task(args)


if __name__ == '__main__':
    if sys.argv[1:2] == ['model']:
        huge_pages.restart()
    run(main)
