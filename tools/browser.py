#!/usr/bin/env python3
"""What a reader sees, in a real browser with the network off.

`python tools/browser.py site [PAGE …]`: the built site in _docs, each page at the width of a desktop and of a phone,
    light and dark; with no page named, a search is typed and its result opened, a formula read, and code copied too.
    `--pictures DIR` keeps screenshots.
`python tools/browser.py lab [NOTEBOOK …]`: JupyterLab opens each notebook, runs all its cells and shows no error;
    widgets answer a click.
Needs playwright and a Chromium (CHROMIUM=path, or the one on the PATH); without them it says so and ends with 77.
"""

import argparse, contextlib, functools, http.server, os, re, secrets, shutil, subprocess, sys
import tempfile, threading, time, urllib.request
from pathlib import Path
import nbformat
from notebooks import NBS, ROOT, notebooks

SKIPPED = 77
SOME = ['index', 'methods/10_krrst', 'results/digits', 'api/core']  # of the site, for the tests


def chromium():
    "A browser's path, or None."
    return os.environ.get('CHROMIUM') or next(
        filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))), None
    )


@contextlib.contextmanager
def browser():
    "Chromium with all of the network but this machine switched off."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(
            executable_path=chromium(),
            args=[
                '--no-sandbox',
                '--disable-background-networking',
                '--disable-component-update',
                '--disable-sync',
                '--no-first-run',
                '--disable-quic',
            ],
        )
        context = b.new_context(
            permissions=['clipboard-read', 'clipboard-write'], viewport=dict(width=1280, height=900)
        )
        context.route(re.compile(r'^https?://(?!127\.0\.0\.1|localhost)'), lambda r: r.abort())
        yield context
        b.close()


@contextlib.contextmanager
def served(folder):
    "The address of a folder."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=s.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{s.server_port}'
    finally:
        s.shutdown()


# what can be wrong with a page, in the page's own words
LOOK = r"""() => {
  const bad = [], article = document.querySelector('article') || document.body
  const wide = document.scrollingElement.scrollWidth
  if (wide > window.innerWidth + 1) bad.push('wider than the window: ' + wide + ' px')
  const words = article.cloneNode(true)
  words.querySelectorAll('pre, code, mjx-container, script, style').forEach(e => e.remove())
  const raw = words.textContent.match(/\$\$|\\(frac|mathbb|text|mathcal|left|sum|begin)\b|\\\(|\\\[/)
  if (raw) bad.push('raw LaTeX: ' + raw[0])
  if (article.querySelector('mjx-merror, [data-mml-node="merror"]')) bad.push('a formula that MathJax cannot read')
  if (window.innerWidth > 1000 && window.MathJax && MathJax.startup.document)
    for (const m of MathJax.startup.document.math)
      if (m.display && m.typesetRoot.scrollWidth > article.clientWidth + 1)
        bad.push('a formula wider than the text: ' + m.math.trim().slice(0, 50))
  if (document.querySelectorAll('.math').length && !article.querySelector('mjx-container'))
    bad.push('formulas that are not drawn')
  const phone = window.innerWidth < 600
  const scrolls = phone ? '.cell_output, .highlight-text' : '.cell_output'  // there a drawing in text may scroll
  article.querySelectorAll('.highlight pre').forEach(o => {
    if (!o.closest(scrolls) && o.scrollWidth > o.clientWidth + 1)
      bad.push('a line of code that is cut off: ' + o.textContent.trim().slice(0, 50))
  })
  article.querySelectorAll('.cell_output').forEach(o => {
    if (!o.textContent.trim() && !o.querySelector('img, svg, canvas')) bad.push('an empty output')
  })
  article.querySelectorAll('.cell_output pre').forEach(o => {
    if (/Traceback \(most recent|Error displaying widget/.test(o.textContent))
      bad.push('a traceback: ' + o.textContent.trim().slice(-80))
  })
  article.querySelectorAll('img').forEach(i => {
    if (!i.naturalWidth) bad.push('an image that does not load: ' + i.src.slice(-60))
    if (!i.alt || /^(_images|\.\.)/.test(i.alt)) bad.push('an image without an alt text: ' + i.src.slice(-60))
  })
  return [...new Set(bad)]
}"""


def typeset(page):
    "Wait until the formulas are drawn."
    page.wait_for_function(
        '() => !document.querySelector(".math") || (window.MathJax && MathJax.startup'
        ' && MathJax.startup.promise && document.querySelector("mjx-container"))',
        timeout=60_000,
    )
    page.evaluate(
        'async () => { if (window.MathJax && MathJax.startup) await MathJax.startup.promise;'
        ' document.querySelectorAll("img").forEach(i => i.loading = "eager");'
        ' await Promise.all([...document.images].map(i => i.decode().catch(() => {}))) }'
    )


