"gpu.json, and the tables on the terminal: from nothing but the records."

import json
import statistics
from pathlib import Path

from gpu import aligned
from ssdd_nb.files import write_json

PARTS = 'check', 'speed', 'scale'


def gather(out):
    "All records under a folder, part by part, as one thing that JSON can hold."
    found = {}
    for part in PARTS:
        records = [json.loads(p.read_text(encoding='utf8')) for p in sorted((Path(out) / part).glob('*.json'))]
        found[part] = sorted((r for r in records if 'key' in r), key=lambda r: r.get('at', 0))
    every = [r for records in found.values() for r in records]
    made = [json.loads(m) for m in dict.fromkeys(json.dumps(r['made']) for r in every)]
    machine = {k: made[0][k] for k in ('device', 'versions', 'commit')} if made else {}
    calls = list(dict.fromkeys((m['command'], m['date'][:10], m['device']) for m in made))
    return dict(
        machine=machine,
        date=made[0]['date'] if made else None,
        calls=[list(c) for c in calls],
        mixed=len({(m['device'], m['commit']) for m in made}) > 1,
        **{part: [bare(r) for r in records] for part, records in found.items()},
    )


def bare(r):
    "A record without what all records of a call share."
    return {k: v for k, v in r.items() if k not in ('made', 'key', 'part', 'at')}


def report(out):
    "Write gpu.json and print it; 1 if a check failed or an item stopped with an error."
    result = gather(out)
    write_json(Path(out) / 'gpu.json', result)
    for part, print_it in dict(check=checks_table, speed=speeds_table, scale=scale_table).items():
        if result[part]:
            print(f'\n{print_it(result)}')
    if result['mixed']:
        print('\nthese records are of more than one machine or commit')
    done = [(p, r) for p in PARTS for r in rows_of(result, p)]
    wrong = [f"{p}: {r['name']}" for p, r in done if r.get('error') or r.get('passed') is False]
    print(f'\n{len(wrong)} of {len(done)} items failed' + (f": {', '.join(wrong)}" if wrong else ''))
    print(f"the numbers  {Path(out) / 'gpu.json'}")
    return bool(wrong)


def rows_of(result, part):
    return [r for r in result[part] if 'left_out' not in r]


def checks_table(result):
    "A row for each check."

    def cells(r):
        if r.get('error'):
            return [r['name'], 'failed', '', '', '', f"{r['seconds_taken']:.1f}"]
        word = {True: 'passed', False: 'FAILED', None: 'noted'}[r['passed']]
        limit = '' if r['tolerance'] is None else f"{r['tolerance']:g}"
        return [
            r['name'],
            word,
            f"{r['gap']:.2g}",
            limit,
            {True: 'yes', False: 'no'}.get(r.get('bit_equal'), ''),
            f"{r['seconds_taken']:.1f}",
        ]

    return aligned(['check', 'result', 'gap', 'at most', 'equal bits', 'seconds'], map(cells, rows_of(result, 'check')))


def speed_rows(result):
    "(path, variant, seconds, times faster than the first variant, MiB), path by path."
    for r in rows_of(result, 'speed'):
        for v in r.get('rows', []):
            yield r['name'], v['variant'], v['seconds'], r['rows'][0]['seconds'] / v['seconds'], v['peak_mib']


def speeds_table(result):
    body = [[n, v, f'{1e3 * s:.2f}', f'{x:.2f}×', f'{mib:,.0f}'] for n, v, s, x, mib in speed_rows(result)]
    return aligned(['what', 'variant', 'ms', 'faster', 'MiB'], body)


def mean_std(values):
    "Mean ± standard deviation over seeds."
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{spread}'


def scale_table(result):
    rows = [r for r in result['scale'] if 'accuracy' in r]
    labels = list(dict.fromkeys(k for r in rows for k in r['accuracy']))
    body = []
    for n in dict.fromkeys(r['method'] for r in rows):
        mine = [r for r in rows if r['method'] == n]
        far = [r['target_mse'] for r in mine if 'target_mse' in r]
        body.append(
            [
                n,
                str(mine[0].get('m', '')),
                *[mean_std([r['accuracy'][k] for r in mine]) for k in labels],
                f'{statistics.mean(far):.3f}' if far else '',
                str(len(mine)),
            ]
        )
    return aligned(['set', 'images', *[f'{float(k):.0%} labels' for k in labels], 'MSE to teacher', 'seeds'], body)
