#!/usr/bin/env python3
"""Build the docs site from the notebooks: `python tools/build_docs.py [OUT]` (default _docs). No network, no execution.

Cells marked `#| hide` are left out, `#| echo: false` shows the output only; exported code stays, because this library
is read. An API reference is made from the docments of each module. Ends with an error if Sphinx warns or an internal
link leads nowhere.
"""

import argparse, ast, dataclasses, functools, html.parser, importlib, inspect, io, itertools, re, shutil, subprocess
import sys, textwrap, tokenize
from collections import Counter
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse
import nbformat
from fastcore.docments import docments
from notebooks import NBS, ROOT, directives, exported_to, notebooks

inspect.getsourcelines = functools.cache(inspect.getsourcelines)  # read five times for each function
parser = ConfigParser(delimiters=['='])
parser.read(ROOT / 'settings.ini', encoding='utf8')
CFG = parser['DEFAULT']
GITHUB = urlparse(CFG['git_url'])
# the reading order: caption, pages
PARTS = [
    ('Start here', ['tutorials/your_photographs', 'methods/10_krrst', 'results/evaluation']),
    (
        'The methods',
        [
            'methods/09b_ridge',
            'methods/11_mkdt',
            'methods/09c_trajectory_gradient',
            'methods/09d_experts',
            'methods/10b_mkdt_task',
            'methods/16_views',
            'methods/12_scdd',
            'methods/09e_bn_losses',
            'methods/11b_scdd_task',
            'methods/12b_remembered',
            '13_pruning',
            'methods/30_matching',
            'methods/30_distances',
            'methods/30_loops',
            'methods/31_trajectories',
            'methods/32_kernels',
            'methods/31b_wide_nets',
            'methods/32b_frozen',
            'methods/07_coresets',
            'methods/07a_forgetting',
        ],
    ),
    (
        'The theorems',
        ['theory/20_bias', 'theory/21_variance', 'theory/22_partitions', 'theory/23_entropy', 'theory/24_views'],
    ),
    (
        'Measuring',
        [
            '06_evaluate',
            '05c_pretraining',
            '05d_probes',
            '06b_label_free',
            '08_posttrain',
            '07b_soft_labels',
            '09_protocols',
            'experiments/40_compare',
            'experiments/34_judging',
            'experiments/35_measuring',
            'experiments/36_score_tables',
            'experiments/37_score_figures',
            'experiments/43_labelled',
            'experiments/43b_frozen_comparison',
            'experiments/45_reproduce',
            'experiments/44a_tables',
            'experiments/44b_cells',
            'experiments/44c_costs',
            '14_costs',
            '15_worth',
        ],
    ),
    (
        'Results',
        [
            'results/reproduce',
            'results/digits',
            'results/views',
            'results/cifar10',
            'results/mkdt',
            'results/scdd',
            'results/peers',
            'results/pretrained',
            'results/frozen',
            'results/gpu',
        ],
    ),
    (
        'Doing more',
        [
            'tutorials/your_method',
            'tutorials/several_processes',
            '50_cli',
            '46_commands',
            '46b_flags',
            '47_eval_command',
            '48_compare_commands',
            'experiments/42_studies',
            'experiments/42b_teacher_scores',
            'experiments/44_scdd_studies',
            'experiments/43c_study_rows',
            'experiments/41_bench',
            'experiments/40b_plain',
            'experiments/40c_growth',
        ],
    ),
    (
        'The machinery',
        [
            'architecture',
            '60_door',
            'methods/33_registry',
            '000_errors',
            '00_core',
            '00a_processes',
            '00b_files',
            '00d_records',
            '00e_checkpoints',
            '00f_runs',
            '00b_trackers',
            '00g_pixels',
            '00h_images',
            '00i_layouts',
            '00j_reading',
            '00j_tars',
            '00k_packs',
            '00k_rows',
            '01_data',
            '01a_archives',
            '01b_datasets',
            '01c_parquet',
            '01c_tensors',
            '01d_answers',
            '02_distilled',
            '02a_loading',
            'methods/02a_methods',
            '02b_hub',
            '03_viz',
            '03b_explore',
            '04_nets',
            '04a_functional',
            '04a_taps',
            '04b_backbones',
            '04c_fit',
            '04d_distortions',
            '04e_ssl_losses',
            '05_teachers',
            '05b_teacher_training',
            '15_hard_cases',
            '000b_moved',
            '61_old_names',
        ],
    ),
]

