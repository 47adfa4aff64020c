"""The preset finetune: the fields that follow from the images of a folder and from the weights."""

import json
import shutil

import jax
import numpy as np
import pytest
from arms import ARMS, FILES, members, photographs
from compiling import FAST
from golden import keyed, rows
from safetensors.numpy import save_file

from cls import main, models
from cls.config import load as configs
from cls.config import presets
from cls.errors import UserError
from cls.setup import set_up
from cls.steps import sharding

RESNET = 'configs/resnet.py'
SMALL = (('model.stage_sizes', '(1, 1, 1)'),)  # of resnet20_cifar's blocks one of each stage


def spec(folder=None, variant='resnet20_cifar', file=RESNET):
    return f'{file}:finetune,folder={folder or photographs()},variant={variant}'


@pytest.fixture
def snapshot(tmp_path):
    """Weights of ten classes, and a card that says how their images are prepared."""
    folder = tmp_path / 'snapshot'
    folder.mkdir()
    row = rows.read('resnet')['restated:resnet20_cifar']
    state = keyed.state_dict(row.tensors, row.gain)
    kept = {k: v for k, v in state.items() if not (k[:5] == 'layer' and k[6:9] in ('.1.', '.2.'))}
    save_file(kept, folder / 'model.safetensors')
    card = {
        'mean': [0.5, 0.4, 0.3],
        'std': [0.2, 0.2, 0.1],
        'crop_pct': 0.8,
        'interpolation': 'bicubic',
        'input_size': [3, 32, 32],
    }
    (folder / 'config.json').write_text(json.dumps({'pretrained_cfg': card}))
    return folder


# ------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ('images', 'classes', 'batch', 'steps', 'body_lr_mult'),
    [
        (3, 2, 2, 100, 0.01),
        (10, 2, 8, 100, 0.01),
        (52, 3, 16, 100, 0.01),
        (600, 10, 64, 100, 0.03),
        (1_000, 100, 64, 500, 0.05),  # five for each class
        (10_000, 10, 64, 1_600, 0.1),  # ten epochs: 1,562.5, to two digits
        (1_281_167, 1_000, 64, 20_000, 0.1),
    ],
)
def test_batch_steps_and_the_rate_of_the_body_follow_from_the_images(
    images, classes, batch, steps, body_lr_mult
):
    assert presets.batch(images) == batch
    assert presets.steps(images, classes, batch) == steps
    assert presets.body_lr_mult(images) == body_lr_mult


@pytest.mark.parametrize('file', FILES)
def test_every_config_of_nets_of_64_pixels_or_more_has_the_preset(file):
    arms = [arm.partition(':')[2] for arm in ARMS if arm.startswith(f'{file}:')]
    sizes = {
        models.variant(part.model.name).input_size
        for arm in arms
        for part in members(configs.load(f'{file}:{arm}'))
    }
    assert (max(sizes) >= 64) == any(arm.startswith('finetune') for arm in arms)


@pytest.mark.parametrize('arm', [arm for arm in ARMS if ':finetune' in arm])
def test_a_recipe_for_two_dozen_images(arm):
    """24 images of 3 classes: 3 batches an epoch, images of the variant's own size."""
    for config in members(configs.load(arm)):
        assert (config.batch, config.duration, config.ema) == (8, '100 steps', 0.9)
        assert config.data.image_size == models.variant(config.model.name).input_size
        assert config.data.eval_resize >= config.data.image_size
        assert config.model.get('bn_group', 0) == 0
        assert 'num_classes' not in config.model
        assert config.augment.policy == '' and config.model.dtype == 'float32'


def test_given_fields_stay_and_the_others_follow_from_them():
    config = configs.load(spec(), [('batch', '4'), ('data.image_size', '64'), ('ema', '0.5')])
    assert (config.batch, config.data.image_size, config.ema) == (4, 64, 0.5)
    assert config.data.eval_resize == 64
    longer = configs.load(spec(), [('duration', '100 epochs')])  # of 3 steps
    assert longer.ema == pytest.approx(1 - 10 / 300, abs=1e-4)


