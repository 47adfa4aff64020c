"""Turns a run of a CondenseNet into one of its converted form, for inference.

  python -m cls.tools.condense --workdir runs/trained --output runs/converted
  python -m cls.main --job evaluate --workdir runs/converted

The newest checkpoint of the run is taken; its condensing stages must be over, which they are after
half of the training. The converted net gives the same logits with standard group convolutions. The
new folder has the run's config and, at step 0, its weights and their average, if kept: it can be
trained on as one made by cls.tools.import_weights can.
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
    flags.add_argument('--workdir', required=True, type=paths.checked, help='the run')
    flags.add_argument('--output', required=True, type=paths.checked, help='the folder to make')
    return flags


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Writes the folder; returns the exit code. Raises UserError for what cannot be converted."""
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
    """Returns the config of the same net in its converted form.

    Raises UserError when the net has no such form, or is in it already.
    """
    name = config.model.name if 'model' in config else 'an ensemble'
    if name == 'an ensemble' or models.variant(name).module is not CondenseNet:
        raise UserError(f'the run is of {name}: only a CondenseNet has a form to convert to.')
    if configs.create_model(config, num_classes=1).converted:
        raise UserError(f'the run of {name} is in the converted form already.')
    return configs.from_json(configs.to_json(config), [('model.converted', 'true')])


def converted_variables(net: CondenseNet, variables: Any) -> Any:
    """Returns `condense(variables)` for a converted net.

    Raises UserError when the masks leave more than the net takes: some stages are still to come.
    """
    variables = condense(variables)
    size = 2 ** len(net.stage_sizes)  # the least that can be pooled between all blocks
    channels = variables['params']['init_block.conv']['kernel'].shape[2]
    expected = abstract_variables(net, size, channels)
    shapes = [[x.shape for x in jax.tree.leaves(tree)] for tree in (variables, expected)]
    if shapes[0] != shapes[1]:
        raise UserError(
            'the run has not come to the end of its condensing stages, half of its duration; '
            'train on, then convert.'
        )
    return variables


if __name__ == '__main__':
    run(main)
