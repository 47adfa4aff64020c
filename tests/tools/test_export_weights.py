"""The command that exports weights: its folder, refusals, and uploads to a stand-in of the Hub."""

import base64
import http.server
import json
import threading

import numpy as np
import pytest
from golden import check_exports
from safetensors.numpy import load_file, save_file

from cls import models
from cls.errors import UserError
from cls.tools import export_weights, import_weights
from cls.weights import export, targets

pytestmark = pytest.mark.usefixtures('quick_programs')

NAME, CLASSES = 'squeezenet1_1', ['ant', 'bee', 'cat']
CARD = {
    'architecture': 'squeezenet1_1',
    'num_classes': 3,
    'label_names': CLASSES,
    'license': 'cc-by-nc-4.0',
    'mean': [0.5, 0.25, 0.5],
    'std': [0.2, 0.2, 0.4],
    'input_size': [3, 96, 96],
    'crop_pct': 0.9,
    'interpolation': 'bicubic',
}


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """The run folder of an import."""
    folder = tmp_path_factory.mktemp('exports')
    variant, module = models.variant(NAME), models.create(NAME, num_classes=3)
    variables = check_exports.random_variables(module, 224)
    tensors = export.package_tensors(variables, module, variant, targets.of('torchvision', NAME))
    (folder / 'snapshot').mkdir()
    save_file(tensors, folder / 'snapshot' / 'model.safetensors')
    (folder / 'snapshot' / 'config.json').write_text(json.dumps(CARD))
    arguments = ['--from', str(folder / 'snapshot'), '--workdir', str(folder / 'run')]
    import_weights.main([*arguments, '--model', NAME])
    return folder / 'run'


def exported(workdir, output, *flags, format='torchvision'):
    arguments = ['--workdir', str(workdir), '--format', format, '--output', str(output)]
    return export_weights.main([*arguments, *flags])


def test_the_folder_has_the_weights_their_card_and_their_config(workdir, tmp_path, capsys):
    exported(workdir, tmp_path / 'out')
    before = load_file(workdir.parent / 'snapshot' / 'model.safetensors')
    after = load_file(tmp_path / 'out' / 'model.safetensors')
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, strict=True)
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert config['architecture'] == 'squeezenet1_1' and config['label_names'] == CLASSES
    fields = config['pretrained_cfg']
    for name in ('mean', 'std', 'input_size', 'crop_pct', 'interpolation', 'license'):
        assert fields[name] == pytest.approx(CARD[name], abs=1e-6), name
    readme = (tmp_path / 'out' / 'README.md').read_text()
    assert readme.startswith('---\n') and '\nlicense: cc-by-nc-4.0\n' in readme
    assert '(no commercial use)' in readme and 'Not trained further' in readme
    assert 'The weights are snapshot (sha256 ' in readme and str(workdir.parent) not in readme
    assert {path.name for path in tmp_path.iterdir()} == {'out'}
    assert 'License: cc-by-nc-4.0: no commercial use.' in capsys.readouterr().out


def test_an_import_of_the_folder_is_the_same_run(workdir, tmp_path):
    exported(workdir, tmp_path / 'out')
    import_weights.main(['--from', str(tmp_path / 'out'), '--workdir', str(tmp_path / 'run')])
    before, after = (
        json.loads((d / 'config.json').read_text()) for d in (workdir, tmp_path / 'run')
    )
    assert before == after
    assert json.loads((tmp_path / 'run' / 'classes.json').read_text()) == CLASSES
    assert json.loads((tmp_path / 'run' / 'weights.json').read_text())['license'] == CARD['license']
    exported(tmp_path / 'run', tmp_path / 'again')
    files = (tmp_path / name / 'model.safetensors' for name in ('out', 'again'))
    first, second = (file.read_bytes() for file in files)
    assert first == second


@pytest.mark.parametrize(
    ('flags', 'options', 'message'),
    [
        ((), {'format': 'timm'}, 'timm has no squeezenet1_1: expected one of its networks'),
        ((), {'format': 'keras'}, 'keras has no squeezenet1_1'),
        (('--license', 'mit'), {}, 'the weights came with cc-by-nc-4.0'),
        (('--weights', 'average'), {}, 'keeps no average'),
        (('--push', 'me/x'), {}, 'expected hf:OWNER/NAME'),
    ],
)
def test_refusals_leave_nothing(workdir, tmp_path, flags, options, message):
    with pytest.raises(UserError, match=message):
        exported(workdir, tmp_path / 'out', *flags, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('init', 'license', 'text'),
    [
        ('hf:timm/resnet50.fb_swsl_ig1b_ft_in1k', 'cc-by-nc-4.0', 'timm resnet50.fb_swsl'),
        ('/home/me/secret/resnet50.pth', '', 'from resnet50.pth.'),
        ('', '', 'Exported'),
    ],
)
def test_fine_tuned_weights_keep_the_license_of_their_start(
    tmp_path, monkeypatch, init, license, text
):
    monkeypatch.setattr(export_weights.runs, 'load_config', lambda _: {'init': init})
    sentences, kept = export_weights._origin(tmp_path, '')
    assert kept == license and text in sentences[0] and 'secret' not in ' '.join(sentences)