def test_a_folder_without_images_to_evaluate_on_has_a_fifth_held_out(tmp_path):
    flat = tmp_path / 'flat'
    shutil.copytree(photographs() / 'train', flat)
    config = configs.load(spec(flat))
    assert config.eval.validation == '0.2'
    setup = set_up(config, jax.devices()[:1])
    assert (setup.info.num_train, setup.info.num_eval) == (18, 6)  # of 8 images 2 of each class
    assert config.batch == 8
    (line, scratch) = presets.describe(config, 18, 3)
    assert '18 training images of 3 classes; 20% of each class held out' in line
    assert 'from scratch' in scratch
    kept = configs.load(spec(flat), [('eval.validation', '0.5')])
    assert kept.eval.validation == '0.5'


@pytest.mark.parametrize('missing', ['nowhere', 'empty'])
def test_a_folder_that_is_none_is_one_line(tmp_path, missing):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match=missing):
        configs.load(spec(tmp_path / missing))


def test_a_class_of_one_image_cannot_be_divided_and_broken_splits_are_told_as_they_are(tmp_path):
    shutil.copytree(photographs() / 'train', tmp_path / 'flat')
    for index in range(1, 8):
        (tmp_path / 'flat' / 'dog' / f'{index}.png').unlink()
    with pytest.raises(UserError, match='dog has one image'):
        configs.load(spec(tmp_path / 'flat'))
    shutil.copytree(photographs(), tmp_path / 'split')
    (tmp_path / 'split' / 'val' / 'dog').rename(tmp_path / 'split' / 'val' / 'wolf')
    with pytest.raises(UserError, match='wolf'):
        configs.load(spec(tmp_path / 'split'))


