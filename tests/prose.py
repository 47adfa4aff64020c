"""A count of words that read oddly in docstrings, comments and Markdown.

    python tests/prose.py                      a line for each folder of this checkout
    python tests/prose.py cls/nn cls/data      only these folders or files
    python tests/prose.py --lines cls/nn       also each line with a counted word

Code (fences, backticks, indented commands) and text within quotation marks are left out.
"""

import argparse
import ast
import io
import json
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

PER_10000 = {'what': 10, 'which': 12}  # the most for each 10,000 words
NEVER = ('nets', 'told', 'anew', 'bears', 'lies', 'so many', 'beside', 'held against')

ROOTS = ('cls', 'configs', 'launch', 'tests', 'findings', '.ci', '.github')
HASH_COMMENTS = ('.sh', '.toml', '.yaml', '.yml', '.txt', '.cff')
HASH_NAMES = ('Dockerfile', 'run')

_WORD = re.compile(r"[A-Za-z][\w'-]*")
_COUNTED = {
    word: re.compile(rf'(?<![\w/-]){word.replace(" ", r"[ ]")}(?![\w/-])', re.IGNORECASE)
    for word in (*PER_10000, *NEVER)
}
_ANY = re.compile('|'.join(_COUNTED), re.IGNORECASE)
_CODE = re.compile(r'```.*?(?:```|\Z)|``.*?``|`[^`]*`|<!--.*?-->', re.DOTALL)
_QUOTED = re.compile(r'"[^"]{,300}"|“[^”]{,300}”|(?<!\w)\'[^\'\n]*\'(?!\w)')
_HEADING = re.compile(r'(?m)^What is new(?=:)')  # of the model files
_ADDRESS = re.compile(r'\]\([^)]*\)|https?://\S+')
_INDENTED = re.compile(r'(?<=\n)(?: {4,}|\t)[^\n]*')
_QUOTE_BLOCK = re.compile(r'(?m)^>.*$')


def _blank(match):
    """Returns white space of the same length, with the same line breaks."""
    return re.sub(r'[^\n]', ' ', match.group())


def _words_only(text, *patterns):
    for pattern in (*patterns, _ADDRESS, _HEADING, _QUOTED):
        text = pattern.sub(_blank, text)
    return text


def _docstrings(tree):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            constant = node.body[0].value
            yield constant.lineno, constant.value, constant.col_offset


def _of_python(source):
    for line, text, indent in _docstrings(ast.parse(source)):
        code = re.compile(rf'(?<=\n) {{{indent + 2},}}(?:python |pip |\./|bash |cls |\$ )[^\n]*')
        yield line, _words_only(text, _CODE, code)
    comments = [
        (token.start[0], token.start[1], token.string.lstrip('#! '))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    yield from _blocks(comments)


def _blocks(comments):
    """Yields comments of consecutive lines in the same column as one text."""
    block, last = [], None
    for line, column, text in comments:
        if last != (line - 1, column) and block:
            yield block[0][0], _words_only('\n'.join(text for _, text in block), _CODE)
            block = []
        block.append((line, text))
        last = (line, column)
    if block:
        yield block[0][0], _words_only('\n'.join(text for _, text in block), _CODE)


def _of_markdown(text, line=1):
    yield line, _words_only(text, _CODE, _INDENTED, _QUOTE_BLOCK)


def _of_hash_comments(text):
    matches = (re.match(r'(\s*)#+!?\s?(.*)', line) for line in text.split('\n'))
    yield from _blocks(
        [(n, len(m[1]), m[2]) for n, m in enumerate(matches, start=1) if m is not None]
    )


def _of_notebook(text):
    for cell in json.loads(text)['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            yield from _of_markdown(source)
        else:
            yield from _of_hash_comments(source)


def passages(path):
    """Yields (line, text) of each docstring, comment or page in a file."""
    if path.suffix == '.py':
        yield from _of_python(path.read_text())
    elif path.suffix == '.md':
        yield from _of_markdown(path.read_text())
    elif path.suffix == '.ipynb':
        yield from _of_notebook(path.read_text())
    elif path.suffix in HASH_COMMENTS or path.name in HASH_NAMES:
        yield from _of_hash_comments(path.read_text())


def occurrences(texts):
    """Yields (line, word, text of the line) of each counted word in passages."""
    for first, text in texts:
        flat = text.replace('\n', ' ')  # 'so many' may be broken over two lines
        if not _ANY.search(flat):
            continue
        for word, pattern in _COUNTED.items():
            for match in pattern.finditer(flat):
                offset = text.count('\n', 0, match.start())
                yield first + offset, word, text.split('\n')[offset].strip()


def files(root):
    """Yields the files of a checkout that hold prose."""
    yield from sorted(root.glob('*.md'))
    for name in ROOTS:
        for path in sorted((root / name).rglob('*')):
            if path.is_file() and '__pycache__' not in path.parts:
                yield path


def folder_of(path, root):
    """Returns the folder a file is counted under: two levels at most, `.` for the root."""
    return '/'.join(path.relative_to(root).parts[:-1][:2]) or '.'


def count(paths, root):
    """Returns {folder: Counter of words, with all words under ''}."""
    counts = {}
    for path in paths:
        texts = list(passages(path))
        words = sum(len(_WORD.findall(text)) for _, text in texts)
        if words:
            counter = counts.setdefault(folder_of(path, root), Counter())
            counter[''] += words
            counter.update(word for _, word, _ in occurrences(texts))
    return counts


def allowed(word, words):
    """Returns the most occurrences of a word in a text of `words` words."""
    return -(-PER_10000.get(word, 0) * words // 10_000)


def excesses(counter):
    """Returns a line for each word that is too frequent."""
    return [
        f'{word}: {counter[word]}, at most {allowed(word, counter[""])} in {counter[""]:,} words'
        for word in _COUNTED
        if counter[word] > allowed(word, counter[''])
    ]


def _table(counts):
    total = sum(counts.values(), Counter())
    width = max(len(name) for name in (*counts, 'all'))
    yield '  '.join([f'{"":{width}}', '  words', *_COUNTED])
    for name, counter in (*sorted(counts.items()), ('all', total)):
        cells = [f'{counter[word] or "-":>{len(word)}}' for word in _COUNTED]
        mark = '  too often' if excesses(counter) else ''
        yield '  '.join([f'{name:{width}}', f'{counter[""]:7,}', *cells]) + mark


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('paths', nargs='*', type=Path, help='folders or files; default: all')
    parser.add_argument('--lines', action='store_true', help='print the line of each counted word')
    args = parser.parse_args()
    root = Path.cwd()
    wanted = [path.resolve() for path in args.paths]
    missing = [str(path) for path in wanted if not path.exists()]
    if missing:
        sys.exit(f'no such file or folder: {", ".join(missing)}')
    paths = [
        path
        for path in files(root)
        if not wanted or any(path == w or w in path.parents for w in wanted)
    ]
    if args.lines:
        for path in paths:
            for line, word, text in sorted(occurrences(passages(path))):
                print(f'{path.relative_to(root)}:{line}: {word}: {text}')
    for line in _table(count(paths, root)):
        print(line)


if __name__ == '__main__':
    main()
