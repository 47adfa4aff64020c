"""Converts a run of a CondenseNet into its standard form, for inference.

  python -m cls.tools.condense --workdir runs/trained --output runs/converted
  python -m cls.main --job evaluate --workdir runs/converted

The newest checkpoint of the run is converted. Its condensing stages must be over; they end after
half of the training. The converted network gives the same logits with standard group convolutions.
The new folder has the run's config and, at step 0, its weights and their average, if it keeps one.
Training can continue from it, as from a folder made by cls.tools.import_weights.
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from cls import evaluate, models
from cls.cli import Parser, run
from cls.config import load as configs
from cls.config.runs import load_config
from cls.errors import UserError
from cls.models.condensenet import CondenseNet, condense
from cls.models.registry import abstract_variables
from cls.run.environment import start
from cls.run.workdir import load_classes
from cls.storage import paths
from cls.tools.import_weights import write

PROG = 'python -m cls.tools.condense'


def parser(prog: str = PROG) -> Parser:
    """Returns the parser of the flags."""
    flags = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    flags.add_argument('--workdir', required=True, type=paths.checked, help='the run folder')
    flags.add_argument('--output', required=True, type=paths.checked, help='the folder to make')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the folder; returns the exit code. Raises UserError if a run cannot be converted."""
    args = parser(prog).parse_args(argv)

    if args.output.exists() and any(args.output.iterdir()):
        raise UserError(f'{args.output} is not empty; choose another --output.')
    config = load_config(args.workdir)
    converted = converted_config(config)
    start()
    setup, state = evaluate.restore(config, args.workdir)
    state = jax.device_get(state)
    net: Any = setup.model.clone(converted=True)
    variables = converted_variables(net, state.variables())
    averages = converted_variables(net, state.ema) if state.ema else None
    write(converted, variables, args.output, averages, load_classes(args.workdir))
    before, after = (
        sum(x.size for x in jax.tree.leaves(params))
        for params in (state.params, variables['params'])
    )
    print(
        f'{args.output}: step {int(state.step)} of {args.workdir}, {before:,} parameters condensed '
        f'to {after:,}. Evaluate with\n'
        f'  python -m cls.main --job evaluate --workdir {args.output}'
    )
    return 0


def converted_config(config: ConfigDict) -> ConfigDict:
    """Returns the config of the same network in its converted form.

    Raises UserError if the network has no such form, or is converted already.
    """
    name = config.model.name if 'model' in config else 'an ensemble'
    if name == 'an ensemble' or models.variant(name).module is not CondenseNet:
        raise UserError(f'the run is of {name}: only a CondenseNet can be converted.')
    if configs.create_model(config, num_classes=1).converted:
        raise UserError(f'the run of {name} is in the converted form already.')
    return configs.from_json(configs.to_json(config), [('model.converted', 'true')])


def converted_variables(net: CondenseNet, variables: Any) -> Any:
    """Returns `condense(variables)` for a converted network.

    Raises UserError if the masks leave more inputs than the network has: stages are still to come.
    """
    variables = condense(variables)
    size = 2 ** len(net.stage_sizes)  # the smallest that can be pooled between all blocks
    channels = variables['params']['init_block.conv']['kernel'].shape[2]
    expected = abstract_variables(net, size, channels)
    shapes = [[x.shape for x in jax.tree.leaves(tree)] for tree in (variables, expected)]
    if shapes[0] != shapes[1]:
        raise UserError(
            'the condensing stages of the run are not over, they end after half of its duration; '
            'continue its training, then convert.'
        )
    return variables


if __name__ == '__main__':
    run(main)
