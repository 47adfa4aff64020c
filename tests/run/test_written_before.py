"""Run folders of an earlier version: a training and a search go on, and end as they ended there.

`written/training.tar.xz` and `written/search.tar.xz` are two finished run folders of version 0.1,
before fields of a config were renamed. They are written once and never again: a test takes away
the end of a run, and today's code recomputes it.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import table_of
from logs import logged

from cls.main import main

WRITTEN = Path(__file__).parent / 'written'
GENOTYPE = {'layers': ['C(8,3,1)', 'P(2,2)', 'FC(16)']}
TRAINING = (
    '--config=configs/metaqnn.py',
    '--config.duration=12 steps',
    '--config.log_every=2 steps',
    '--config.checkpoint.every=4 steps',
    '--config.schedule.warmup=0 steps',
    '--config.schedule.name=step',
    "--config.schedule.milestones=('6 steps', '10 steps')",
    '--config.schedule.gamma=0.5',
    '--config.optim.body_lr_mult=0.5',
    '--config.optim.bias_lr_mult=2.0',
    '--config.eval.size_divisor=16',
    '--config.ema=0.9',
    '--config.model.genotype=net.json',
)
SEARCH = (
    '--config=configs/search/amoebanet.py:macro',
    '--config.search.table=macro.csv',
    '--config.search.evaluations=60',
    '--config.search.max_concurrent=2',
    '--config.search.searcher.population=20',
    '--config.search.searcher.sample=5',
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a run folder is unpacked in, with the files that the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CLS_CACHE_DIR', str(tmp_path / 'cache'))
    return tmp_path


def unpacked(folder, name):
    with tarfile.open(WRITTEN / f'{name}.tar.xz') as archive:
        archive.extractall(folder / name, filter='data')
    return folder / name


def test_a_training_goes_on(folder):
    run = unpacked(folder, 'training')
    (folder / 'net.json').write_text(json.dumps(GENOTYPE))
    before, result = logged(run), json.loads((run / 'result.json').read_text())
    (run / 'result.json').unlink()
    shutil.rmtree(run / 'checkpoints' / '12')
    assert main([*TRAINING, f'--workdir={run}']) == 0
    after = logged(run)
    assert [event['step'] for event in after] == [event['step'] for event in before]
    # Training metrics were those of one step, and are means over the steps of an interval.
    for one, other in zip(after, before, strict=True):
        same = {k: v for k, v in other.items() if k == 'step' or not k.startswith('train/')}
        assert {name: one[name] for name in same} == pytest.approx(same, rel=1e-4)
    again = json.loads((run / 'result.json').read_text())
    metrics = [name for name in result if name.startswith('test')]
    assert len(metrics) >= 6
    assert [again[m] for m in metrics] == pytest.approx([result[m] for m in metrics], rel=1e-4)
    assert (run / 'checkpoints' / '12').is_dir()


def test_a_finished_training_is_not_begun_again(folder, capsys):
    run = unpacked(folder, 'training')
    (folder / 'net.json').write_text(json.dumps(GENOTYPE))
    before = (run / 'result.json').read_bytes(), (run / 'metrics.jsonl').read_bytes()
    assert main([*TRAINING, f'--workdir={run}']) == 0
    assert 'finished' in capsys.readouterr().out
    assert before == ((run / 'result.json').read_bytes(), (run / 'metrics.jsonl').read_bytes())


def test_a_training_is_evaluated(folder):
    run = unpacked(folder, 'training')
    recorded = json.loads((run / 'result.json').read_text())
    assert main(['--job=evaluate', f'--workdir={run}']) == 0
    evaluated = json.loads((run / 'evaluation.json').read_text())
    assert evaluated['test/top1'] == pytest.approx(recorded['test/top1'])


def test_a_search_goes_on(folder):
    run = unpacked(folder, 'search')
    table_of.write(folder / 'macro.csv')
    before = (run / 'history.jsonl').read_text()
    recorded = json.loads((run / 'result.json').read_text())
    (run / 'result.json').unlink()
    lines = before.splitlines(keepends=True)
    (run / 'history.jsonl').write_text(''.join(lines[: len(lines) // 2]))
    assert main([*SEARCH, f'--workdir={run}']) == 0
    assert (run / 'history.jsonl').read_text() == before
    result = json.loads((run / 'result.json').read_text())
    of_this_process = {'seconds', 'restarts'}
    assert {k: v for k, v in result.items() if k not in of_this_process} == {
        k: v for k, v in recorded.items() if k not in of_this_process
    }
