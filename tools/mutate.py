#!/usr/bin/env python3
"""Would the tests notice? `python tools/mutate.py NOTEBOOK … [--limit SECONDS]`.

Changes one operator of a notebook's exported code at a time (a sign flipped, a term or a factor dropped), and runs the
notebook with it: the first cell that fails has caught the change. Prints which check caught which change, and ends with
an error if one survived.
"""

import argparse, ast, copy, multiprocessing, os, re, signal, sys, time, types
import nbformat
from notebooks import NBS, ROOT, directives, exported_to

SKIP = re.compile(r'^#\|\s*(eval:\s*false|notest|slow|cuda)', re.M)


def cells(name):
    "(source, exported) of the code cells of a notebook, and the module they make."
    nb = nbformat.read(NBS / f'{name}.ipynb', 4)
    code = [c for c in nb.cells if c.cell_type == 'code' and not SKIP.search(c.source)]
    return [(c.source, 'export' in directives(c)) for c in code], f'ssdd_nb.{exported_to(nb)}'.rstrip('.')


def changes(tree):
    "Ways to change an expression: (description, what to put in its place), for every place in a syntax tree."
    for node in ast.walk(tree):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield node, 'sign dropped', node.operand
        if not isinstance(node, ast.BinOp):
            continue
        if isinstance(node.op, (ast.Add, ast.Sub)):
            flipped = ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
            yield node, 'sign flipped', flipped
            yield node, 'right term dropped', node.left
            yield (
                node,
                'left term dropped',
                node.right if isinstance(node.op, ast.Add) else ast.UnaryOp(ast.USub(), node.right),
            )
        if isinstance(node.op, (ast.Mult, ast.Div)):
            yield node, 'right factor dropped', node.left
        if isinstance(node.op, ast.Mult):
            yield node, 'left factor dropped', node.right


class Put(ast.NodeTransformer):
    "Puts something in the place of a node."

    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def mutants(name):
    "(cell number, description, changed source) of every change to exported code."
    for i, (source, exported) in enumerate(cells(name)[0]):
        if not exported:
            continue
        for k in range(len(list(changes(ast.parse(source))))):
            tree = ast.parse(source)
            node, what, new = list(changes(tree))[k]
            before = ast.get_source_segment(source, node)
            changed = ast.unparse(ast.fix_missing_locations(Put(node, copy.deepcopy(new)).visit(tree)))
            yield i, f'line {node.lineno}: {before} → {what}: {ast.unparse(new)}', changed


class Free(multiprocessing.context.ForkProcess):
    "A worker that may have processes of its own: notebooks start some."

    daemon = property(lambda self: False, lambda self, value: None)


class Fork(multiprocessing.context.ForkContext):
    "Starts such workers."

    Process = Free


def survives(job):
    "Run a notebook with one cell changed; what caught the change, or None."
    name, i, changed, limit = job
    code, module = cells(name)
    code = [(changed if j == i else c, e) for j, (c, e) in enumerate(code)]
    os.chdir(ROOT / 'nbs')
    os.environ.update(TQDM_DISABLE='1', MPLBACKEND='agg')
    import matplotlib.pyplot as plt, torch

    torch.set_num_threads(1)

    def late(*_):
        raise TimeoutError(f'longer than {limit} s')

    signal.signal(signal.SIGALRM, late)
    signal.alarm(limit)
    sys.stdout = open(os.devnull, 'w')
    here = ''
    try:
        sys.modules[module] = made = types.ModuleType(module)
        for c, e in code:
            here = c if not e else here
            if e:
                exec(compile(c, module, 'exec'), made.__dict__)
        space = types.ModuleType('__main__')
        for c, _ in code:
            here = c
            exec(compile(c, 'cell', 'exec'), space.__dict__)
            plt.close('all')
        return None
    except BaseException as e:
        at, tb = None, e.__traceback__
        while tb:
            if tb.tb_frame.f_code.co_filename == 'cell':
                at = tb.tb_lineno
            tb = tb.tb_next
        line = here.splitlines()[at - 1].strip() if at and at <= len(here.splitlines()) else here.splitlines()[0]
        return f'{type(e).__name__} at: {line[:100]}'
    finally:
        signal.alarm(0)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('notebooks', nargs='+', help='names without .ipynb')
    ap.add_argument('--limit', type=int, default=300, help='seconds for one run; longer counts as caught')
    ap.add_argument('--jobs', type=int, default=2, help='runs at a time')
    args, alive = ap.parse_args(), []
    sys.path.insert(0, str(ROOT))
    import matplotlib, scipy.stats, sklearn.cluster, sympy, torch, torchvision  # once, before forking

    torch.set_num_threads(1)
    for name in args.notebooks:
        todo, t = list(mutants(name)), time.time()
        assert survives_unchanged(name, args.limit), f'{name} fails as it is'
        with Fork().Pool(args.jobs, maxtasksperchild=1) as pool:
            for (i, what, _), caught in zip(todo, pool.imap(survives, [(name, i, c, args.limit) for i, _, c in todo])):
                if caught is None:
                    alive.append(f'{name}, {what}')
                print(
                    f"{'SURVIVED' if caught is None else 'caught  '}  {what}" + (f'   [{caught}]' if caught else ''),
                    flush=True,
                )
        survived = sum(a.startswith(name) for a in alive)
        print(f'{name}: {len(todo)} changes, {survived} survived, {time.time() - t:.0f} s\n', flush=True)
    print('\n'.join(['Survivors:', *alive]) if alive else 'None survived')
    return bool(alive)


def survives_unchanged(name, limit):
    "Whether the notebook passes as it is."
    with Fork().Pool(1) as pool:
        caught = pool.apply(survives, [(name, -1, '', limit)])
    if caught:
        print(caught)
    return caught is None


if __name__ == '__main__':
    sys.exit(main())
