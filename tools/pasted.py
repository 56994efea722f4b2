#!/usr/bin/env python3
"""Can a reader paste what the pages show? `python tools/pasted.py [NOTEBOOK …]` lists the names that they could not.

A page shows all cells but those marked `#| hide`, and of those marked `#| echo: false` the output only. A name that a
shown cell uses must be defined or imported in a shown cell (that one, or one before), or be Python's own.
"""

import argparse
import ast
import builtins
import re
import symtable
import sys

import nbformat

from notebooks import NBS, notebooks

KNOWN = {*dir(builtins), '__name__', '__file__', 'get_ipython', 'display'}
UNSEEN = re.compile(r'^#\|\s*(hide\b|echo:\s*false)', re.M)
EXPORTED = re.compile(r'^#\|\s*export\w*', re.M)
SHELL = re.compile(r'^(\s*)[%!].*$', re.M)


def scopes(table):
    "A table of names, and those of all functions and classes in it."
    yield table
    for t in table.get_children():
        yield from scopes(t)


def names(source):
    "The global names that a cell gives, and those that it uses."
    source = SHELL.sub(r'\1pass', source)
    top = symtable.symtable(source, 'cell', 'exec')
    given = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {
        s.get_name() for t in scopes(top) for s in t.get_symbols() if s.is_referenced() and (t is top or s.is_global())
    }
    starred = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.names[0].name == '*'
        for name in public(node.module)
    }
    return given | starred, used


def public(module):
    "What `from module import *` gives."
    m = __import__(module, fromlist=['*'])
    return getattr(m, '__all__', [n for n in vars(m) if not n.startswith('_')])


def missing(nb):
    "The cells that a reader could not paste: (cell, the names that no shown cell gave before)."
    seen = set(KNOWN)
    for c in nb.cells:
        if c.cell_type != 'code' or UNSEEN.search(c.source):
            continue
        given, used = names(c.source)
        seen |= given
        if (unknown := used - seen) and not EXPORTED.search(c.source):
            yield c, sorted(unknown)


def main(args):
    files = [NBS / f'{name}.ipynb' for name in args] or notebooks()
    found = [
        f"{p.relative_to(NBS)}, cell {c.id}: {', '.join(unknown)}"
        for p in files
        for c, unknown in missing(nbformat.read(p, 4))
    ]
    print('\n'.join(found) or f'{len(files)} pages can be pasted')
    return bool(found)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', help='notebooks without .ipynb; all by default')
    sys.exit(main(parser.parse_args().names))
