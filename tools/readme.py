#!/usr/bin/env python3
"""README.md is nbs/index.ipynb.

`python tools/readme.py` writes it, `--check` fails if it is not current, `--block N` prints its N-th shell block.
"""

import base64, re, sys
from pathlib import Path
import nbformat

ROOT = Path(__file__).resolve().parent.parent
HEAD = '<!-- made from nbs/index.ipynb by tools/readme.py; change the notebook, not this file -->\n\n'


def link(text):
    "Links as seen from the project's root."
    return re.sub(r'\]\((?!https?:|#)([^)]+)\)', r'](nbs/\1)', text)


def output(o, name, alt, pictures):
    "One output as Markdown; pictures go to nbs/images."
    data = o.get('data', {})
    if 'text/markdown' in data:
        return link(data['text/markdown'])
    for kind in ('gif', 'png'):
        if f'image/{kind}' in data:
            pictures[f'{name}.{kind}'] = base64.b64decode(data[f'image/{kind}'])
            return f'![{alt}](nbs/images/{name}.{kind})'
    text = o.get('text') or data.get('text/plain', '')
    return f'```\n{text.rstrip()}\n```'


def render():
    "The README's text, and its pictures."
    nb, parts, pictures = nbformat.read(ROOT / 'nbs' / 'index.ipynb', 4), [], {}
    for c in nb.cells:
        if c.cell_type == 'markdown':
            parts.append(link(c.source))
        elif '#| hide' not in c.source:
            source = re.sub(r'\n#\|  +', ' ', c.source)  # a directive of several lines
            alt = re.search(r'^#\| fig-alt: (.*)$', source, re.M)
            parts += [output(o, f'readme-{len(pictures)}', alt[1] if alt else '', pictures) for o in c.outputs]
    return HEAD + '\n\n'.join(parts) + '\n', pictures


def block(n):
    "The n-th shell block of the README, without getting the source and changing into it."
    found = re.findall(r'```bash\n(.*?)```', (ROOT / 'README.md').read_text(encoding='utf8'), re.S)[n - 1]
    return '\n'.join(l for l in found.splitlines() if not l.startswith('git clone'))


def main(args):
    if args[:1] == ['--block']:
        return print(block(int(args[1])))
    text, pictures = render()
    files = {ROOT / 'README.md': text.encode(), **{ROOT / 'nbs' / 'images' / n: b for n, b in pictures.items()}}
    stale = [p for p, b in files.items() if not p.exists() or p.read_bytes() != b]
    if args[:1] == ['--check']:
        return 'not current, run python tools/readme.py: ' + ', '.join(p.name for p in stale) if stale else 0
    for p in stale:
        p.parent.mkdir(exist_ok=True)
        p.write_bytes(files[p])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
