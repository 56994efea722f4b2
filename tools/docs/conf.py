"Sphinx settings of the docs site; tools/build_docs.py prepares what they read."

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
