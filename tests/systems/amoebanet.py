"""Test data for AmoebaNet: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

# Small networks, on images of odd and even height, with odd and even numbers of channels.
SMALL = (
    ('a_n6_f190', 64, {'cells': 1, 'filters': 18}),
    ('a_n6_f448', 56, {'cells': 1, 'filters': 24}),
    ('a_n4_f50', 72, {'cells': 1, 'filters': 18}),
    ('b_n6_f190', 72, {'cells': 1, 'filters': 22}),
    ('b_n3_f62', 72, {'cells': 1, 'filters': 30}),
    ('c_n6_f228', 64, {'cells': 1, 'filters': 18}),
    ('c_n4_f50', 72, {'cells': 1, 'filters': 18}),
    ('d_n6_f256', 72, {'cells': 2, 'filters': 24}),
    ('a_n6_f32_cifar', 28, {'cells': 1, 'filters': 8, 'stem_filters': 24}),
    ('a_n6_f36_cifar', 32, {'cells': 1, 'filters': 18, 'stem_filters': 54}),
    ('b_n6_f36_cifar', 32, {'cells': 1, 'filters': 17, 'stem_filters': 51}),
    ('b_n6_f128_cifar', 20, {'cells': 1, 'filters': 16, 'stem_filters': 48}),
)
TASKS = tuple(
    Task(f'restated:amoebanet_{name}', size, fields={**fields, 'aux_head': False})
    for name, size, fields in SMALL
)
DEFAULT = ('amoebanet_a_n4_f50', 'amoebanet_b_n6_f36_cifar')
CSV = ('AmoebaNet',)
LISTED = {
    **{
        f'amoebanet_{name}': f'amoebanet_{name}'
        for name in ('a_n6_f190', 'a_n6_f448', 'b_n6_f190', 'c_n6_f228')
    },
    **{
        f'amoebanet_{name}': f'amoebanet_{name} (mobile)'
        for name in ('a_n4_f50', 'b_n3_f62', 'c_n4_f50')
    },
    'amoebanet_d_n6_f256': 'amoebanet_d_n6_f256 (TPU default)',
    **{
        f'amoebanet_{cell}_n6_f{f}_cifar': f'AmoebaNet-{cell.upper()} cifar (N=6,F={f}) stem{3 * f}'
        for cell, f in (('a', 32), ('a', 36), ('b', 36), ('b', 128))
    },
}
UNLISTED = {}
