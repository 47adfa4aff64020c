"""Eight virtual CPU devices for every test, set before JAX starts; and --record.

  ./launch/test.sh -m sweep --record                       the variants that the default leaves out
  ./launch/test.sh tests/test_golden.py --record           the variants of the default
  ./launch/test.sh -m learn -n 0 --record                  every config on the digits, one by one

write their measurements to tests/results.json, the source of the table in cls/models/README.md: the
difference of each variant to its reference, the accuracy of each config on the digits.
"""

import datetime
import gc
import json
import os
import time
from pathlib import Path

os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)


import jax  # noqa: E402
import pytest  # noqa: E402
from compiling import FAST  # noqa: E402

from cls import cli  # noqa: E402
from cls.run import executables  # noqa: E402

RESULTS = Path(__file__).parent / 'results.json'
gc.set_threshold(200_000, 20, 20)  # traces have millions of small, permanent objects


def pytest_addoption(parser):
    parser.addoption('--record', action='store_true', help=f'write {RESULTS.name}')


class Recorder:
    """A pytest plugin that stores record_property('KIND/NAME', value) and the outcomes of tests.

    A run of some tests updates their values; the summary is only of whole sweeps.
    """

    def __init__(self, complete):
        self._complete, self._began = complete, time.time()
        self._outcomes, self._properties = {}, {}

    def pytest_runtest_logreport(self, report):
        if report.when == 'call' or report.outcome != 'passed':
            self._outcomes[report.nodeid] = report.outcome
        if report.when == 'call' and report.passed:
            self._properties.update(report.user_properties)

    def pytest_sessionfinish(self):
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for name, value in self._properties.items():
            kind, _, key = name.partition('/')
            found.setdefault(kind, {})[key] = value
        if self._complete:
            outcomes = list(self._outcomes.values())
            found['sweep'] = {
                'date': datetime.date.today().isoformat(),
                **{kind: outcomes.count(kind) for kind in ('passed', 'failed', 'skipped')},
                'minutes': round((time.time() - self._began) / 60),
            }
        RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + '\n')


def pytest_configure(config):
    cli.show_log()  # every program begins with it
    executables.enable = lambda files: None  # tests replace functions: no program may be kept
    if config.getoption('--record') and not hasattr(config, 'workerinput'):
        everything = config.option.markexpr == 'sweep'
        narrowed = config.option.keyword or config.args != config.getini('testpaths')
        config.pluginmanager.register(Recorder(everything and not narrowed))


@pytest.fixture(scope='module')
def quick_programs():
    """Programs that the code under test compiles ahead of time compile quickly.

    They run a few steps of a small network in such a module.
    """
    compiled = jax.stages.Lowered.compile

    def compile_quickly(lowered, compiler_options=None, **options):
        return compiled(lowered, compiler_options or FAST, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, 'compile', compile_quickly)
        yield