def check_page(context, address, name, pictures=None):
    "What is wrong with a page, at two widths, in light and dark."
    page, bad = context.new_page(), []
    page.on('pageerror', lambda e: bad.append(f'{name}: {str(e)[:120]}'))
    if not page.goto(f'{address}/{name}.html').ok:
        return [f'{name}: there is no such page']
    typeset(page)
    for width in (1280, 390):
        page.set_viewport_size(dict(width=width, height=900))
        for theme in ('light', 'dark'):
            page.evaluate(f'document.documentElement.dataset.theme = document.documentElement.dataset.mode = "{theme}"')
            bad += [f'{name} ({width} px, {theme}): {w}' for w in page.evaluate(LOOK)]
            if pictures:
                page.screenshot(
                    path=str(Path(pictures) / f"{name.replace('/', '_')}-{width}-{theme}.png"), full_page=True
                )
    page.close()
    return bad


def reading_order():
    "The pages as the site lists them."
    from build_docs import PARTS

    return [page for _, pages in PARTS for page in pages]


def check_use(context, address):
    "What a reader does: search and open a result, read a formula, copy code, turn the page, take the notebook along."
    bad, page = [], context.new_page()
    page.goto(f'{address}/search.html?q=Cholesky')
    page.wait_for_selector('#search-results li a', timeout=60_000)
    page.click('#search-results li a >> nth=0')
    page.wait_for_load_state()
    if 'holesky' not in page.text_content('article'):
        bad.append('the first result of a search for Cholesky does not mention it')
    page.goto(f'{address}/methods/10_krrst.html')
    typeset(page)
    drawn = dict(
        page.evaluate(
            '[...MathJax.startup.document.math].map(m => [m.math, m.typesetRoot.getBoundingClientRect().width])'
        )
    )
    if not any('F_s F_s^' in tex and width > 100 for tex, width in drawn.items()):
        bad.append('the head of kernel ridge regression is not drawn on the page of KRR-ST')
    cell = page.locator('.cell_input:visible').first  # imports are folded
    cell.hover()
    cell.locator('button.copybtn').click()
    page.wait_for_timeout(300)
    copied = page.evaluate('navigator.clipboard.readText()')
    if copied.strip() != cell.locator('pre').first.inner_text().strip() or not copied:
        bad.append(f'the copy button copied {copied[:60]!r}')
    for what, where in dict(next='a.right-next', previous='a.left-prev', notebook='a[href$=".ipynb"]').items():
        if not page.query_selector(where):
            bad.append(f'no link to the {what}')
    page.click('a.right-next')
    page.wait_for_load_state()
    following = reading_order()[reading_order().index('methods/10_krrst') + 1]
    if following not in page.url:
        bad.append(f'the page after KRR-ST is {page.url} and not {following}')
    page.close()
    return bad


def site(pages, pictures=None, some=False):
    "Pages of the built site, and what a reader does there."
    docs = ROOT / '_docs'
    if not (docs / 'index.html').exists():
        return ['there is no _docs/index.html: python tools/build_docs.py']
    every = sorted(
        p.relative_to(docs).with_suffix('').as_posix()
        for p in docs.rglob('*.html')
        if '_static' not in p.parts and p.stem not in ('genindex', 'search')
    )
    with served(docs) as address, browser() as context:
        bad = [b for n in pages or (SOME if some else every) for b in check_page(context, address, n, pictures)]
        return bad if pages else bad + check_use(context, address)


@contextlib.contextmanager
def jupyterlab():
    "The address of a JupyterLab that has a copy of the project, so that running notebooks changes none."
    token = secrets.token_hex(8)
    with served(ROOT) as free:
        port = free.rsplit(':')[-1]
    with tempfile.TemporaryDirectory() as d:
        shutil.copytree(
            ROOT,
            d,
            ignore=shutil.ignore_patterns('.git', '.venv', '_docs', '_proc', '.ipynb_checkpoints'),
            dirs_exist_ok=True,
        )
        env = {
            **os.environ,
            'JUPYTERLAB_SETTINGS_DIR': f'{d}/settings',
            'JUPYTERLAB_WORKSPACES_DIR': f'{d}/workspaces',
            'JUPYTER_CONFIG_DIR': f'{d}/config',
        }
        p = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                f'--port={port}',
                f'--IdentityProvider.token={token}',
                f'--ServerApp.root_dir={d}',
                '--LabApp.expose_app_in_browser=True',
                '--LabApp.news_url=',
                '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
            ],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(120):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}')
                    break
                time.sleep(0.5)
            yield f'http://127.0.0.1:{port}', token, Path(d)
        finally:
            p.terminate()
            p.wait()


def flagged(nb):
    "The notebook without the cells that run on request only."
    nb.cells = [
        c
        for c in nb.cells
        if c.cell_type != 'code' or not re.search(r'^#\|\s*(eval:\s*false|notest|slow|cuda)', c.source, re.M)
    ]
    for c in nb.cells:
        if c.cell_type == 'code':
            c.outputs, c.execution_count = [], None
    return nb


