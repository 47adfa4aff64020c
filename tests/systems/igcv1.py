"""Test data for IGCV1: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

SMALL = {'blocks': (2, 1, 1)}
# Logits average over all pixels; those of small images differ clearly.
TASKS = (
    Task('restated:igc_l4m32'),
    Task('restated:igc_l16m16'),
    Task('restated:igc_l100m2', size=32),
    Task('restated:igc_l24m2_d20_cifar', size=8, fields=SMALL),
    Task('restated:igc_l24m2_d38_cifar', size=8),
    Task('restated:igc_l24m2_d62_cifar', size=8, fields=SMALL),
    Task('restated:igc_l24m2_ident_d20_cifar', size=8),
    Task('restated:igc_l24m2_ident_d38_cifar', size=8, fields=SMALL),
    Task('restated:igc_l24m2_ident_d62_cifar', size=8, fields=SMALL),
    Task('restated:igc_l4m8_d38_cifar', size=8, fields=SMALL),
    Task('restated:igc_l32m26_ident_d20_cifar', size=8, fields=SMALL),
)
DEFAULT = ('igc_l100m2', 'igc_l24m2_d20_cifar')
CSV = ('IGCV1',)
LISTED = {
    'igc_l4m32': 'igc_l4m32_d18+ident',
    'igc_l16m16': 'igc_l16m16_d18+ident',
    'igc_l100m2': 'igc_l100m2_d18+ident',
    **{f'igc_l24m2_d{depth}_cifar': f'igc_l24m2_d{depth}' for depth in (20, 38, 62)},
    **{f'igc_l24m2_ident_d{depth}_cifar': f'igc_l24m2_ident_d{depth}' for depth in (20, 38, 62)},
    'igc_l4m8_d38_cifar': 'igc_l4m8_d38',
    'igc_l32m26_ident_d20_cifar': 'igc_l32m26_d20',
}
UNLISTED = {}
