"""The contributor's frame: citation, changelog, hooks, workflow and templates are valid."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import cls

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def load(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_is_complete_and_of_this_version():
    citation = load('CITATION.cff')
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()  # the required fields
    assert citation['cff-version'] == '1.2.0'
    assert citation['type'] == 'software'
    assert (citation['version'], citation['license']) == (cls.__version__, PROJECT['license'])
    assert all(author.get('name') or author.get('family-names') for author in citation['authors'])


def test_the_changelog_has_known_sections_of_versions_in_order():
    text = (ROOT / 'CHANGELOG.md').read_text()
    versions = re.findall(r'^## (.+)$', text, re.M)
    assert versions[0] == '[Unreleased]'
    assert all(re.fullmatch(r'\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d', v) for v in versions[1:])
    sections = set(re.findall(r'^### (.+)$', text, re.M))
    assert sections <= {'Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'}


def test_hooks_run_offline_and_their_programs_exist():
    (repo,) = load('.pre-commit-config.yaml')['repos']
    assert repo['repo'] == 'local'
    for hook in repo['hooks']:
        assert hook['language'] == 'system'
        program, *arguments = hook['entry'].split()
        assert program.startswith('.venv/bin/')
        assert shutil.which(Path(program).name, path=Path(sys.executable).parent)
        assert all((ROOT / a).is_file() for a in arguments if a.startswith('tests/'))


def test_the_workflow_runs_what_runs_here_on_three_releases_of_jax():
    workflow = load('.github/workflows/ci.yml')
    job = workflow['jobs']['test']
    assert job['steps'][-1]['run'] == 'bash .ci/run'
    assert (ROOT / '.ci/run').stat().st_mode & 0o100
    legs = [(leg['python'], leg['jax']) for leg in job['strategy']['matrix']['include']]
    assert [jax for _, jax in legs] == ['0.10', '0.11', '0.12']
    assert f'>={legs[0][0]}' == PROJECT['requires-python']
    assert workflow['permissions'] == {'contents': 'read'}


@pytest.mark.parametrize('name', ['bug', 'proposal'])
def test_templates_are_forms(name):
    form = load(f'.github/ISSUE_TEMPLATE/{name}.yml')
    assert {'name', 'description', 'body'} <= form.keys()
    ids = [field['id'] for field in form['body']]
    assert len(set(ids)) == len(ids)
    assert all(field['attributes']['label'] for field in form['body'])


def test_what_is_built_is_ignored():
    ignored = (ROOT / '.gitignore').read_text().split()
    assert {'build/', 'dist/', '*.egg-info/', '.venv', 'runs/'} <= set(ignored)
