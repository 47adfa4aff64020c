"""Block-QNN's search (Zhong et al. 2018, https://arxiv.org/abs/1708.05552): Q-learning of a block.

  python -m cls.main --config configs/search/block_qnn.py           small blocks on embedded digits
  python -m cls.main --config configs/search/block_qnn.py:paper     CIFAR-100, 178 x 64 blocks
  python -m cls.main --config configs/search/block_qnn.py:nasbench201 --config.search.table=FILE
  python -m cls.main --config configs/search/block_qnn.py:macro --config.search.table=FILE
  python -m cls.main --config configs/search/block_qnn.py:whole --config.search.table=FILE
                                                    NAS-Bench-201, 178 batches of 8

The paper's text is not available: numbers are from memory and from a public implementation
(elenathfgs/BlockQNN_Keras). Measured, whole: blocks sampled at epsilon 0.1 reach 82.3 % validation
accuracy (20 seeds; standard error 0.1); with --config.search.searcher.shaped=False 77.6 (0.8). With
up to 500 blocks the best is better than random search's by 0.08 on NAS-Bench-201 (100 seeds;
standard error 0.03) and by 0.08 on NAS-Bench-Macro (0.02).
"""

from ml_collections import ConfigDict

from cls.recipes import block_qnn
from cls.recipes.search import common
from cls.search import registry
from cls.search.searchers.q_learning import BLOCK_QNN, scaled


def get_config(argument: str = '') -> ConfigDict:
    """Returns the config of an arm: digits, paper, nasbench201, macro or whole."""
    return common.resolve(
        argument, digits=digits, paper=paper, nasbench201=nasbench201, macro=macro, whole=whole
    )


def use_searcher(c: ConfigDict, batch: int, **changed: object) -> None:
    """Shaped rewards; 64 of all blocks are replayed for each sampled one.

    Most blocks are new: the evaluations are limited to the blocks of the schedule.
    """
    c.search.searcher = registry.defaults(
        'searcher',
        'q_learning',
        **{'schedule': BLOCK_QNN, 'batch': batch, 'replay': 64, 'shaped': True, **changed},
    )
    batches = sum(count for _, count in c.search.searcher.schedule)
    c.search.evaluations = batches * batch


def digits(c: ConfigDict) -> None:
    """Blocks of up to 6 layers, two in a network, 5 epochs each: 15 batches of 4.

    The objective is the plain accuracy: the correction is for early-stopped training.
    """
    c.search.space = registry.defaults('space', 'block_qnn', layers=6)
    use_searcher(c, 4, schedule=scaled(BLOCK_QNN, 15))
    common.use_digits_proxy(c, block_qnn)
    c.proxy.model.filters = 16
    c.proxy.duration, c.proxy.schedule.warmup = '5 epochs', '1 epochs'


def paper(c: ConfigDict) -> None:
    """CIFAR-100: 12 epochs with Adam in batches of 256, 0.001 divided by 5 every 5 epochs.

    Four blocks in each of three stages, of 32, 64 and 128 filters; the last 5,000 images are for
    validation (chosen here). A training whose first epoch ends no better than chance restarts with
    0.4 times the rate, up to 5 times.
    """
    c.search.space = registry.defaults('space', 'block_qnn')
    use_searcher(c, 64)
    c.search.objective = registry.defaults('objective', 'early_stop')
    c.search.evaluator.restarts = 5
    c.search.max_concurrent = 32
    c.proxy = block_qnn.get_config('cifar100')
    c.proxy.model.filters = 32
    c.proxy.duration, c.proxy.batch = '12 epochs', 256
    c.proxy.optim.name, c.proxy.optim.lr, c.proxy.optim.weight_decay = 'adam', 1e-3, 0.0
    c.proxy.schedule.name, c.proxy.schedule.gamma = 'exponential', 0.2
    c.proxy.schedule.every, c.proxy.schedule.staircase = '5 epochs', True
    c.proxy.data.train_split, c.proxy.data.eval_split = 'train[:45000]', 'train[45000:]'


def nasbench201(c: ConfigDict) -> None:
    """62 batches of 8 blocks; initial values of 50, as the table is in percent."""
    common.use_nasbench201(c)
    use_searcher(c, 8, schedule=scaled(BLOCK_QNN, 62), initial=50.0)


def macro(c: ConfigDict) -> None:
    """The settings of NAS-Bench-201."""
    common.use_macro(c)
    use_searcher(c, 8, schedule=scaled(BLOCK_QNN, 62), initial=50.0)


def whole(c: ConfigDict) -> None:
    """NAS-Bench-201 with the whole schedule, 178 batches, of 8 blocks."""
    common.use_nasbench201(c)
    use_searcher(c, 8, initial=50.0)