@pytest.mark.parametrize('place', ['resnet50', '/nowhere'])
def test_only_a_run_folder_is_taken(tmp_path, place):
    arguments = ['--from', place, '--format', 'safetensors', '--output', str(tmp_path / 'out')]
    with pytest.raises(UserError, match='is not a run folder'):
        export_weights.main(arguments)
    assert not list(tmp_path.iterdir())


def test_the_card_says_the_training(workdir):
    assert export_weights._training(workdir, f'{workdir}, step 0') == []
    config = export_weights.runs.load_config(workdir)
    (text,) = export_weights._training(workdir, f'{workdir}, step 1200')
    assert text.startswith(f'1,200 steps of {config.batch} images of {config.data.name}, by ')


def test_a_folder_with_content_is_kept(workdir, tmp_path):
    (tmp_path / 'notes').write_text('')
    with pytest.raises(UserError, match='is not empty'):
        exported(workdir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes']


def test_any_variant_has_the_names_of_its_reference(workdir, tmp_path):
    exported(workdir, tmp_path / 'out', format='safetensors')
    tensors = load_file(tmp_path / 'out' / 'model.safetensors')
    expected = targets.of('torchvision', NAME).tensors
    assert tensors.keys() == expected.keys()


class Hub(http.server.BaseHTTPRequestHandler):
    """The calls of an upload: create the repository, ask how to send the files, commit them."""

    def do_GET(self):
        self._answer({'sha': '0' * 40, 'siblings': [], 'id': 'me/birds'})

    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length'] or 0)).decode()
        if self.path.endswith('/repos/create'):
            self.server.created.append(json.loads(body))
            status = 409 if self.server.taken else 200
            self._answer({'url': f'{self.server.address}/me/birds', 'id': 'me/birds'}, status)
        elif '/preupload/' in self.path:
            files = json.loads(body)['files']
            modes = [
                {'path': f['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for f in files
            ]
            self._answer({'files': modes})
        elif '/commit/' in self.path:
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    content = base64.b64decode(line['value']['content'])
                    self.server.files[line['value']['path']] = content
            url = f'{self.server.address}/me/birds/commit/{"1" * 40}'
            self._answer({'commitUrl': url, 'commitOid': '1' * 40, 'success': True})
        elif self.path.endswith('/validate-yaml'):
            self._answer({'errors': [], 'warnings': []})
        else:
            self._answer({'error': self.path}, 404)

    def _answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def standin(monkeypatch):
    """A stand-in of the Hub on this machine."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.address = f'http://127.0.0.1:{server.server_port}'
    server.created, server.files, server.taken = [], {}, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for module in ('constants', 'hf_api'):
        monkeypatch.setattr(f'huggingface_hub.{module}.ENDPOINT', server.address, raising=False)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr(
        'huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE',
        server.address + '/{repo_id}/resolve/{revision}/{filename}',
    )
    monkeypatch.setenv('HF_TOKEN', 'hf_of_a_test')
    yield server
    server.shutdown()
    server.server_close()


def test_an_upload_has_all_files(workdir, tmp_path, standin, capsys):
    exported(workdir, tmp_path / 'out', '--push', 'hf:me/birds', '--private')
    assert standin.created[0]['name'] == 'birds' and standin.created[0]['visibility'] == 'private'
    for name in ('model.safetensors', 'config.json', 'README.md'):
        assert standin.files[name] == (tmp_path / 'out' / name).read_bytes()
    assert 'Uploaded to ' in capsys.readouterr().out


def test_a_refused_upload_names_the_folder(workdir, tmp_path, standin, monkeypatch):
    monkeypatch.setattr(Hub, 'do_POST', lambda self: self._answer({'error': 'no'}, 403))
    with pytest.raises(UserError, match='upload them with'):
        exported(workdir, tmp_path / 'out', '--push', 'hf:me/birds')
    assert (tmp_path / 'out' / 'model.safetensors').is_file() and not standin.files
