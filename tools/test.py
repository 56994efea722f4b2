#!/usr/bin/env python3
"""Run all tests: `python tools/test.py [NOTEBOOK …] [--flags "slow cuda"]`.

That the exported modules and the README are current, that there is no undefined name, every notebook from top to
bottom, that everything runs on a pretended graphics card and tools/gpu.py on the CPU, and that the site builds with all
its links and, where there is a Chromium, works in it. Two tasks at a time, the longest first, one thread each: two
threads for each of two notebooks on two cores would spend their time waiting for each other.

A notebook runs as `nbdev_test` runs it, in a process of its own. The process is a copy of one that has imported PyTorch
and matplotlib, but nothing of this library: 43 notebooks would import them for ten seconds each.
"""

import argparse
import functools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import connection, forkserver
from pathlib import Path

import nbformat

from notebooks import NBS, ROOT, notebooks

CHECK = re.compile(r'^\s*(?:with\s+)?(?:assert\b|test_\w+\(|expect_fail\()|;\s*(?:assert\b|test_\w+\()', re.M)
SKIPPED, HALF_AN_HOUR = 77, 1800  # an exit code, seconds
# Starting a process also reads the exit codes of all others, and of two threads that read a code at once one gets none.
CODES = threading.Lock()
ENV = dict(OMP_NUM_THREADS='1', TQDM_DISABLE='1', MPLBACKEND='agg')
PRELOADED = [
    'torch',
    'torch._dynamo',
    'torchvision',
    'matplotlib.pyplot',
    'sklearn.cluster',
    'sklearn.datasets',
    'sklearn.decomposition',
    'sklearn.manifold',
    'IPython',
    'nbdev.test',
]
# the longest first, so that both workers end at about the same time
LONGEST = (
    'card',
    'tutorials/several_processes',
    '50_cli',
    'on_a_card',
    'site',
    'methods/12_scdd',
    'experiments/40_compare',
    'methods/10_krrst',
    'experiments/45_reproduce',
    '08_posttrain',
    '09_protocols',
    'experiments/43_labelled',
    'theory/20_bias',
    '05b_teacher_training',
    'methods/30_matching',
    'theory/21_variance',
    'experiments/44_scdd_studies',
    'methods/31_trajectories',
    '15_hard_cases',
    '06_evaluate',
    'methods/32_kernels',
    'methods/11_mkdt',
    '60_door',
    'theory/23_entropy',
    'experiments/44c_costs',
    'methods/07_coresets',
    '05_teachers',
)