ABOUT = {'contributing': 'CONTRIBUTING.md', 'changes': 'CHANGELOG.md'}  # pages that are files of the repository
IN_COLAB = "os.path.isdir('/content')"  # in the cell with which a notebook begins that can be run there


def names(modules):
    """Everything public: its module, and its anchor.

    Not those that are a parameter's name somewhere, for in prose they are the parameter.
    """
    mods = {m: importlib.import_module(f'ssdd_nb.{m}') for m in modules}
    public = [(n, m, getattr(mod, n)) for m, mod in mods.items() for n in mod.__all__]
    taken = {
        p
        for _, _, o in public
        if inspect.isfunction(o) or inspect.isclass(o)
        for p in inspect.signature(o.__init__ if inspect.isclass(o) else o).parameters
    }
    counts = Counter(n for n, *_ in public)
    return {
        n: (m, target(o, n))
        for n, m, o in public
        if counts[n] == 1 and n not in taken and (inspect.isfunction(o) or inspect.isclass(o))
    }


def target(obj, name):
    "The anchor of an entry of the reference; case does not count in anchors, so a class says that it is one."
    module = inspect.unwrap(obj).__module__.partition('.')[2]
    return f"api-{module.replace('.', '-')}-{name.lower()}{'-class' if inspect.isclass(obj) else ''}"


def linked(text, public, own):
    "Prose in which each name of the library's, where it first occurs, leads to its reference."
    seen = set()

    def link(found):
        name = found[1]
        if name not in public or public[name][0] == own or name in seen:
            return found[0]
        seen.add(name)
        return f'[{found[0]}](#{public[name][1]})'

    blocks = re.split(
        r'(^```.*?^```|\[[^]]*\]\([^)]*\))', text, flags=re.M | re.S
    )  # not within fences, nor within links
    return ''.join(b if i % 2 else re.sub(r'(?<!`)`(\w+)`(?!`)', link, b) for i, b in enumerate(blocks))


def shown(nb, path, public):
    "The notebook as a reader sees it, with links to its source, to the reference, and to Colab."
    out, where = [], f"{GITHUB.path}/blob/{CFG['branch']}/nbs/{path.as_posix()}"
    colab = any(IN_COLAB in c.source for c in nb.cells)
    links = (
        f'<small>[Source of this page](https://github.com{where})'
        + (f' · [open in Colab](https://colab.research.google.com/github{where})' if colab else '')
        + '</small>'
    )
    own = exported_to(nb)
    for c in nb.cells:
        d = directives(c)
        if 'hide' in d or any(x.startswith('default_exp') for x in d):
            continue
        if c.cell_type == 'code':
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip('\n')
            if not c.source.strip():
                continue
            if 'echo: false' in d:
                c.metadata.setdefault('tags', []).append('remove-input')
            elif only_imports(c.source):  # whoever pastes the page needs them; whoever reads it does not
                if out and out[-1].metadata.get('mystnb') == FOLDED and not c.outputs:
                    out[-1].source += '\n' + c.source
                    continue
                c.metadata.setdefault('tags', []).append('hide-input')
                c.metadata['mystnb'] = FOLDED
            elif is_long(c.source) and 'export' in d:
                c.metadata.setdefault('tags', []).append('hide-input')
                c.metadata['mystnb'] = folded(f'{defined_in(c.source)}: {len(c.source.splitlines())} lines of code')
            if alt := [x.removeprefix('fig-alt:').strip() for x in d if x.startswith('fig-alt:')]:
                c.metadata['mystnb'] = dict(image=dict(alt=alt[0]))
            for o in c.outputs:  # without a kernel a widget is a blank: show what else there is
                if 'data' in o and len(o['data']) > 1:
                    o['data'].pop('application/vnd.jupyter.widget-view+json', None)
        else:
            c.source = linked(c.source, public, own)
        out.append(c)
    out.insert(1, nbformat.v4.new_markdown_cell(links))
    nb.cells = out
    nb.metadata.pop('widgets', None)
    return nb


