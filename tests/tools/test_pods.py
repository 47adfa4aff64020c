"""The slices of the table, their configs, and the table itself."""

import dataclasses
import json
import math
import re
import sys

import pytest

from cls.config import load as configs
from cls.config.load import ROOT
from cls.errors import UserError
from cls.tools import markdown
from cls.tools.compile_for import Report, main, to_json
from cls.tools.tpu import pods, slices
from cls.tools.tpu.costs import Memory
from cls.tools.tpu.slices import CHIPS, parse

FITS = {'chips': 8, 'batch': 256, 'pixels': 224, 'model_flops': 6e12, 'compile_seconds': 60.0}
REPORT = Report(
    **FITS,
    quick=False,
    fits=True,
    memory=Memory(3 * 2**30),
    flops=197e9,
    bytes_accessed=16.38e9,
    cycles=45e6,
)


@pytest.fixture(scope='module')
def everything():
    return pods.pods()


def test_every_config_with_imagenet_is_there(everything):
    for kind in pods.KINDS:
        found = {pod.config.partition(':')[0] for pod in everything if kind in pod.topology}
        assert found == {
            f'configs/{file.name}'
            for file in (ROOT / 'configs').glob('*.py')
            if re.search("imagenet(=|': )imagenet", file.read_text())
        }
    assert len({pod.key for pod in everything}) == len(everything)
    variants = [pod.config.partition('variant=')[2] for pod in everything]
    assert 'tf_efficientnet_b7' in variants
    assert 'resnet152_v1' in variants


def test_kept_results_are_the_rows(everything):
    """A result whose slice or fields have changed since would stay without being shown."""
    assert set(pods.load()) == {pod.key for pod in everything}


def test_batches_divide(everything):
    for pod in everything:
        fields = [field.split('=', 1) for field in (*pod.fields, *pod.made_to_fit)]
        config = configs.load(pod.config, fields)
        assert config.batch % (config.accumulate * parse(pod.topology).chips) == 0, pod.key


@pytest.mark.parametrize(
    ('batch', 'group', 'pixels', 'v5e', 'v5p'),
    [
        (256, 32, 224, '2x4', '2x2x2'),  # eight groups of images
        (256, 0, 224, '4x4', '2x2x4'),  # sixteen images on a chip
        (96, 0, 224, '2x2', '2x2x1'),
        (96, 0, 448, '4x4', '2x2x4'),  # six large images are enough, three are not
        (50, 25, 224, '2x2', '2x2x1'),  # no slice divides it, and training refuses it
    ],
)
def test_a_slice_of_a_suitable_size(batch, group, pixels, v5e, v5p):
    config = configs.load('configs/resnet.py:imagenet2012')
    config.batch, config.model.bn_group, config.data.image_size = batch, group, pixels
    assert pods.suited(config, 'v5e') == (v5e, ())
    assert pods.suited(config, 'v5p') == (v5p, ())
    for kind, shape in (('v5e', v5e), ('v5p', v5p)):
        assert shape in CHIPS[kind].shapes
        chips = math.prod(map(int, shape.split('x')))
        assert batch % chips or batch // chips >= pods.LEAST * (224 / pixels) ** 2


def test_each_chip_has_a_group_if_no_slice_has_whole_ones():
    config = configs.load('configs/inception_v3.py:imagenet2012')
    assert (config.batch, config.model.bn_group) == (1600, 32)
    assert pods.suited(config, 'v5e') == ('8x8', ('model.bn_group=25',))
    assert pods.suited(config, 'v5p') == ('4x4x4', ('model.bn_group=25',))


def test_rows():
    pod = pods.Pod('configs/resnet.py:imagenet2012', (), 'v5e:2x4', ('remat=block',))
    report = to_json(REPORT, CHIPS['v5e'])
    assert pods.row(pod, report) == [
        'resnet',
        'v5e:2x4',
        '256, 224',
        '`remat=block`',
        '3.0 of 15.8',
        '-',
        '20.0 / 30.0',
        'HBM',
        '12,800 / 8,533',
        '19 / 13',
    ]
    quick = to_json(dataclasses.replace(REPORT, quick=True, cycles=0.0), CHIPS['v5e'])
    assert pods.row(pod, quick)[6:] == ['20.0 / -', 'HBM', '12,800 / -', '19 / -']
    large = to_json(
        Report(**FITS, quick=False, fits=False, memory=Memory(20 * 2**30)), CHIPS['v5e']
    )
    found = pods.row(pod, large)
    assert found[4] == '20.0 of 15.8: does not fit'
    assert len(found) == len(pods.HEADER)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(pods, 'FILE', tmp_path / 'compiled.json')
    return tmp_path / 'compiled.json'


