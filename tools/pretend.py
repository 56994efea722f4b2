#!/usr/bin/env python3
"""Does the library work on a graphics card? `python tools/pretend.py [GROUP …]`, on a machine that has none.

Everything the library does runs on a pretended card (`tools/pretend/card.py`): tensors say that they are on `cuda:0`,
compute on the CPU, and fail where CUDA fails. It prints a line for each group of checks, one for each failure, and one
at the end. The checks of the pretended card itself always run. Needs a torch that was built for CUDA, and g++; without
them it says so and ends with 77.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = [str(ROOT / 'tools' / 'pretend'), str(ROOT)]
SKIPPED = 77
# the longest first, so that two processes end at about the same time
ORDER = ('two_cards', 'mkdt_runs', 'commands', 'comparisons', 'teacher_losses', 'peers')


def environment():
    "What every process is to find: one thread, no progress bars, no windows, no card but the pretended one."
    os.environ.update(
        OMP_NUM_THREADS='1',
        TQDM_DISABLE='1',
        MPLBACKEND='agg',
        CUDA_VISIBLE_DEVICES='',
        PYTHONPATH=os.pathsep.join([*OWN, os.environ.get('PYTHONPATH', '')]),
    )
    sys.path[:0] = [p for p in OWN if p not in sys.path]


def all_checks():
    "The module `checks`, with all groups registered."
    environment()
    import checks

    for module in ('self_test', 'paths', 'two_cards'):
        importlib.import_module(module)
    return checks


def run(name):
    "One group, in a process of the pool."
    warnings.simplefilter('ignore')
    return all_checks().run_group(name)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('groups', nargs='*', help='which (default: all)')
    ap.add_argument('--workers', type=int, default=2, help='processes (default: 2)')
    ap.add_argument('--times', action='store_true', help='also print how long each check takes')
    args = ap.parse_args()
    environment()
    import card

    if why := card.missing():
        print(f'skipped: {why}')
        return SKIPPED
    card.library()  # compiled before there are two that want it
    known = list(all_checks().GROUPS)
    if unknown := [g for g in args.groups if g not in known]:
        ap.error(f"no group {unknown[0]}; there are {', '.join(known)}")
    names = ['card', *sorted((n for n in args.groups or known if n != 'card'), key=lambda n: (ORDER + (n,)).index(n))]
    begun, n, failed = time.time(), 0, 0
    copies = multiprocessing.get_context('fork')  # of this process: all is imported, nothing used
    with ProcessPoolExecutor(args.workers, copies) as pool:
        jobs = {pool.submit(run, name): name for name in names}
        for job in as_completed(jobs):
            name = jobs[job]
            try:
                done = job.result()
            except BrokenProcessPool:
                print(f'FAILED  {name}: its process, or the other one, died', flush=True)
                failed += 1
                continue
            print(f"{'FAILED' if done.lines else 'passed'}  {name} ({done.n} checks)  {done.seconds:.0f} s", flush=True)
            slow = sorted(done.times.items(), key=lambda item: -item[1]) if args.times else []
            for line in [*done.notes, *done.lines, *[f'        {t:5.1f} s  {check}' for check, t in slow]]:
                print(line, flush=True)
            n, failed = n + done.n, failed + len(done.lines)
    print(f'{n} checks on a pretended card, {failed} failures, {time.time() - begun:.0f} s')
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
