"""Test data for PReLU networks: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

# Narrow, on images with last maps of 9x9 and 10x10 pixels, which the pyramid's bins do not divide.
NARROW = {'stem_width': 16, 'hidden': 48}
TASKS = (
    *(
        Task(f'restated:prelunet_{name}', 144, fields={'widths': (24, 32, width), **NARROW})
        for name, width in (('a', 32), ('b', 32), ('c', 40))
    ),
    Task('restated:prelunet_14', 128, fields={'widths': (24, 32), **NARROW}),
)
DEFAULT = ('prelunet_a', 'prelunet_14')
CSV = ('PReLU-nets',)
LISTED = {
    **{f'prelunet_{name}': f'prelunet_{name}' for name in 'abc'},
    'prelunet_14': 'prelunet_14 (small model E)',
}
UNLISTED = {}