def folded(what):
    "What tells the site to show a line in place of a cell's code, until somebody asks for it."
    return dict(code_prompt_show=what, code_prompt_hide=what)


FOLDED = folded('imports')


def is_long(source):
    "Whether code takes more of a page than a reader sees at a time; `viz.show_source` shows a part of it."
    return len(source.splitlines()) > 25


def defined_in(source):
    "The names of what a cell defines."
    body = ast.parse(source).body
    named = [n.name for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    return ', '.join(named or [n.id for b in body for n in ast.walk(b) if isinstance(n, ast.Name)][:1])


def only_imports(source):
    "Whether a cell does nothing but import."
    try:
        body = ast.parse(source).body
    except SyntaxError:  # IPython's own
        return False
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)


@functools.cache
def comments(fn):
    "What the source says of parameters and result: [(names that share a line, their comment)], the result's comment."
    text = textwrap.dedent(inspect.getsource(fn))
    f = ast.parse(text).body[0]
    said = {
        t.start[0]: t.string.lstrip('# ')
        for t in tokenize.generate_tokens(io.StringIO(text).readline)
        if t.type == tokenize.COMMENT
    }
    params = sorted(
        (
            p
            for p in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs, f.args.vararg, f.args.kwarg]
            if p and p.arg != 'self'
        ),
        key=lambda p: (p.lineno, p.col_offset),
    )
    groups = {line: [p.arg for p in ps] for line, ps in itertools.groupby(params, lambda p: p.end_lineno)}
    for line in groups:  # a long comment stands on the lines above its parameter
        above = itertools.takewhile(lambda k: k in said and k not in groups, range(line - 1, 0, -1))
        said.setdefault(line, ' '.join([said[k] for k in above][::-1]))
    last = f.returns.end_lineno if f.returns else 0
    result = said.get(last, '')
    if last in groups:
        said[last], _, result = result.partition('; ')  # all on one line: first what goes in
    return [(names, said.get(line, '')) for line, names in groups.items()], result


def rows(fn):
    "A Markdown table of parameters, from the comments beside them; those that share a comment share a row."
    if dataclasses.is_dataclass(fn):
        known = docments(fn, full=True, returns=False)
        said = {
            n: p.docment
            for c in reversed(fn.__mro__)
            if dataclasses.is_dataclass(c)
            for n, p in docments(c, full=True, returns=False).items()
            if p.docment
        }  # a field may be its parent's
        groups = [([n], said.get(n)) for n in known]
    else:
        if inspect.isclass(fn):
            fn = vars(fn).get('__init__')
        if not inspect.isfunction(fn):
            return ''
        known, groups = inspect.signature(fn).parameters, comments(fn)[0]
    cell = lambda s: str(s or '').replace('|', '\\|').replace('\n', ' ')
    types = lambda names: ', '.join(
        dict.fromkeys(
            t for n in names if (t := kind(known[n].anno if dataclasses.is_dataclass(fn) else known[n].annotation))
        )
    )
    default = lambda p: (
        '' if p.default is inspect.Parameter.empty or p.default is dataclasses.MISSING else f'`{short(p.default)}`'
    )
    lines = []
    for names, said in groups:
        usual = default(known[names[0]]) if len(names) == 1 else ''
        lines.append(f"| {', '.join(f'`{n}`' for n in names)} | {cell(types(names))} | {cell(usual)} | {cell(said)} |")
    return '\n'.join(['| parameter | type | default | |', '|---|---|---|---|', *lines]) if lines else ''


def kind(anno):
    "An annotation in words; none if there is none."
    if anno in (None, type(None), inspect.Signature.empty):
        return ''
    return re.sub(
        r'\b[a-z_.]+\.(?=[A-Z])', '', str(anno) if hasattr(anno, '__args__') else getattr(anno, '__name__', str(anno))
    )  # a class without its module


def short(v):
    s = getattr(v, '__name__', None) or repr(v)
    return s if len(s) < 40 and '0x' not in s else type(v).__name__ + '(...)'


def returns(fn):
    "What comes back."
    if inspect.isclass(fn):
        return ''
    anno, said = kind(inspect.signature(fn).return_annotation), comments(fn)[1]
    return f"\n**Returns** {anno}{': ' if anno and said else ''}{said}\n" if anno or said else ''


