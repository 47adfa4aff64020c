"""Test data for ProxylessNAS: golden tasks, default variants and listed rows; see zoo.py."""

from golden.task import Task

DEVICES = ('gpu', 'cpu', 'mobile', 'mobile14')
TASKS = tuple(Task(f'pytorchcv:proxylessnas_{device}') for device in DEVICES)
DEFAULT = ('proxyless_mobile',)
CSV = ('ProxylessNAS',)
LISTED = {f'proxyless_{device}': f'proxyless_{device}' for device in DEVICES}
UNLISTED = {}