def test_other_data_have_the_same_recipe(tmp_path):
    """A table of the images of a folder; its path may have the options of an arm in it."""
    rows = [
        f'{file.relative_to(photographs())},{file.parent.name},{file.parts[-3]}\n'
        for file in sorted(photographs().rglob('*.png'))
    ]
    for image in rows:
        file = tmp_path / image.partition(',')[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(photographs() / image.partition(',')[0])
    (tmp_path / 'list.csv').write_text('image,label,split\n' + ''.join(rows))
    place = f'csv:{tmp_path}/list.csv'
    table = configs.load(f'{RESNET}:finetune,data={place},variant=resnet20_cifar')
    folder = configs.load(spec())
    assert table.data.name == place
    folder.unlock()
    folder.data.name = place
    assert configs.to_json(table) == configs.to_json(folder)
    assert configs.load(f'{RESNET}:data={place}').data.name == place
    for wrong in (f'folder=x,data={place}', 'finetune,data='):
        with pytest.raises(UserError, match='take folder=DIR or data=csv:FILE'):
            configs.load(f'{RESNET}:{wrong}')


def test_the_preset_is_of_folders():
    with pytest.raises(UserError, match=r'finetune,folder=DIR'):
        configs.load(RESNET, [('preset', 'finetune')])
    with pytest.raises(UserError, match=r'finetune,folder=DIR'):
        configs.load(f'{RESNET}:finetune')


# --------------------------------------------------------------------------------- the weights


def test_images_are_prepared_as_the_weights_card_says(snapshot):
    config = configs.load(spec(), [*SMALL, ('init', str(snapshot))])
    np.testing.assert_allclose(config.data.mean, (127.5, 102, 76.5))
    np.testing.assert_allclose(config.data.std, (51, 51, 25.5))
    assert (config.data.image_size, config.data.eval_resize) == (32, 40)
    assert config.data.interpolation == 'bicubic'
    assert (config.optim.body_lr_mult, config.freeze_bn) == (0.01, '0 steps')
    larger = configs.load(
        spec(), [*SMALL, ('init', str(snapshot)), ('data.image_size', '64'), ('data.std', '9')]
    )
    assert (larger.data.eval_resize, larger.data.std) == (80, (9.0,))


def test_without_weights_the_body_has_the_full_rate_and_norms_their_batches():
    config = configs.load(spec())
    assert (config.optim.body_lr_mult, config.freeze_bn) == (1.0, '')
    assert config.optim.lr == 0.001


def test_norms_stay_only_where_there_are_some(tmp_path):
    """VGG has none; config.freeze_bn would be refused."""
    state = tmp_path / 'net.safetensors'
    save_file({'x': np.zeros(1, np.float32)}, state)
    for variant, expected in (('vgg11', ''), ('vgg11_bn', '0 steps')):
        config = configs.load(spec(variant=variant, file='configs/vgg.py'), [('init', str(state))])
        assert config.freeze_bn == expected


def test_a_run_hands_on_how_it_prepares_images(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    before = configs.load(spec(), [('data.mean', '(1,2,3)'), ('data.image_size', '48')])
    (run / 'config.json').write_text(configs.to_json(before))
    (run / 'environment.json').write_text('{}')
    config = configs.load(spec(), [('init', str(run))])
    assert (config.data.mean, config.data.image_size) == ((1.0, 2.0, 3.0), 48)
    (run / 'config.json').write_text('{')
    with pytest.raises(UserError, match='not a run folder'):
        configs.load(spec(), [('init', str(run))])


# ----------------------------------------------------------------------------------- the run


@pytest.fixture
def quick(monkeypatch):
    """One device, and programs that compile quickly."""
    make_mesh, compiled = sharding.make_mesh, jax.stages.Lowered.compile
    monkeypatch.setattr(
        sharding, 'make_mesh', lambda fsdp, _=None: make_mesh(fsdp, jax.devices()[:1])
    )
    monkeypatch.setattr(jax.stages.Lowered, 'compile', lambda lowered, **_: compiled(lowered, FAST))


def test_a_run_that_continues_counts_nothing(tmp_path, snapshot):
    folder = tmp_path / 'photographs'
    shutil.copytree(photographs(), folder)
    fields = [*SMALL, ('init', str(snapshot))]
    begun = configs.load(spec(folder), fields)
    for index in range(40):
        shutil.copy(folder / 'train' / 'dog' / '0.png', folder / 'train' / 'dog' / f'n{index}.png')
    shutil.rmtree(snapshot)
    again = configs.load(spec(folder), fields, begun)
    assert configs.to_json(again) == configs.to_json(begun)
    assert configs.load(spec(folder), [('batch', '3'), *fields], begun).batch == 3
    assert configs.load(spec(folder), fields).batch == 16  # of a third of 64


def test_the_command_says_what_it_chose_and_writes_plain_values(tmp_path, capfd, quick):
    run = tmp_path / 'run'
    command = ['--config', spec(), '--workdir', str(run), '--config.data.image_size=16']
    command += ['--config.model.stage_sizes=(1, 1, 1)', '--config.duration=2 steps']
    assert main.main(command) == 0
    printed = capfd.readouterr().out
    assert 'finetune: 24 training images of 3 classes; batch 8; 2 steps (0.667 epochs)' in printed
    assert 'config.init is not given, so that all is trained from scratch' in printed
    saved = json.loads((run / 'config.json').read_text())
    assert (saved['batch'], saved['duration']) == (8, '2 steps')
    assert main.main(command) == 0  # there is a result, and nothing to train
    assert main.main(['--workdir', str(run)]) == 0


def test_one_class_is_not_trained_on(tmp_path):
    """As where the folder of the classes is within the folder that is given."""
    shutil.copytree(photographs(), tmp_path / 'outer' / 'photographs')
    config = configs.load(spec(tmp_path / 'outer'))
    with pytest.raises(UserError, match=r"one class, 'photographs': .*give that folder"):
        set_up(config, jax.devices()[:1])


def test_a_recipe_of_more_images_than_there_are_is_refused_with_the_arm_to_take():
    config = configs.load(f'configs/efficientnet.py:folder={photographs()}')
    with pytest.raises(UserError) as caught:
        set_up(config, jax.devices()[:1])
    # Of the 24 images one of each class is held out for validation.
    assert '4096' in str(caught.value) and '21 training images' in str(caught.value)
    assert f':finetune,folder={photographs()}' in str(caught.value)


def test_a_recipe_of_nearly_as_many_is_warned_of():
    config = configs.load(f'configs/resnet.py:folder={photographs()}', [('batch', '8')])
    (line,) = presets.describe(config, 24, 3)
    assert 'warning' in line and f':finetune,folder={photographs()}' in line
    assert not presets.describe(config, 80, 3)
    assert not presets.describe(configs.load(RESNET), 100, 10)  # the digits
