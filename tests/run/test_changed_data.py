"""A run that continues on other data than it was begun on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cls import train
from cls.config import load as configs
from cls.config.runs import load_config
from cls.data import datasets
from cls.data.spec import DataSpec
from cls.distributed import agreement
from cls.errors import UserError
from cls.search import job

pytestmark = pytest.mark.usefixtures('quick_programs')

FIELDS = {
    'model.stage_sizes': '(1, 1, 1)',
    'model.widths': '(4, 4, 4)',
    'model.bn_group': '0',
    'data.mean': '(120.,)',
    'data.std': '(30.,)',
    'batch': '8',
    'duration': '2 epochs',
}


def write(file, value, side=8):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file)


@pytest.fixture
def images(tmp_path):
    for i in range(16):
        write(tmp_path / 'images' / 'train' / 'ab'[i % 2] / f'{i:02}.png', 10 * i)
    for i in range(4):
        write(tmp_path / 'images' / 'val' / 'ab'[i % 2] / f'{i:02}.png', 10 * i)
    return tmp_path / 'images'


@pytest.fixture
def run(tmp_path, images, monkeypatch):
    """Returns a function: fields -> a continuation without the training itself.

    The folder has a checkpoint after the first one.
    """
    monkeypatch.setattr(train, 'fit', lambda setup, *_: {'steps': setup.total_steps})

    def continued(**changed):
        overrides = FIELDS | {'data.name': f'folder:{images}'}
        overrides |= {name.replace('__', '.'): value for name, value in changed.items()}
        config = configs.load('configs/resnet.py', tuple(overrides.items()))
        result = train.job(config, tmp_path / 'run')
        (tmp_path / 'run' / 'checkpoints' / '2').mkdir(parents=True, exist_ok=True)
        return result

    assert continued() == {'steps': 4}
    return continued


def before(run, tmp_path):
    return {f.name: f.read_bytes() for f in (tmp_path / 'run').iterdir() if f.is_file()}


def add(images):
    for number in range(8):
        write(images / 'train' / 'a' / f'9{number}.png', number)


def rename(images):
    (images / 'train' / 'a' / '00.png').rename(images / 'train' / 'a' / 'zz.png')


def relabel(images):
    (images / 'train' / 'a' / '00.png').rename(images / 'train' / 'b' / '00.png')


def resize(images):
    write(images / 'train' / 'b' / '03.png', 7, side=40)


def shrink_evaluation(images):
    (images / 'val' / 'a' / '00.png').unlink()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (add, 'train: 16 examples, now 24'),
        (rename, 'train: other names, sizes or labels of its 16 files'),
        (relabel, 'train: other names, sizes or labels of its 16 files'),
        (resize, 'train: other names, sizes or labels of its 16 files'),
        (shrink_evaluation, 'eval: 4 examples, now 3'),
    ],
)
def test_it_is_refused_and_says_what_changed(run, images, tmp_path, change, message, caplog):
    assert run() == {'steps': 4}  # nothing has changed yet
    written = before(run, tmp_path)
    change(images)
    with pytest.raises(UserError, match=rf'{message}\. .*config.data.allow_changed=True') as raised:
        run()
    assert '\n' not in str(raised.value)
    assert before(run, tmp_path) == written
    assert run(data__allow_changed='true')['steps'] >= 4
    assert message in caplog.text
    assert run() == {'steps': 6 if change is add else 4}  # it now has the allowed data


def test_a_split_of_another_name_is_another(run, images):
    (images / 'val').rename(images / 'validation')
    with pytest.raises(UserError, match="eval: split 'val', now 'validation'"):
        run()


def test_run_folders_of_before_continue(run, images, tmp_path):
    (tmp_path / 'run' / 'data.json').unlink()
    add(images)
    assert run() == {'steps': 6}
    write(images / 'train' / 'b' / '98.png', 4)
    with pytest.raises(UserError, match='24 examples, now 25'):
        run()


@pytest.mark.parametrize('content', ['', '{', '[]', '{"train": 3, "eval": {}}', 'null'])
def test_a_damaged_record_does_not_stop_a_run(run, tmp_path, content, caplog):
    (tmp_path / 'run' / 'data.json').write_text(content)
    assert run() == {'steps': 4}
    assert 'data.json is damaged' in caplog.text
    assert json.loads((tmp_path / 'run' / 'data.json').read_text())['train']['examples'] == 16


def test_a_run_without_a_checkpoint_begins_with_what_is_there(run, images, tmp_path):
    shutil.rmtree(tmp_path / 'run' / 'checkpoints')
    add(images)
    assert run() == {'steps': 6}


def test_processes_that_see_other_files_do_not_train_together(run, monkeypatch):
    def gather(name, value):
        other = json.loads(json.dumps(value))
        if name == 'data everywhere':
            other['train']['examples'] = 15
        return [value, value, other]

    monkeypatch.setattr(agreement, 'gather', gather)
    with pytest.raises(UserError, match='process 2 reads other data .* train: 16 examples, now 15'):
        run()


def test_a_prepared_set_is_its_name_version_split_and_size():
    data = DataSpec('digits', train_split='train[:50%]')
    assert datasets.load(data, 'train').identity() == {
        'version': 'digits/1.0.0',
        'split': 'train[:50%]',
        'examples': 721,
    }


def test_a_run_from_before_eval_validation_goes_on_with_the_same_images(run, images, tmp_path):
    """The part that data.eval_fraction held out is the validation set; the test folder is new."""
    workdir = tmp_path / 'run'
    shutil.rmtree(workdir)
    (images / 'val').rename(images / 'test')
    run(eval__validation='0.25 by name')
    config = json.loads((workdir / 'config.json').read_text())
    config['data']['eval_fraction'] = 0.25
    del config['eval']['validation']
    (workdir / 'config.json').write_text(json.dumps(config))
    data = json.loads((workdir / 'data.json').read_text())
    assert [part['examples'] for part in data.values()] == [12, 4, 4]
    data['eval'] = data.pop('validation')
    (workdir / 'data.json').write_text(json.dumps(data))
    assert train.job(load_config(workdir), workdir) == {'steps': 3}
    with pytest.raises(UserError, match="'0.25 by name', now '0.25'"):
        run(eval__validation='0.25')
    (workdir / 'data.json').write_text(json.dumps(data))
    (images / 'train' / 'a' / '00.png').rename(images / 'train' / 'a' / 'zz.png')
    with pytest.raises(UserError, match='data have changed'):
        train.job(load_config(workdir), workdir)


def test_a_search_is_not_continued_on_other_data(images, tmp_path):
    """Trials of one history are to be compared."""
    config = configs.load('configs/search/amoebanet.py', [('proxy.data.name', f'folder:{images}')])
    with config.unlocked():
        config.proxy.data.train_split, config.proxy.data.eval_split = 'train', ''
    (tmp_path / 'run').mkdir()
    found = job._same_data(config, tmp_path / 'run')
    (tmp_path / 'run' / 'data.json').write_text(json.dumps(found))
    assert found['train']['examples'] == 16
    add(images)
    assert job._same_data(config, tmp_path / 'run')['train']['examples'] == 24  # not begun
    (tmp_path / 'run' / 'history.jsonl').write_text('{}\n')
    with pytest.raises(UserError, match='train: 16 examples, now 24'):
        job._same_data(config, tmp_path / 'run')
