"""The Markdown pages: links, commands, fields and paths exist, and the map agrees with the code."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from cls import models
from cls.commands import COMMANDS
from cls.config import files
from cls.config.defaults import FIELDS, SEARCH

ROOT = Path(__file__).parents[1]
TREES = ('cls', 'configs', 'launch', 'tests', 'findings')
PAGES = sorted(
    [*ROOT.glob('*.md'), *(page for tree in TREES for page in (ROOT / tree).rglob('*.md'))]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize('name', NAMES)

_FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
_MAY_IMPORT = re.compile(r'^May import: (.+)\.$', re.MULTILINE)
# Fields of the classes in a config, and members of ensembles and of searches.
_OF_OTHERS = re.compile(
    r'(model|loaded|members|proxy|optim\.args|loss\.args'
    r'|search\.(space|searcher|objective|evaluator|supernet))(\.|$)'
)


def read(name):
    return (ROOT / name).read_text()


def anchors(text):
    """Returns GitHub's anchors for the headings of a page."""
    seen, names = Counter(), set()
    for heading in re.findall(r'^#+ (.+)$', _FENCE.sub('', text), re.MULTILINE):
        slug = re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
        names.add(f'{slug}-{seen[slug]}' if seen[slug] else slug)
        seen[slug] += 1
    return names


def leads_somewhere(page, link):
    """Returns whether a relative link of a page leads to a file and a heading in it."""
    path, _, anchor = link.partition('#')
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def broken_links(page):
    """Returns the relative links of a page that lead nowhere."""
    links = _LINK.findall(_FENCE.sub('', page.read_text()))
    relative = [link for link in links if not re.match(r'[a-z]+:', link)]
    return [link for link in relative if not leads_somewhere(page, link)]


@each_page
def test_links_lead_somewhere(name):
    assert broken_links(ROOT / name) == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / 'page.md'
    (tmp_path / 'other.md').write_text('# One, two `three`\n\n## Same\n\n## Same\n')
    links = ('other.md', 'other.md#one-two-three', 'other.md#same-1', '#here', 'https://a.b/c')
    wrong = ('none.md', 'other.md#same-2', '#there')
    page.write_text('# Here\n' + ''.join(f'[x]({link})\n' for link in (*links, *wrong)))
    assert broken_links(page) == list(wrong)


@each_page
def test_a_page_begins_with_its_readers(name):
    title, _, first, *_ = read(name).splitlines()
    assert title.startswith('# ')
    assert re.match(r'For (those|anyone) who ', first)


@each_page
def test_commands_name_modules_and_configs_that_exist(name):
    text = read(name)
    for module in re.findall(r'python -m (cls(?:\.\w+)+)', text):
        path = ROOT / module.replace('.', '/')
        assert path.with_suffix('.py').is_file() or path.is_dir(), module
    for command in re.findall(r'(?:^|`)cls ([a-z][\w-]*)', text, re.MULTILINE):
        assert command in COMMANDS, command
    for recipe in re.findall(r'--config ([a-z][\w/]*)(?=[\s:`])', text):
        assert recipe in files.names(), recipe
    for config in re.findall(r'configs/[\w/]+\.py', text):
        assert (ROOT / config).is_file() or 'NAME' in config or 'SYSTEM' in config, config


@each_page
def test_fields_of_commands_exist(name):
    for field in re.findall(r'(?:--|`)config\.(?!json)([a-z][\w.]*)', read(name)):
        known = {*FIELDS, *SEARCH, *(key.partition('.')[0] for key in (*FIELDS, *SEARCH))}
        assert field in known or _OF_OTHERS.match(field), field


@pytest.mark.parametrize('name', ['configs/README.md', 'configs/search/README.md'])
def test_fields_of_tables_exist(name):
    groups = sorted({key.partition('.')[0] for key in (*FIELDS, *SEARCH) if '.' in key})
    fields = re.findall(rf'`((?:{"|".join(groups)})\.(?!json)[a-z]\w*(?:\.\w+)*)', read(name))
    assert fields
    for field in fields:
        known = field in FIELDS or field in SEARCH or _OF_OTHERS.match(field)
        assert known or any(key.startswith(f'{field}.') for key in SEARCH), field


@each_page
def test_paths_of_the_project_exist(name):
    for path in re.findall(rf'`((?:{"|".join(TREES)})/[\w./]+)`', read(name)):
        placeholder = any(word in path for word in ('NAME', 'SYSTEM', 'PATTERN'))
        assert placeholder or (ROOT / path).exists(), path


@each_page
def test_python_is_python(name):
    for language, code in _FENCE.findall(read(name)):
        if language == 'python':
            ast.parse(code)


def test_the_readme_is_one_page():
    assert len(read('README.md').encode()) <= 6 * 1024


def test_the_readme_names_all_systems():
    text = ' '.join(read('README.md').split())
    paragraph = text.partition('## Systems ')[2].partition('##')[0]
    systems = [s.name for s in models.systems()] + [e.system.name for e in models.ensembles()]
    assert len(systems) == 45
    assert [name for name in systems if name not in paragraph] == []


def rules():
    """Returns {folder or file of cls: the rooms it may import}, from the docstrings."""
    result = {}
    for path in [*(ROOT / 'cls').glob('*/__init__.py'), *(ROOT / 'cls').glob('*.py')]:
        rule = _MAY_IMPORT.search(ast.get_docstring(ast.parse(path.read_text())) or '')
        if rule:
            name = f'{path.parent.name}/' if path.name == '__init__.py' else path.name
            result[name] = rule[1]
    return result


def test_the_map_says_of_each_folder_and_file_what_its_docstring_says():
    page = read('cls/README.md').replace('\\_', '_')
    rows = re.findall(r'^\| \[([\w./]+)\]\([^)]*\) \| .+ \| (.+) \|$', page, re.M)
    assert dict(rows) == rules()
    assert len(rows) == len(rules())
