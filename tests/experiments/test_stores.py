"""Reports and comparisons of runs and sweeps in an object store."""

import json
import shutil

import numpy as np
import pytest
import reported
from stores import cache, s3_bucket, s3_server
from test_report import written
from test_runs import write_run, write_sweep

from cls.storage import paths
from cls.tools import compare

pytestmark = pytest.mark.sweep
__all__ = ['cache', 's3_bucket', 's3_server']  # fixtures


def upload(folder, to):
    for file in folder.rglob('*'):
        if file.is_file():
            paths.upload(file, to / str(file.relative_to(folder)))


def test_the_report_of_a_run_in_a_store_is_that_of_a_folder(s3_bucket, tmp_path):
    run = reported.write(tmp_path)
    upload(run, s3_bucket / 'run')
    local = written(run, output=tmp_path / 'page.html')
    page = written(f'{s3_bucket}/run', output=s3_bucket / 'page.html')
    assert (page.rows, page.sources) == (local.rows, local.sources)
    # The evaluation is in the store too, for the next report.
    for name in ('evaluation.json', 'evaluation-confusion.npz'):
        assert (s3_bucket / 'run' / name).exists()
    folders = run, s3_bucket / 'run'
    values = [json.loads((each / 'evaluation.json').read_text()) for each in folders]
    assert values[0] == values[1]
    (run.parent / 'data').rename(tmp_path / 'moved')
    again = written(f'{s3_bucket}/run', output=tmp_path / 'again.html')
    assert again.rows[:10] == local.rows[:10]
    assert 'From evaluation.json of the run folder.' in again.text


def test_a_sweep_in_a_store_is_compared_and_reported(s3_bucket, tmp_path, capsys):
    trials = {}
    for seed, top1 in ((0, 91.0), (1, 92.0), (2, 96.0)):
        write_run(tmp_path / 'sweep' / f'seed={seed}', top1, [('seed', str(seed))])
        trials[f'seed={seed}'] = {'seed': str(seed)}
    write_sweep(tmp_path / 'sweep', trials)
    upload(tmp_path / 'sweep', s3_bucket / 'sweep')
    shutil.rmtree(tmp_path / 'sweep')
    outputs = [f'--{kind}={s3_bucket}/all.{kind}' for kind in ('csv', 'png', 'html')]
    assert compare.main([f'{s3_bucket}/sweep', *outputs]) == 0
    deviation = np.std([91, 92, 96], ddof=1)
    assert f'93.00 ± {deviation:.2f} (3 seeds)' in capsys.readouterr().out
    assert len((s3_bucket / 'all.csv').read_text().splitlines()) == 4
    page = written(f'{s3_bucket}/sweep', output=s3_bucket / 'page.html')
    assert f'93.00 ± {deviation:.2f} (3 seeds)' in page.text