def sh(*args, **kwargs):
    "Run a command; its output and errors in one text."
    args = [str(a) for a in args]
    return subprocess.run(args, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


# ---------------------------------------------------------------- notebooks


def checks(p):
    "How many assertions a notebook makes."
    return sum(len(CHECK.findall(c.source)) for c in nbformat.read(p, 4).cells if c.cell_type == 'code')


def in_process(p, flags, env, said):
    "Run a notebook in the present process, which the server made for it."
    if 'cuda' not in flags:  # what the notebook starts comes from the same server
        forkserver._forkserver.ensure_running = lambda: None
    os.environ.update(env)
    os.chdir(ROOT)
    with open(said, 'w') as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    from nbdev.config import get_config
    from nbdev.test import test_nb

    passed, _ = test_nb(p, get_config().tst_flags.split(), flags.split(), basepath=ROOT)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(not passed)


def run_notebook(p, flags, env=()):
    "What went wrong in a notebook; '' if nothing did."
    with tempfile.TemporaryDirectory() as d:
        said = Path(d) / 'said'
        server = multiprocessing.get_context('forkserver')
        process = server.Process(target=in_process, args=(p, flags, dict(env), said))
        with CODES:
            process.start()
        ended = connection.wait([process.sentinel], HALF_AN_HOUR)  # reads nothing
        with CODES:
            code = process.exitcode if ended else process.kill()
        text = said.read_text(errors='replace') if said.exists() else 'it ended before it began'
        if not ended:
            return f'{text}\ntook more than half an hour'
        return f'{text}\nexit code {code}' if code else ''


def notebook(p, flags):
    yield f'{p.relative_to(NBS)} ({checks(p)} checks)', run_notebook(p, flags)


# ---------------------------------------------------------------- the other tasks: (what, what went wrong) of each part


def exported():
    "Exporting changes nothing."

    def modules():
        return {p: p.read_bytes() for p in (ROOT / 'ssdd_nb').rglob('*.py')}

    before = modules()
    r = sh(Path(sys.executable).parent / 'nbdev_export')
    after = modules()
    for p, b in before.items():
        p.write_bytes(b)
    stale = sorted(p.name for p in {*before, *after} if before.get(p) != after.get(p))
    return r.stdout if r.returncode else f"nbdev_export changes {', '.join(stale)}" if stale else ''


def ruff():
    r = sh(sys.executable, '-m', 'ruff', 'format', '--check', 'nbs', 'tools', 'setup.py')
    yield 'written as `ruff format` writes', r.stdout if r.returncode else ''
    r = sh(sys.executable, '-m', 'ruff', 'check', 'nbs', 'ssdd_nb', 'tools', 'setup.py')
    yield 'nothing that ruff.toml forbids', r.stdout if r.returncode else ''
    r = sh(sys.executable, 'tools/pasted.py')
    yield 'a reader can paste what the pages show', r.stdout if r.returncode else ''
    r = sh(sys.executable, 'tools/comments.py')
    yield 'each parameter has a comment of its own', r.stdout if r.returncode else ''


def readme():
    r = sh(sys.executable, 'tools/readme.py', '--check')
    yield 'README.md is current', r.stdout if r.returncode else ''


def package():
    "What would go to the package index."
    r = sh(sys.executable, 'tools/package.py')
    yield 'wheel and source distribution are whole, and what the index takes', r.stdout if r.returncode else ''


def site():
    "Build the site and look at it in a browser."
    built = sh(sys.executable, 'tools/build_docs.py')
    yield 'the site builds, its links lead somewhere', built.stdout if built.returncode else ''
    seen = sh(sys.executable, 'tools/browser.py', 'site', '--some')
    if seen.returncode == SKIPPED:
        yield f'{seen.stdout.strip()}: the site was not looked at in a browser', None
    else:
        what = 'pages, search, formulas and code copy in a browser without network'
        yield what, seen.stdout if seen.returncode else ''


def card():
    "Everything on a pretended graphics card."
    r = sh(sys.executable, 'tools/pretend.py', '--workers', 1)
    last = (r.stdout.strip().splitlines() or ['tools/pretend.py says nothing'])[-1]
    if r.returncode == SKIPPED:
        yield f'{last}: nothing was run on a pretended graphics card', None
    else:
        yield 'runs on a pretended graphics card', r.stdout if r.returncode else ''


def on_a_card():
    "What tools/gpu.py does on a graphics card, tiny and on the CPU, and its results page."
    with tempfile.TemporaryDirectory() as d:
        ran = sh(sys.executable, 'tools/gpu.py', '--tiny', '--out', d)
        error = ran.stdout if ran.returncode or 'no time was left' in ran.stdout else ''
        error = error or run_notebook(NBS / 'results' / 'gpu.ipynb', '', {'SSDD_GPU_JSON': f'{d}/gpu.json'})
        yield 'tools/gpu.py --tiny, and its results page', error


# ---------------------------------------------------------------- all of them


def report(name, error, seconds=None):
    "Print a line, and what went wrong; whether anything did. None as error: it could not be tried."
    took = '' if seconds is None else f'  {seconds:.0f} s'
    print(name if error is None else f"{'FAILED' if error else 'passed'}  {name}{took}", flush=True)
    if error:
        print(error, flush=True)
    return bool(error)


def finished(task):
    "A task's results, and its seconds."
    start = time.time()
    return list(task()), time.time() - start


def in_order(tasks):
    "The longest first."
    return dict(sorted(tasks.items(), key=lambda t: LONGEST.index(t[0]) if t[0] in LONGEST else len(LONGEST)))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('notebooks', nargs='*', help='names without .ipynb (default: all, and the other checks)')
    ap.add_argument('--flags', default='', help='flagged cells to run too: slow, cuda')
    args = ap.parse_args()
    os.environ.update(ENV)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup tests of a closed terminal would see none
    start, failures, n, passed = time.time(), 0, 0, 0
    error = '' if args.notebooks else exported()  # before anything else imports the modules
    if not args.notebooks:
        failures += report('the exported modules are current', error)
    files = [NBS / f'{name}.ipynb' for name in args.notebooks] or notebooks()
    names = [p.relative_to(NBS).with_suffix('').as_posix() for p in files]
    tasks = {name: functools.partial(notebook, p, args.flags) for name, p in zip(names, files)}
    if not args.notebooks:
        tasks |= {f.__name__: f for f in (ruff, readme, package, site, card, on_a_card)}
    multiprocessing.get_context('forkserver').set_forkserver_preload(PRELOADED)
    with ThreadPoolExecutor(2) as pool:
        running = {pool.submit(finished, task): name for name, task in in_order(tasks).items()}
        for done in as_completed(running):
            results, seconds = done.result()
            wrong = sum(report(what, error, seconds) for what, error in results)
            failures += wrong
            if not wrong and isinstance(tasks[running[done]], functools.partial):
                passed += 1
                n += checks(tasks[running[done]].args[0])
    print(
        f'\n{passed} of {len(files)} notebooks passed, {n} checks in them, {failures} failures, '
        f'{time.time() - start:.0f} s'
    )
    return bool(failures)


if __name__ == '__main__':
    sys.exit(main())
