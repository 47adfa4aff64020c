"""Test data for Block-QNN: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

# Every type of layer with every kernel size; the sum reads unlike channels in the first block of a
# stage, including layer 0; no layer reads 7, 9 and 10.
EVERY = {
    'layers': (
        (1, 1, 1, 0, 0),
        (2, 1, 3, 1, 0),
        (3, 2, 3, 0, 0),
        (4, 3, 3, 2, 0),
        (5, 5, 0, 0, 4),
        (6, 6, 0, 3, 5),
        (7, 1, 5, 6, 0),
        (8, 4, 0, 2, 0),
        (9, 2, 1, 8, 0),
        (10, 3, 1, 5, 0),
        (11, 7, 0, 0, 0),
    )
}
TASKS = (
    Task('restated:block_qnn_random0_cifar', 32, fields={'filters': 16, 'stage_sizes': (2, 1)}),
    Task(
        'restated:block_qnn_random0_imagenet',
        32,
        fields={'genotype': EVERY, 'filters': 12, 'stage_sizes': (1, 2)},
    ),
)
DEFAULT = ('block_qnn_random0_cifar', 'block_qnn_random0_imagenet')
CSV = ('Block-QNN',)
LISTED = {}
_REASON = 'the published blocks are not available: figures only, no code'
UNLISTED = {
    'blockqnn_b / "BlockQNN" ImageNet': _REASON,
    'blockqnn_s (N=4,22 layers?)': _REASON,
    'blockqnn_s (39.8M, N=80..640)': _REASON,
}
