#!/usr/bin/env python3
"""Has each parameter a comment of its own? `python tools/comments.py` lists those of ssdd_nb/ that have none.

Asked of public functions and methods, of `__init__`, and of the fields of public dataclasses. The comment stands behind
the parameter, or above it. A signature may say "see `Base`" instead, where the base has the comments.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = re.compile(r'(?:see|as for) `')
NONE = re.compile(r'(?:likewise|as above|as before|ditto)\b')  # a reader would have to look for the meaning


def comments(source):
    "The comment of each line; one on lines of its own is that of the next line with code."
    found, above = {}, ''
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        if t.type == tokenize.COMMENT:
            text = t.string.strip('# ')
            above = '' if t.line[: t.start[1]].strip() else text
            found[t.start[0]] = text
        elif above and t.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            found.setdefault(t.start[0], above)
            above = ''
    return {line: text for line, text in found.items() if not NONE.match(text)}


def parts(node):
    "What needs a comment: (name, line)."
    if isinstance(node, ast.ClassDef):
        is_data = any('dataclass' in ast.unparse(d) for d in node.decorator_list)
        fields = [f for f in node.body if isinstance(f, ast.AnnAssign)] if is_data else []
        return [(f.target.id, f.lineno) for f in fields if not f.target.id.startswith('_')]
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [(p.arg, p.lineno) for p in every if p.arg not in ('self', 'cls')]


def missing(nodes, said):
    "Names without a comment of their own, with their lines."
    for n in nodes:
        if not isinstance(n, (ast.ClassDef, ast.FunctionDef)) or n.name.startswith('_') and n.name != '__init__':
            continue
        found = parts(n)
        lines = [line for _, line in found]
        on_one = len({*lines}) == 1 and ELSEWHERE.match(said.get(n.body[0].lineno - 1, ''))
        if isinstance(n, ast.ClassDef) or not on_one:
            yield from ((f'{n.name}({p})', l) for p, l in found if l not in said or lines.count(l) > 1)
        if isinstance(n, ast.ClassDef):
            yield from missing(n.body, said)


def main():
    files = [p for p in sorted((ROOT / 'ssdd_nb').rglob('*.py')) if p.name != '_modidx.py']
    found = [
        f'{p.relative_to(ROOT)}:{line} {name}'
        for p in files
        for name, line in missing(ast.parse(p.read_text()).body, comments(p.read_text()))
    ]
    print('\n'.join(found) or f'{len(files)} modules say what each parameter is')
    return bool(found)


if __name__ == '__main__':
    sys.exit(main())
