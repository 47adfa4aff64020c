"""python -m cls.tools.import_weights: the folder it makes, where it looks, what it refuses."""

import json

import cv2
import numpy as np
import pytest
from golden import keyed, rows
from safetensors.numpy import save_file

from cls import main, models, weights
from cls.errors import UserError
from cls.tools import import_weights
from cls.weights import hub

NAME = 'resnet20_cifar'
ROW = rows.read('resnet')[f'restated:{NAME}']
STATE = keyed.state_dict(ROW.tensors, ROW.gain)
CARD = {
    'architecture': 'resnet20',
    'num_classes': 10,
    'pretrained_cfg': {'mean': [0.5, 0.25, 0.5], 'std': [0.2, 0.2, 0.4], 'crop_pct': 0.95},
}


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A snapshot in a local cache of the Hub, as huggingface_hub lays it out; no network."""
    repository = tmp_path / 'cache' / 'models--timm--resnet20'
    folder = repository / 'snapshots' / 'abc'
    folder.mkdir(parents=True)
    (repository / 'refs').mkdir()
    (repository / 'refs' / 'main').write_text('abc')
    save_file(STATE, folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps(CARD))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    return folder


@pytest.fixture
def photographs(tmp_path):
    """A folder of 10 classes, with 2 images each to train on and 3 to evaluate on."""
    images = np.uint8(127 + 50 * keyed.images(50, 32))
    for i, image in enumerate(images):
        split = 'train' if i < 20 else 'test'
        folder = tmp_path / 'photographs' / split / f'class{i % 10}'
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:02}.png'), image[:, :, ::-1])
    return tmp_path / 'photographs', images[20:], np.arange(20, 50) % 10


def imported(source, workdir, *more):
    return import_weights.main(
        ['--model', NAME, '--from', str(source), '--workdir', str(workdir), *more]
    )


def test_imported_weights_are_evaluated_and_trained_on(snapshot, photographs, tmp_path, capsys):
    folder, images, labels = photographs
    workdir = tmp_path / 'run'
    assert imported('hf:timm/resnet20', workdir) == 0
    assert 'config.json' in capsys.readouterr().out
    data = f'--config.data.name=folder:{folder}'
    assert main.main(['--job', 'evaluate', '--workdir', str(workdir), data]) == 0
    (file,) = workdir.glob('evaluation-name=folder_*.json')  # not of the run's own data
    found = json.loads(file.read_text())

    mean, std = np.float32([127.5, 63.75, 127.5]), np.float32([51, 51, 102])
    variables = weights.from_torch(STATE, NAME)
    logits = models.create(NAME).apply(variables, (np.float32(images) - mean) / std)
    logits = np.float64(logits)
    chosen = np.log(np.exp(logits).sum(1)) - logits[np.arange(30), labels]
    assert found['test/top1'] == pytest.approx(100 * np.mean(logits.argmax(1) == labels))
    assert found['test/loss'] == pytest.approx(chosen.mean(), rel=1e-4)

    more = ['--config.duration=2 steps', '--config.batch=8', '--config.data.workers=0']
    assert main.main(['--workdir', str(workdir), data, *more]) == 0
    result = json.loads((workdir / 'result.json').read_text())
    assert result['step'] == 2
    assert result['test/loss'] != found['test/loss']


def test_where_a_checkpoint_is_found(snapshot, tmp_path):
    by_name = hub.locate('hf:timm/resnet20')
    assert by_name == hub.locate('hf:timm/resnet20@main')
    assert by_name.card == CARD
    assert hub.locate(str(snapshot)).file == snapshot / 'model.safetensors'
    alone = snapshot / 'model.safetensors'
    assert hub.locate(str(alone)) == hub.Located(alone, {})


def test_how_images_are_prepared():
    told = hub.preparation('timm:dpn68', CARD, 224)
    assert (told.mean, told.std, told.crop) == ((127.5, 63.75, 127.5), (51, 51, 102), 0.95)
    half = hub.preparation('torchvision:googlenet', {}, 224)
    assert half.mean == half.std == (127.5,) * 3
    imagenet = hub.preparation('torchvision:resnet50', {}, 224)
    assert imagenet.mean == pytest.approx((123.675, 116.28, 103.53))
    assert hub.preparation(NAME, {}, 32).crop == 1
    assert (told.interpolation, imagenet.interpolation) == ('bicubic', 'bilinear')
    assert hub.preparation('timm:res2next50', {}, 224).interpolation == 'bilinear'
    smooth = {'pretrained_cfg': CARD['pretrained_cfg'] | {'interpolation': 'bilinear'}}
    assert hub.preparation('timm:dpn68', smooth, 224).interpolation == 'bilinear'
    lite = hub.preparation('timm:tf_efficientnet_lite2', {}, 260)
    assert (lite.mean, lite.std, lite.crop) == ((127.0,) * 3, (128.0,) * 3, 0.89)
    assert hub.preparation('mobilenet_100_tf', {}, 224).mean == (127.5,) * 3
    dpn = hub.preparation('timm:dpn92', {}, 224)
    assert dpn.mean == pytest.approx((124, 117, 104))
    assert dpn.std == pytest.approx((59.8802,) * 3)


@pytest.mark.parametrize(
    ('source', 'pattern'),
    [
        ('nothing.pth', 'nothing.pth: no such file'),
        ('hf:timm/nothing', 'cannot be reached.*Copy the snapshot'),
        ('hf:a/b/c', 'hf:a/b/c: .*repo'),
        ('.', 'expected one of model.safetensors'),
    ],
)
def test_what_is_not_there_is_one_line(source, pattern, snapshot, tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    with pytest.raises(UserError, match=pattern) as caught:
        imported(source, tmp_path / 'run')
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'run').exists()


def test_weights_that_do_not_fit_leave_nothing(snapshot, tmp_path):
    changed = {**STATE, 'linear.weight': np.zeros((7, 64), np.float32)}
    save_file(changed, tmp_path / 'seven.safetensors')
    with pytest.raises(UserError, match=r'linear.weight is \(7, 64\)'):
        imported(tmp_path / 'seven.safetensors', tmp_path / 'run')
    del changed['linear.bias']
    changed['linear.bais'] = np.zeros(7, np.float32)
    save_file(changed, tmp_path / 'seven.safetensors')
    with pytest.raises(UserError, match=r'missing.*linear.bias.*unused.*linear.bais'):
        imported(tmp_path / 'seven.safetensors', tmp_path / 'run', '--config.model.num_classes=7')
    assert not (tmp_path / 'run').exists()
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'mine').write_text('')
    with pytest.raises(UserError, match='not empty'):
        imported(snapshot, tmp_path / 'run')


def test_another_head_by_override(tmp_path):
    changed = {
        **STATE,
        'linear.weight': STATE['linear.weight'][:7],
        'linear.bias': np.ones(7, 'f4'),
    }
    save_file(changed, tmp_path / 'seven.safetensors')
    workdir = tmp_path / 'run'
    assert imported(tmp_path / 'seven.safetensors', workdir, '--config.model.num_classes=7') == 0
    assert json.loads((workdir / 'config.json').read_text())['model']['num_classes'] == 7
    assert [path.name for path in (workdir / 'checkpoints').iterdir()] == ['0']


def test_weights_of_caffe_are_turned_to_rgb(tmp_path, monkeypatch):
    """The net then says of an RGB image what the net of the file says of it in BGR."""
    written = []
    monkeypatch.setattr(
        import_weights, 'write', lambda config, variables, *_, **__: written.append(variables)
    )
    save_file(STATE, tmp_path / 'net.safetensors')
    for flags in ((), ('--bgr',)):
        imported(tmp_path / 'net.safetensors', tmp_path / 'run', *flags)
    images = keyed.images(2, 32)
    net = models.create(NAME)
    bgr, rgb = net.apply(written[0], images[..., ::-1]), net.apply(written[1], images)
    np.testing.assert_allclose(bgr, rgb, rtol=1e-4, atol=1e-4)


def test_colours_are_not_turned_where_the_first_layer_is_not_clear():
    kernel = np.zeros((3, 3, 3, 8), np.float32)
    with pytest.raises(UserError, match='2 convolutions .* expected one'):
        import_weights.turn_colours({'a': {'kernel': kernel}, 'b': {'kernel': kernel}})