def test_kept_results_are_not_compiled_again(file, tmp_path, monkeypatch, capsys):
    """A program that records its runs replaces the compiler; the first of two runs fails."""
    log = tmp_path / 'log'
    code = (
        'import sys, pathlib\n'
        f'pathlib.Path({str(log)!r}).open("a").write(sys.argv[1] + "\\n")\n'
        'assert "v5e" not in sys.argv[1], "no memory"\n'
        f'print({json.dumps(to_json(REPORT, CHIPS["v5p"]))!r})\n'
    )
    monkeypatch.setattr(slices, 'check_libtpu', lambda: None)
    command = property(lambda pod: [sys.executable, '-c', code, pod.key])
    monkeypatch.setattr(pods.Pod, 'command', command)
    wanted = [pod.key for pod in pods.pods('vgg')]
    assert len(wanted) == 2
    assert main(['--all', 'vgg']) == 1
    assert 'failed after' in capsys.readouterr().out
    assert list(pods.load()) == wanted[1:]
    assert not pods.compile_all('vgg')  # only the failed one
    assert log.read_text().splitlines() == [*wanted, wanted[0]]


def test_quick_results_are_compiled_again(file, monkeypatch):
    (pod,) = [pod for pod in pods.pods('vgg') if 'v5p' in pod.topology]
    code = (
        'import json, sys\n'
        f'report = json.loads({json.dumps(to_json(REPORT, CHIPS["v5p"]))!r})\n'
        'print(json.dumps(report | {"quick": sys.argv[1:] == ["--quick"]}))\n'
    )
    monkeypatch.setattr(slices, 'check_libtpu', lambda: None)
    monkeypatch.setattr(pods, 'pods', lambda pattern: [pod])
    monkeypatch.setattr(pods.Pod, 'command', property(lambda pod: [sys.executable, '-c', code]))
    for quick, then in ((True, True), (False, False), (True, False)):
        assert pods.compile_all('vgg', quick)
        assert pods.load()[pod.key]['quick'] == then


def test_the_table_is_written_between_its_marks(file, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{pods.BEGIN}\nold\n{markdown.END}\nafter\n')
    (pod,) = [pod for pod in pods.pods('vgg') if 'v5e' in pod.topology]
    file.write_text(json.dumps({pod.key: to_json(REPORT, CHIPS['v5e'])}))
    assert main(['--write', str(page)]) == 0
    before, begin, header, line, row, end, after = page.read_text().splitlines()
    assert (before, begin, end, after) == ('before', pods.BEGIN, markdown.END, 'after')
    assert row.startswith('| vgg | v5e:')
    page.write_text('no marks')
    with pytest.raises(UserError, match='expected the marks'):
        pods.write(page)


def test_the_table_of_launch_is_that_of_the_results():
    page = ROOT / 'launch' / 'README.md'
    written = page.read_text().partition(pods.BEGIN)[2].partition(markdown.END)[0].strip()
    assert written == pods.table(pods.load()), (
        'run python -m cls.tools.compile_for --write launch/README.md'
    )


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{"a": {}}', '{"a": 3}'])
def test_damaged_results_are_one_line(file, tmp_path, text):
    page = tmp_path / 'page.md'
    page.write_text(f'{pods.BEGIN}\nold\n{markdown.END}\n')
    file.write_text(text)
    with pytest.raises(UserError, match='is damaged: restore it'):
        main(['--write', str(page)])
    file.write_text('{}')
    with pytest.raises(UserError, match='has no results'):
        main(['--write', str(page)])
    assert 'old' in page.read_text()


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--all', 'vgg', '--slices=4'], 'take no --topology, --slices'),
        (['--all', 'vgg', '--json'], 'and --json'),
        (['--write=absent.md'], 'no such file'),
        (['--all', 'vgg', '--write=absent.md'], 'no such file'),  # before anything is compiled
        (['--write=absent.md', '--quick'], 'expected no --quick'),
    ],
)
def test_flags_that_do_not_go_together(file, arguments, said):
    with pytest.raises(UserError, match=said):
        main(arguments)
