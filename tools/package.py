#!/usr/bin/env python3
"""Build what goes to the package index, and look at it: `python tools/package.py [--out DIR] [--tag vX.Y.Z]`.

The source distribution is built from the checkout and the wheel from the source distribution, without network where
setuptools is installed. Then: one version everywhere, and the tag's; all modules, all assets and nothing else; no
links that only lead somewhere on GitHub; metadata that the index takes; sizes.
"""

import argparse
import email
import importlib.util
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
parser = ConfigParser(delimiters=['='])
parser.read(ROOT / 'settings.ini', encoding='utf8')
CFG = parser['DEFAULT']
LARGEST = 2.5e6  # bytes; a teacher of 1.2 MB is most of it
SOURCE = {'LICENSE', 'MANIFEST.in', 'PKG-INFO', 'README.md', 'pyproject.toml', 'settings.ini', 'setup.cfg', 'setup.py'}


def build(out):
    "The source distribution, and the wheel that is built from it."
    here = importlib.util.find_spec('setuptools') is not None
    command = [sys.executable, '-m', 'build', '--outdir', str(out), *['--no-isolation'] * here, str(ROOT)]
    done = subprocess.run(command, cwd=out, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        sys.exit(done.stdout)
    return next(out.glob('*.tar.gz')), next(out.glob('*.whl'))


def package():
    "The files of the package in the checkout: modules and assets."
    files = (p for p in (ROOT / 'ssdd_nb').rglob('*') if p.is_file() and '__pycache__' not in p.parts)
    return {p.relative_to(ROOT).as_posix() for p in files}


def contents(sdist, wheel):
    "What is missing from either, and what should not be in it."
    with tarfile.open(sdist) as t:
        inside = {m.name.partition('/')[2] for m in t.getmembers() if m.isfile()}
    with zipfile.ZipFile(wheel) as z:
        files = {n for n in z.namelist() if not n.endswith('/')}
    about = {n for n in files if re.match(r'[^/]+\.dist-info/', n)}
    source = {n for n in inside if not n.startswith(f'{CFG["lib_path"]}.egg-info/')}
    for name, there, wanted in (('the wheel', files - about, package()), (sdist.name, source, package() | SOURCE)):
        yield from (f'{name} lacks {n}' for n in sorted(wanted - there))
        yield from (f'{name} holds {n}' for n in sorted(there - wanted))


def described(wheel, tag):
    "What is wrong with the metadata."
    with zipfile.ZipFile(wheel) as z:
        name = next(n for n in z.namelist() if n.endswith('.dist-info/METADATA'))
        about = email.message_from_string(z.read(name).decode('utf8'))
        commands = z.read(name.replace('METADATA', 'entry_points.txt')).decode('utf8')
        version = re.search(r'__version__ = "(.*)"', z.read(f'{CFG["lib_path"]}/__init__.py').decode('utf8'))[1]
    versions = {'settings.ini': CFG['version'], 'the wheel': about['Version'], '__version__': version}
    if tag:
        versions['the tag'] = tag.removeprefix('refs/tags/').removeprefix('v')
    if len({*versions.values()}) > 1:
        yield f'the version is not one: {versions}'
    text = about.get_payload()
    links = re.findall(r'\]\(([^)\s]*)', text) + re.findall(r'(?:src|href)="([^"]*)"', text)
    yield from (f'the page on the index links to {k}' for k in links if not re.match(r'https?://|#', k))
    kinds = about.get_all('Classifier')
    minor = int(CFG['min_python'].split('.')[1])
    if (
        about['Requires-Python'] != f'>={CFG["min_python"]}'
        or f'Programming Language :: Python :: 3.{minor}' not in kinds
    ):
        yield f'the oldest Python: {about["Requires-Python"]}, {kinds}'
    for line in CFG['console_scripts'].split():
        if line.replace('=', ' = ') not in commands:
            yield f'no command {line}'
    needed = [r for r in about.get_all('Requires-Dist') if 'extra ==' not in r]
    if len(needed) != len(CFG['requirements'].split()):
        yield f'requirements: {needed}'


def accepted(*files):
    "What `twine check` says against them."
    command = [sys.executable, '-m', 'twine', 'check', '--strict', *map(str, files)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        yield done.stdout


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('--out', help='where the two files go (default: nowhere)')
    ap.add_argument('--tag', help='the tag of a release, which has to be the version')
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        out = Path(args.out or tmp).resolve()
        out.mkdir(parents=True, exist_ok=True)
        sdist, wheel = build(out)
        wrong = [*contents(sdist, wheel), *described(wheel, args.tag), *accepted(sdist, wheel)]
        for p in (sdist, wheel):
            size = p.stat().st_size
            print(f'{p.name}: {size / 1e6:.2f} MB')
            if size > LARGEST:
                wrong.append(f'{p.name} is larger than {LARGEST / 1e6} MB')
    print('\n'.join(wrong))
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
