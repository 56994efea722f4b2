"Sphinx settings of the docs site; tools/build_docs.py prepares what they read."

import functools
import re
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path

root = Path(__file__).resolve().parents[2]
parser = ConfigParser(delimiters=['='])
parser.read(root / 'settings.ini', encoding='utf8')
cfg = parser['DEFAULT']

project, author, release = cfg['title'], cfg['author'], cfg['version']
copyright = cfg['copyright']
extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design']
nb_execution_mode = 'off'  # the committed outputs are what is shown
nb_merge_streams = True
nb_render_markdown_format = 'myst'  # tables in Markdown outputs
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_heading_anchors = 3
suppress_warnings = ['mystnb.unknown_mime_type']
exclude_patterns = ['_build', '**.ipynb_checkpoints']
html_theme, html_title = 'sphinx_book_theme', cfg['title']
mathjax = (
    Path(find_spec('sphinx-mathjax-offline').submodule_search_locations[0]) / 'static' / 'mathjax' / 'tex-svg.js'
)  # one file, fonts and all
mathjax_path = mathjax.name
html_static_path, html_css_files = [str(Path(__file__).parent / 'static'), str(mathjax)], ['site.css']
templates_path = ['templates']
html_show_sphinx, html_last_updated_fmt = False, None
html_theme_options = dict(
    repository_url=cfg['git_url'],
    repository_branch=cfg['branch'],
    path_to_docs='nbs',
    use_repository_button=True,
    use_source_button=False,
    use_issues_button=True,
    use_download_button=True,
    show_toc_level=2,
    home_page_in_toc=True,
    use_sidenotes=False,
    navbar_persistent=[],
)


def setup(app):
    "The tree of pages is the same everywhere, but for links and for the page that one is on: it is made once."
    made = []

    def tree_of_pages(page, make):
        "The tree as a page shows it."
        if not made:
            made.append(str(make('sidebar', 0, collapse=False, includehidden=True, titles_only=True, maxdepth=4)))
        here = f'<li class="toctree-l1"><a class="reference internal" href="{page}.html">'
        there = '<li class="toctree-l1 current active"><a class="current reference internal" href="#">'
        tree, up = made[0].replace(here, there), '../' * page.count('/')
        return re.sub(r'href="(?!#)', f'href="{up}', tree)

    def told(app, pagename, templatename, context, doctree):
        "As the root sees the tree, before the theme asks for it."
        context['toctree'] = functools.partial(app.builder._get_local_toctree, app.config.root_doc)
        context['tree_of_pages'] = functools.partial(tree_of_pages, pagename)

    app.connect('html-page-context', told, priority=400)
