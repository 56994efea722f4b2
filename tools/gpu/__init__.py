"What the parts of tools/gpu.py share: the clock, the records, and how they are printed."

import contextlib
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path

import torch

from ssdd_nb.files import digest, write_json
from ssdd_nb.records import describe


class Clock:
    "How much of a time limit is left."

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return self.end - time.monotonic()


class Records:
    "One JSON file for each item, written when the item is done; the next call skips what is there."

    def __init__(self, out, device, about, commit=None):
        self.out = Path(out)
        self.device = device
        self.made = {**describe(device), 'command': command_line(), **(dict(commit=commit) if commit else {})}
        made_by = [self.made[k] for k in ('device', 'versions', 'commit')]
        self.key = digest(made_by, json.loads(json.dumps(about)))

    def file(self, part, name):
        return self.out / part / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"

    def read(self, part, name):
        "The record of an item, or None if there is none that was made in the same way."
        try:
            found = json.loads(self.file(part, name).read_text(encoding='utf8'))
        except (OSError, ValueError):
            return None
        return found if found['key'] == self.key else None

    def write(self, part, name, result):
        record = dict(part=part, name=name, at=time.time(), **result, made=self.made, key=self.key)
        write_json(self.file(part, name), record)
        return record


def command_line():
    "The command, without the folders of the machine that it ran on."
    words = [Path(w).name if os.path.isabs(w) else w for w in sys.argv[1:]]
    return ' '.join(['python', 'tools/gpu.py', *words])


def run_items(part, items, records, clock, show):
    "Compute what is not recorded yet while there is time; the names of what was left out."
    for at, (name, compute) in enumerate(items):
        if found := records.read(part, name):
            print(f'{show(found)}  (recorded before)', flush=True)
            continue
        if clock.left() <= 0:
            return [n for n, _ in items[at:] if not records.read(part, n)]
        start = time.monotonic()
        result = attempt(compute)
        result['seconds_taken'] = round(time.monotonic() - start, 2)
        print(show(records.write(part, name, result)), flush=True)
        if result.get('error'):
            start_again_if_dead(records.device)
    return []


def attempt(compute):
    "What an item returns, or what went wrong in it."
    try:
        return compute()
    except (Exception, SystemExit) as e:
        return dict(error=in_one_line(e))
    finally:
        free()


def free():
    "Give the card's unused memory back."
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def in_one_line(e):
    "An exception: where in the library, its kind, its message."
    frames = [f for f in traceback.extract_tb(e.__traceback__) if 'ssdd_nb' in f.filename]
    where = f'{Path(frames[-1].filename).name}:{frames[-1].lineno} ' if frames else ''
    message = ' '.join(str(e).split())[:300]
    return f'{where}{type(e).__name__}: {message}'


def start_again_if_dead(device):
    "After an error that a CUDA context does not survive, go on in a fresh process: what is recorded is skipped."
    if device.type != 'cuda':
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        print('the card needs a fresh process', flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def relative(a, b):
    "The distance of two tensors, relative to the length of the second."
    a, b = (t.detach().double().cpu() for t in (a, b))
    if a.shape != b.shape:
        return float('inf')
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item()


def aligned(head, rows):
    "A table for a terminal."
    rows = [[str(c) for c in r] for r in [head, *rows]]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    lines = ['  '.join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in rows]
    lines.insert(1, '  '.join('─' * w for w in widths))
    return '\n'.join(line.rstrip() for line in lines)
