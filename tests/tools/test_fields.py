"""The table of fields in configs/README.md."""

import pytest

from cls.config.defaults import FIELDS
from cls.config.load import ROOT
from cls.errors import UserError
from cls.tools.fields import BEGIN, END, main, renewed, table


def test_the_table_of_the_page_is_up_to_date():
    text = (ROOT / 'configs/README.md').read_text()
    assert renewed(text) == text, 'run python -m cls.tools.fields --write configs/README.md'


def test_each_field_has_a_row_of_five_cells(capsys):
    assert main([]) == 0
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [row.replace(r'\|', '').split('|')[1:-1] for row in rows]
    assert [name.strip(' `') for name, *_ in cells] == list(FIELDS)
    assert {len(row) for row in cells} == {5}


def test_the_last_column_says_how_a_run_may_continue():
    rows = {row.split('`')[1]: row.rpartition(' | ')[2] for row in table().splitlines()[2:]}
    assert (rows['duration'], rows['log_every'], rows['batch']) == ('longer |', 'free |', ' |')


def test_writing_changes_nothing_outside_of_the_marks(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(f'before\n{BEGIN}\nold\n{END}\nafter\n')
    assert main(['--write', str(page)]) == 0
    text = page.read_text()
    assert text.startswith(f'before\n{BEGIN}\n| field |')
    assert text.endswith(f'\n{END}\nafter\n')
    assert '\nold\n' not in text
    page.write_text('no marks')
    with pytest.raises(UserError, match='expected the marks'):
        main(['--write', str(page)])
