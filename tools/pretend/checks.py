"Named checks in named groups."

import contextlib
import os
import time
import traceback
from collections import Counter

import card as cards

GROUPS = {}  # name: a function of `Checks`


def group(f):
    "Register a group of checks under the function's name."
    GROUPS[f.__name__] = f
    return f


class Checks:
    "Calls what is to be checked; keeps a line for each failure, and goes on."

    def __init__(self, card, group):
        self.card, self.group, self.n, self.lines, self.notes, self.times = card, group, 0, [], [], {}

    def __call__(self, name, call):
        "Call it without arguments; fails if it raises, or if the card notes a fault. Returns what it returned."
        self.n += 1
        before, begun = Counter(self.card.faults), time.time()
        try:
            got = call()
        except (Exception, KeyboardInterrupt) as e:
            return self.failed(name, self.said(e))
        finally:
            self.times[name] = time.time() - begun
        if new := self.card.faults - before:
            more = f' (and {len(new) - 1} more)' if len(new) > 1 else ''
            self.failed(name, next(iter(new)) + more)
        return got

    def failed(self, name, what):
        "Note a failure."
        self.lines.append(f'FAILED  {self.group}: {name}: {what}')

    def note(self, line):
        "A line to be printed whether anything fails or not."
        self.notes.append(line)

    def said(self, error):
        "An error in one line: the innermost line of the package, its kind, its message."
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if self.card.folder in f.filename] or frames
        message = (str(error).splitlines() or [''])[0]
        place = f'{os.path.basename(own[-1].filename)}:{own[-1].lineno} {own[-1].name}'
        cause = f' (from {str(error.__cause__).splitlines()[0][:80]})' if error.__cause__ else ''
        return f'{place}: {type(error).__name__}: {message[: 150 - len(cause)]}{cause}'


def run_group(name):
    "All checks of a group on a card of its own; the `Checks`, without the card."
    begun = time.time()
    with cards.pretend('ssdd_nb') as card:
        check = Checks(card, name)
        try:
            GROUPS[name](check)
        except Exception as e:
            check.failed('the group ends early', check.said(e))
    check.card, check.seconds = None, time.time() - begun
    return check


@contextlib.contextmanager
def raises(kind, words=''):
    "Asserts that the block raises an error of this kind whose message holds these words."
    try:
        yield
    except kind as e:
        assert words in str(e), f'the error says {str(e)[:80]!r}, not {words!r}'
        return
    raise AssertionError(f'no {kind.__name__} ({words})')
