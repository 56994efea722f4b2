"""What the tools read out of notebooks."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / 'nbs'


def notebooks():
    "All notebooks, but for the copies that Jupyter keeps."
    return sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def directives(cell):
    "A code cell's `#|` lines; one that begins with two spaces more goes on with the line before."
    source = re.sub(r'\s*\n#\|  +', ' ', cell.source)
    return re.findall(r'^#\|\s*(.*?)\s*$', source, re.M) if cell.cell_type == 'code' else []


def exported_to(nb):
    "The module that a notebook makes, by its name below the package: `core`; '' for the door; None if it makes none."
    found = (d.split()[1] for c in nb.cells for d in directives(c) if d.startswith('default_exp'))
    module = next(found, None)
    return module and module.removesuffix('__init__').rstrip('.')
