#!/usr/bin/env python3
"""Run all tests: `python tools/test.py [NOTEBOOK …] [--flags "slow cuda"]`.

That the exported modules and the README are current, that there is no undefined name, every notebook from top to bottom, and that
the site builds with all its links and, where there is a Chromium, works in it, and that everything runs on a pretended graphics
card. Notebooks run two at a time, one thread each: two
threads for each of two notebooks on two cores would spend their time waiting for each other.
"""
import argparse, os, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
CHECK = re.compile(r'^\s*(?:with\s+)?(?:assert\b|test_\w+\(|expect_fail\()|;\s*(?:assert\b|test_\w+\()', re.M)

def sh(*args, **kwargs): return subprocess.run([str(a) for a in args], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
def tool(name): return Path(sys.executable).parent/name

def exported():
    "Exporting changes nothing."
    before = {p: p.read_bytes() for p in (ROOT/'ssdd_nb').glob('*.py')}
    r = sh(tool('nbdev_export'))
    after = {p: p.read_bytes() for p in (ROOT/'ssdd_nb').glob('*.py')}
    for p, b in before.items(): p.write_bytes(b)
    stale = sorted(p.name for p in {*before, *after} if before.get(p) != after.get(p))
    return r.stdout if r.returncode else f"nbdev_export changes {', '.join(stale)}" if stale else ''

def checks(p):
    "How many assertions a notebook makes."
    return sum(len(CHECK.findall(c.source)) for c in nbformat.read(p, 4).cells if c.cell_type == 'code')

def notebook(p, flags):
    "Run one notebook in a process of its own; (seconds, what went wrong)."
    t = time.time()
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'MPLBACKEND': 'agg'}
    try: r = sh(tool('nbdev_test'), '--path', p, '--n_workers', 0, '--flags', flags, env=env, timeout=1800)
    except subprocess.TimeoutExpired: return time.time() - t, 'took more than half an hour'
    return time.time() - t, r.stdout if r.returncode or 'Success.' not in r.stdout else ''

def site():
    "Build the site and look at it in a browser; (what, what went wrong, seconds), None if it could not be looked at."
    t = time.time()
    built = sh(sys.executable, 'tools/build_docs.py')
    yield 'the site builds, its links lead somewhere', built.stdout if built.returncode else '', time.time() - t
    t = time.time()
    seen = sh(sys.executable, 'tools/browser.py', 'site', '--some')
    if seen.returncode == 77: yield f'{seen.stdout.strip()}: the site was not looked at in a browser', None
    else: yield 'pages, search, formulas and code copy in a browser without network', seen.stdout if seen.returncode else '', time.time() - t

def card():
    "Everything on a pretended graphics card; (what, what went wrong, seconds), without the latter two if there can be none here."
    t = time.time()
    r = sh(sys.executable, 'tools/pretend.py', '--workers', 1)
    last = (r.stdout.strip().splitlines() or ['tools/pretend.py says nothing'])[-1]
    if r.returncode == 77: return f'{last}: nothing was run on a pretended graphics card', None
    return 'runs on a pretended graphics card', r.stdout if r.returncode else '', time.time() - t

def on_a_card():
    "What tools/gpu.py does on a graphics card, tiny and on the CPU, and its results page; (what, what went wrong, seconds)."
    t = time.time()
    with tempfile.TemporaryDirectory() as d:
        env = {**os.environ, 'OMP_NUM_THREADS': '1'}
        ran = sh(sys.executable, 'tools/gpu.py', '--tiny', '--out', d, env=env)
        error = ran.stdout if ran.returncode or 'no time was left' in ran.stdout else ''
        if not error:
            env |= {'SSDD_GPU_JSON': f'{d}/gpu.json', 'MPLBACKEND': 'agg'}
            drawn = sh(tool('nbdev_test'), '--path', NBS/'results'/'gpu.ipynb', '--n_workers', 0, '--flags', '', env=env)
            error = drawn.stdout if drawn.returncode else ''
    return 'tools/gpu.py --tiny, and its results page', error, time.time() - t

def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('notebooks', nargs='*', help='names without .ipynb (default: all, and the other checks)')
    ap.add_argument('--flags', default='', help='flagged cells to run too: slow, cuda')
    args = ap.parse_args()
    t, failed, n = time.time(), [], 0
    def report(name, error, seconds=None, more=''):
        print(f"{'FAILED' if error else 'passed'}  {name}{more}" + (f'  {seconds:.0f} s' if seconds is not None else ''), flush=True)
        if error: failed.append(name); print(error, flush=True)
    if not args.notebooks:
        report('the exported modules are current', exported())
        r = sh(sys.executable, '-m', 'ruff', 'check', '--select', 'F', '--ignore', 'F401,F811', 'ssdd_nb', 'tools', 'setup.py')      # patched methods of two classes share a name
        report('no undefined names (ruff)', r.stdout if r.returncode else '')
        r = sh(sys.executable, 'tools/readme.py', '--check')
        report('README.md is current', r.stdout if r.returncode else '')
    files = [NBS/f'{n}.ipynb' for n in args.notebooks] or sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    with ThreadPoolExecutor(2) as pool:
        besides = None if args.notebooks else pool.submit(lambda: [*site(), card(), on_a_card()])
        for p, (seconds, error) in zip(files, pool.map(lambda p: notebook(p, args.flags), files)):
            k = checks(p); n += 0 if error else k
            report(p.relative_to(NBS), error, seconds, f' ({k} checks)')
        if besides: [report(*what) if what[1] is not None else print(what[0]) for what in besides.result()]
    ok = sum(str(p.relative_to(NBS)) not in map(str, failed) for p in files)
    print(f"\n{ok} of {len(files)} notebooks passed, {n} checks in them, {len(failed)} failures, {time.time() - t:.0f} s")
    return bool(failed)

if __name__ == '__main__': sys.exit(main())