def signature(name, obj):
    "The call, with defaults and without annotations."
    if inspect.isclass(obj) and issubclass(obj, Exception):
        return ''
    ps = [
        p.replace(annotation=inspect.Parameter.empty)
        for n, p in inspect.signature(obj).parameters.items()
        if n != 'self'
    ]
    ps = [p if p.default is p.empty else p.replace(default=Plain(short(p.default))) for p in ps]
    return (
        '~~~python\n'
        + textwrap.fill(
            f'{name}{inspect.Signature(ps)}',
            90,
            subsequent_indent=' ' * (len(name) + 1),
            break_long_words=False,
            break_on_hyphens=False,
        )
        + '\n~~~\n'
    )


class Plain(str):
    "Text that shows as it is where its `repr` is asked for."

    def __repr__(self):
        return str(self)


def source(obj):
    "A link to the line where it is defined."
    f, line = inspect.getsourcefile(obj), inspect.getsourcelines(obj)[1]
    return f"[source]({CFG['git_url']}/blob/{CFG['branch']}/{Path(f).relative_to(ROOT).as_posix()}#L{line})"


def entry(name, obj, level='##'):
    "One function or class: signature, docstring, parameters, methods."
    fn = inspect.unwrap(obj)
    parts = [
        f'({target(obj, name)})=\n{level} {name}\n',
        signature(name, fn),
        f'{inspect.getdoc(obj) or ""} {source(fn)}\n',
        rows(fn),
        returns(fn),
    ]
    for n, m in vars(obj).items() if inspect.isclass(obj) else ():
        fn = m.__func__ if isinstance(m, (classmethod, staticmethod)) else m.fget if isinstance(m, property) else m
        if n.startswith('_') or not inspect.isfunction(fn) or not inspect.getdoc(fn):
            continue
        call = f'~~~python\n{name}.{n}\n~~~\n' if isinstance(m, property) else signature(f'{name}.{n}', fn)
        parts += [f'{level}# {name}.{n}\n', call, inspect.getdoc(fn) + '\n', rows(fn), returns(fn)]
    return '\n'.join(p for p in parts if p) + '\n'


def api(module, page):
    "A page for a module."
    mod = importlib.import_module(f'ssdd_nb.{module}')
    what = [(n, getattr(mod, n)) for n in mod.__all__]
    defined = lambda o: inspect.isclass(o) or inspect.isfunction(inspect.unwrap(o))  # a cached function is wrapped
    things = [entry(n, o) for n, o in what if defined(o)]
    values = [f'`{n}`' for n, o in what if not defined(o)]
    where = f'Defined, explained and tested in [its notebook](../{page}.ipynb).'
    head = f'# {module}\n\n> {inspect.getdoc(mod) or ""}\n\n{where}\n'
    return head + ('\nValues: ' + ', '.join(values) + '\n' if values else '') + '\n' + '\n'.join(things)


def prepare(src):
    "Write what Sphinx reads: the notebooks as they are shown, a page for each module, and the tree of pages."
    shutil.rmtree(src, ignore_errors=True)
    found = {p.relative_to(NBS): nbformat.read(p, 4) for p in notebooks()}
    modules = {exported_to(nb): p.with_suffix('').as_posix() for p, nb in found.items() if exported_to(nb)}
    check_parts({p.with_suffix('').as_posix() for p in found})
    unseen = [
        f'{p}: {c.source.splitlines()[0]} …'
        for p, nb in found.items()
        for c in nb.cells
        if any(x.startswith(('echo: false', 'fig-alt')) for x in directives(c)) and not c.outputs
    ]
    if unseen:
        sys.exit(
            '\n'.join(['these cells are there for what they show, and have no output (run the notebook):', *unseen])
        )
    public = names(modules)
    for p, nb in found.items():
        nb = shown(nb, p, public)
        if p.name == 'index.ipynb':
            nb.cells.append(nbformat.v4.new_markdown_cell(toc(modules)))
        (src / p).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, src / p)
    if (NBS / 'results' / 'runs').is_dir():
        shutil.copytree(NBS / 'results' / 'runs', src / 'results' / 'runs')
    for page, file in ABOUT.items():
        shutil.copy(ROOT / file, src / f'{page}.md')
    (src / 'api').mkdir()
    for m, page in modules.items():
        (src / 'api' / f'{m}.md').write_text(api(m, page), encoding='utf8')