NOTEBOOK = "[...jupyterapp.shell.widgets('main')].find(w => w.content && w.content.model && w.content.model.cells)"
# the cells that JupyterLab shows, by what has become of them; it draws only those in view, so its own model is asked
STATE = (
    '() => { const w = '
    + NOTEBOOK
    + r""", cells = [...w.content.model.cells].filter(c => c.type === 'code' && c.sharedModel.source.trim())
  const said = c => c.sharedModel.outputs.filter(o => o.output_type === 'error')
    .map(o => o.ename + ': ' + o.evalue + ' in ' + c.sharedModel.source.slice(0, 60))
  return {all: cells.length, done: cells.filter(c => c.executionCount).length, errors: cells.flatMap(said),
          status: w.sessionContext.kernelDisplayStatus} }"""
)


def run_in_lab(context, address, token, folder, name, minutes=20):
    "What goes wrong when JupyterLab opens a notebook and runs all of it; and whether its explorers answer."
    file = folder / 'nbs' / f'{name}.ipynb'
    nbformat.write(flagged(nbformat.read(file, 4)), file)
    page = context.new_page()
    page.goto(f'{address}/lab/tree/nbs/{name}.ipynb?token={token}&reset')
    page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=120_000)
    page.wait_for_function(
        '() => window.jupyterapp && [...jupyterapp.shell.widgets("main")].some('
        'w => w.sessionContext && w.sessionContext.kernelDisplayStatus === "idle")',
        timeout=120_000,
    )
    page.evaluate('() => { jupyterapp.commands.execute("notebook:run-all-cells") }')
    end = time.time() + 60 * minutes
    while time.time() < end:
        page.wait_for_timeout(1000)
        state = page.evaluate(STATE)
        if state['errors'] or (state['done'] == state['all'] and state['status'] == 'idle'):
            break
    bad = state['errors'] or (
        [] if state['done'] == state['all'] else [f"{state['done']} of {state['all']} cells after {minutes} minutes"]
    )
    if not bad:
        bad = answers(
            page,
            sum(
                'explore_' in c.source and '#| export' not in c.source and '#| hide' not in c.source
                for c in nbformat.read(file, 4).cells
            ),
        )
    page.evaluate(
        'async () => { for (const w of jupyterapp.shell.widgets("main"))'
        ' if (w.sessionContext) await w.sessionContext.shutdown() }'
    )
    page.close()
    return [f'{name}: {b}' for b in bad]


def answers(page, explorers):
    "Click on the controls of each explorer: does the picture change?"
    found, bad = 0, []
    if not explorers:
        return []
    for i in range(
        page.evaluate(f'{NOTEBOOK}.content.model.cells.length')
    ):  # JupyterLab draws a cell when it comes into view
        page.evaluate(f'{NOTEBOOK}.content.scrollToItem({i})')
    page.wait_for_timeout(1000)
    for box in page.locator('.jp-OutputArea-output .widget-vbox').all():
        box.scroll_into_view_if_needed()
        found += 1
        image = box.locator('img').first
        before = image.get_attribute('src')
        if box.locator('.widget-toggle-buttons button').count():
            box.locator('.widget-toggle-buttons button:not(.mod-active)').first.click()
        else:
            handle = box.locator('.noUi-handle, .ui-slider-handle').first
            handle.focus()
            for key in ('ArrowRight', 'ArrowLeft', 'ArrowLeft', 'ArrowLeft'):
                handle.press(key)
        with contextlib.suppress(Exception):
            page.wait_for_function('([i, b]) => i.src !== b', arg=[image.element_handle(), before], timeout=15_000)
        if image.get_attribute('src') == before:
            bad.append('an explorer whose picture does not change')
    return bad if found >= explorers else [*bad, f'{found} explorers are shown, there should be {explorers}']


def lab(names):
    "Notebooks in JupyterLab, one after the other."
    every = [p.relative_to(NBS).with_suffix('').as_posix() for p in notebooks()]
    bad = []
    with jupyterlab() as (address, token, folder), browser() as context:
        for n in names or every:
            t = time.time()
            wrong = run_in_lab(context, address, token, folder, n)
            print('\n'.join([f"{'FAILED' if wrong else 'passed'}  {n}  {time.time() - t:.0f} s", *wrong]), flush=True)
            bad += wrong
    return bad


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('what', choices=['site', 'lab'])
    ap.add_argument('names', nargs='*', help='pages or notebooks, without .html or .ipynb (default: all)')
    ap.add_argument('--some', action='store_true', help=f"of the site only {', '.join(SOME)}")
    ap.add_argument('--pictures', help='folder for screenshots')
    args = ap.parse_args()
    try:
        import playwright
    except ImportError:
        print('skipped: playwright is not installed')
        return SKIPPED
    if not chromium():
        print('skipped: no Chromium here; CHROMIUM=path names one')
        return SKIPPED
    if args.pictures:
        Path(args.pictures).mkdir(parents=True, exist_ok=True)
    bad = lab(args.names) if args.what == 'lab' else site(args.names, args.pictures, args.some)
    print('\n'.join(bad) or 'nothing wrong')
    return bool(bad)


if __name__ == '__main__':
    sys.exit(main())
