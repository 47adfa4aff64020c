"""What tests know of ProxylessNAS beside what is registered; see zoo.py."""

from golden.task import Task

DEVICES = ('gpu', 'cpu', 'mobile', 'mobile14')
TASKS = tuple(Task(f'pytorchcv:proxylessnas_{device}') for device in DEVICES)
DEFAULT = ('proxyless_mobile',)
CSV = ('ProxylessNAS',)
LISTED = {f'proxyless_{device}': f'proxyless_{device}' for device in DEVICES}
UNLISTED = {}
