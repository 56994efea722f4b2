"""Two processes on two pretended cards, which talk through a pretended NCCL.

Each writes a line for each name into FOLDER/said-RANK. The group `two_cards` starts a pair, and another one for what is
left when a pair breaks off.
"""

import multiprocessing
import os
import socket
import tempfile
import time
from pathlib import Path

from checks import Checks, group

SECONDS = 100  # after which a pair is given up
NAMES = (
    'teacher',
    'moco',
    'dino',
    'KRR-ST',
    'KRR-ST, batch norm',
    'experts',
    'MKDT',
    'MKDT, two problems',
    'SC-DD',
    'TESLA',
    'FRePo',
    'coreset',
)


@group
def two_cards(check):
    left = list(NAMES)
    while left:
        said = pair(left)
        done = [name for name in left if any(name in of for of in said)] or left[:1]
        for name in done:
            check(name, lambda: agree(*[of.get(name) for of in said]))
        left = left[len(done) :]


def agree(*said):
    "Both went through; of two errors, the one that does not complain of the other process."
    wrong = [s or 'did not come to an end' for s in said if s != 'fine']
    own = [s for s in wrong if 'Lost' not in s]
    assert not wrong, (own or wrong)[0]


def pair(names):
    "Start two processes; for each, what it said of each name."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as d:
        env = dict(WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        server = multiprocessing.get_context('forkserver')  # the present process has a card of its own
        server.set_forkserver_preload(['card', 'paths'])
        calls = [(dict(env, RANK=r, LOCAL_RANK=r), Path(d), names) for r in '01']
        started = [server.Process(target=one_of_two, args=args) for args in calls]
        for p in started:
            p.start()
        late = time.monotonic() + SECONDS
        for p in started:
            p.join(late - time.monotonic())
        for p in started:
            p.kill()
        files = [Path(d) / f'said-{r}' for r in '01']
        lines = [f.read_text().splitlines() if f.exists() else [] for f in files]
        return [dict(line.split('\t', 1) for line in of) for of in lines]


def one_of_two(env, folder, names):
    "Go through the names; stop at the first that raises an error."
    os.environ.update(env)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    import card as cards
    import paths

    with cards.pretend('ssdd_nb') as card, open(folder / f"said-{os.environ['RANK']}", 'w', buffering=1) as said:
        paths.join()
        check, todo = Checks(card, ''), paths.two_cards()
        assert tuple(todo) == NAMES, 'paths.two_cards and NAMES differ'
        for name in names:
            before, came_through = len(check.lines), []
            check(name, lambda: came_through.append(todo[name](folder / name)))
            wrong = [line.split(f'{name}: ', 1)[1] for line in check.lines[before:]]
            said.write(f"{name}\t{wrong[0] if wrong else 'fine'}\n")
            if not came_through:
                os._exit(1)  # the other process notices
        os._exit(0)  # without waiting for Gloo's threads