def check_parts(pages):
    "Each notebook has its place in the reading order."
    listed = {'index', *[p for _, ps in PARTS for p in ps]}
    if pages != listed:
        sys.exit(
            f'PARTS in tools/build_docs.py: {sorted(pages - listed)} have no place, '
            f'{sorted(listed - pages)} do not exist'
        )


def toc(modules):
    "The tree of pages: the parts in reading order, and the API reference."
    tree = lambda caption, pages: '```{toctree}\n:hidden:\n:caption: ' + caption + '\n\n' + '\n'.join(pages) + '\n```'
    return '\n\n'.join(
        [tree(c, pages) for c, pages in PARTS]
        + [tree('API reference', [f'api/{m}' for m in modules]), tree('About', ABOUT)]
    )


class Links(html.parser.HTMLParser):
    "All links and anchors of a page."

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k)}
        self.links += [a[k] for k in ('href', 'src') if a.get(k) and tag in ('a', 'img', 'link', 'script')]


def broken(out):
    "Internal links that lead nowhere."
    pages = {p.resolve(): Links(p.read_text(encoding='utf8')) for p in out.rglob('*.html') if '_static' not in p.parts}
    bad, resolved = [], functools.cache(lambda folder, path: (folder / path).resolve())
    exists = functools.cache(Path.exists)
    for page, found in pages.items():
        for link in found.links:
            if re.match(r'^[a-z]+:|^//|^#?$|^data:', link):
                continue
            path, anchor = urldefrag(unquote(link.split('?')[0]))
            target = resolved(page.parent, path) if path else page
            if not exists(target) or anchor and target in pages and anchor not in pages[target].ids:
                bad.append(f'{page.relative_to(out.resolve())}: {link}')
    return bad, len(pages), sum(len(f.links) for f in pages.values())


def too_large(out, site=34e6, page=3e6):
    "The site and each of its pages have to load on a slow line."
    sizes = {p.relative_to(out).as_posix(): p.stat().st_size for p in out.rglob('*') if p.is_file()}
    return [f'{p}: {n / 1e6:.1f} MB' for p, n in sizes.items() if p.endswith('.html') and n > page] + (
        [f'the site: {sum(sizes.values()) / 1e6:.1f} MB'] if sum(sizes.values()) > site else []
    )


def bare(nb):
    "What whoever takes a notebook along gets: one that runs, hidden cells and all, and whose pictures are on the page."
    for c in nb.cells:
        if c.cell_type == 'code':
            c.outputs = []
    return nb


def main(out):
    src, built = ROOT / '_proc' / 'site', ROOT / '_proc' / 'html'  # myst-nb leaves a folder beside what is built
    prepare(src)
    for p in (out, built):
        shutil.rmtree(p, ignore_errors=True)
    r = subprocess.run(
        [
            sys.executable,
            '-m',
            'sphinx',
            '-q',
            '-W',
            '--keep-going',
            '-b',
            'html',
            '-c',
            str(ROOT / "tools" / "docs"),
            '-d',
            str(ROOT / '_proc' / 'doctrees'),
            str(src),
            str(built),
        ]
    )
    if built.exists():
        shutil.move(built, out)
    for p in out.rglob('*.map'):
        p.unlink()  # for whoever debugs the theme, and a seventh of the site
    for p in (out / '_sources').rglob('*.ipynb'):
        nbformat.write(bare(nbformat.read(NBS / p.relative_to(out / '_sources'), 4)), p)
    bad, pages, links = broken(out)
    bad += too_large(out)
    print(
        '\n'.join(['these links lead nowhere, or this is too large:', *bad])
        if bad
        else f'{pages} pages, {links} links and none broken: {out}/index.html'
    )
    return r.returncode or bool(bad)


if __name__ == '__main__':
    flags = argparse.ArgumentParser(description='Build the docs site from the notebooks.')
    flags.add_argument('out', nargs='?', type=Path, default=ROOT / '_docs', help='folder of the site')
    sys.exit(main(flags.parse_args().out))
