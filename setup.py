"Packaging: everything is read from settings.ini, so that it is written down once."

import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

parser = ConfigParser(delimiters=['='])
parser.read('settings.ini', encoding='utf8')
cfg = parser['DEFAULT']
EXTRAS = 'hub', 'teachers', 'lab', 'dev'
hub, teachers, lab, dev = (cfg[f'{kind}_requirements'].split() for kind in EXTRAS)


def page():
    "The README for the package index: links within the repository lead to it, as it was at this version."
    text, tag = Path('README.md').read_text(encoding='utf8'), f'v{cfg["version"]}'
    pictures = cfg['git_url'].replace('github.com', 'raw.githubusercontent.com')
    text = re.sub(r'(!\[[^]]*\]\()(?!https?:|#)', rf'\1{pictures}/{tag}/', text)
    return re.sub(r'((?<!!)\[[^]]*\]\()(?!https?:|#)', rf'\1{cfg["git_url"]}/blob/{tag}/', text)


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    long_description=page(),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={
        'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
        'Changes': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md",
        'Issues': f"{cfg['git_url']}/issues",
    },
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    packages=find_packages(include=['ssdd_nb*']),
    include_package_data=True,
    package_data={'ssdd_nb': ['assets/*', 'assets/tables/*', 'assets/teachers/*']},
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={'hub': hub, 'teachers': teachers, 'lab': lab, 'dev': hub + lab + dev},
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Framework :: Jupyter',
        'Operating System :: OS Independent',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Processing',
        'Programming Language :: Python :: 3',
    ]
    + [f'Programming Language :: Python :: 3.{v}' for v in (11, 12, 13)],
    zip_safe=False,
)
