#!/usr/bin/env python3
"""Does the library do on a graphics card what it does on a CPU, how fast, and what comes of ten minutes of it?

    python tools/gpu.py [check] [speed] [scale] [report] [--seconds N] [--data FOLDER] [--out FOLDER] [--tiny]

  check   every method and command for a few steps on the card, against the CPU; resume, bf16, compile, views, memory
  speed   every hot path beside a plain implementation, in float32, TF32, bf16 and compiled
  scale   CIFAR-10 at 32 pixels: a Barlow Twins teacher, KRR-ST's 1,000 images, students pre-trained on them, probes
  report  nothing is computed: gpu.json and the tables from what is recorded under --out

Without names: check, speed and scale. Every item is recorded as soon as it is done, under --out; the same command again
skips what is recorded and takes up what was cut off. To measure something anew, remove its file. All of it ends in one
file, gpu.json, which goes to nbs/results/runs/gpu.json.

A rented machine whose commands are cut at 600 seconds, and which has 900 seconds in all: two calls.

    call 1   for i in 1 2 3 4; do python tools/gpu.py check --share $i/4 --out gpu & done; wait
             python tools/gpu.py speed --seconds 150 --out gpu
    call 2   python tools/gpu.py scale --seconds 400 --data DATA --out gpu

With `--share` several processes check side by side, for a check waits for the CPU more than for the card.

Start-up, the first kernels and the copying of files take the rest: a machine took one minute to come, another nearly
three. Where a call leaves only what is in a folder of its
own, copy both folders into one and run `python tools/gpu.py report --out THAT_FOLDER` anywhere.

What has to be there: PyTorch, torchvision, scikit-learn, SciPy, safetensors, NumPy and Pillow, and of this repository
the folders ssdd_nb and tools. No network is used. fastcore and tqdm come as wheels: `pip download fastcore tqdm
--no-deps -d wheels` at home, `pip install --no-index --no-deps wheels/*.whl` there. Only the commands want Matplotlib.
DATA is a folder with train.zip and test.zip, a folder for each class in each.

--tiny does all of this on the CPU with handwritten digits and tiny settings, to try it out, in about a minute.
"""

import argparse
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ['TQDM_DISABLE'] = '1'

PARTS = 'check', 'speed', 'scale'


@dataclass(frozen=True)
class Settings:
    "All settings of all parts."

    # time
    seconds: float = 600  # of all parts together
    check_seconds: float = 90
    speed_seconds: float = 150  # scale has the rest
    # check: the largest gap between card and CPU that passes, relative
    steps: int = 4  # of each method
    close: float = 5e-3  # losses in float32
    close_set: float = 5e-2  # images and weights in float32: Adam moves by the sign of what may be noise
    close_bf16: float = 0.1  # first loss in bf16
    close_compiled: float = 5e-3  # losses with torch.compile
    close_pixels: float = 1e-4  # views made of the same random numbers
    close_score: float = 0.05  # a command's numbers
    products: tuple = (('float32', 1e-5), ('tf32', 2e-3), ('bf16', 2e-2))
    compile_checks: tuple = ('krrst', 'teacher', 'experts')
    commands: tuple = ('teacher', 'distill', 'eval', 'compare', 'compare posttrain', 'bench', 'study', 'demo')
    leave_out: tuple = ()  # checks by name
    # speed
    reps: int = 5  # timed calls of each variant, in turn
    precisions: tuple = ('float32', 'tf32', 'bf16')
    rates_in: tuple = ('float32', 'tf32', 'bf16')
    compiled_in: str = 'tf32'  # the precision in which compiled and not compiled are compared
    compile_speeds: tuple = ('KRR-ST step', 'teacher step', 'expert step')
    sizes: str = 'card'  # a column of speed.SIZES
    # scale
    precision: str = 'tf32'
    m: int = 1000  # synthetic images
    seeds: int = 3  # students, labelled images, and random subsets
    labels: tuple = (0.01, 0.05, 0.1)
    draws: int = 5  # of labelled images, where there are at most 20 a class
    teacher_share: float = 0.4  # of the time that is left after loading
    krrst_share: float = 0.25  # the rest is for students and probes
    fill_share: float = 0.15  # of KRR-ST's share, at most, to fill its pool of models
    safety: float = 0.85  # of a share is planned for: clocks and cards vary
    late: float = 1.25  # a share's multiple after which a training is ended where it stands
    most_teacher_steps: int = 78_000  # the paper's 400 epochs
    teacher_batch: int = 256
    most_krrst_steps: int = 160_000  # the paper's
    most_pool_steps: int = 1000  # T, the paper's; fewer where the pool would take too long to fill
    krrst_batch: int = 1024
    krrst_lr: float = 1e-3  # the arXiv version's for all data sets: there are few steps
    widths: tuple | None = (128, 256, 512)  # of the ConvNet that KRR-ST trains, and of the students
    norm: str = 'batch'  # its normalisation
    student_batch: int = 256
    most_student_steps: int = 3000  # the paper's 1,000 epochs of 1,000 images
    kmeans_of: int = 10_000  # k-means looks at a random part of the images


CARD = Settings()
TINY = replace(
    CARD,
    seconds=600,
    check_seconds=300,
    speed_seconds=100,
    steps=3,
    compile_checks=('krrst',),
    commands=('distill', 'compare posttrain'),
    leave_out=('cafe-dsa', 'resume, cafe', 'resume, cafe-dsa', 'resume, dc', 'resume, dsa', 'bf16, dc'),
    reps=1,
    rates_in=(),
    precisions=('float32', 'tf32'),
    compiled_in='float32',
    compile_speeds=('KRR-ST step',),
    sizes='tiny',
    precision='float32',
    m=20,
    seeds=2,
    labels=(0.01, 0.1),
    draws=1,
    most_teacher_steps=20,
    teacher_batch=64,
    most_krrst_steps=20,
    krrst_batch=64,
    krrst_lr=4e-2,
    most_pool_steps=4,
    widths=None,
    norm='instance',
    student_batch=64,
    most_student_steps=10,
    kmeans_of=400,
)


def arguments():
    ap = argparse.ArgumentParser(
        prog='python tools/gpu.py', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument('parts', nargs='*', metavar='PART', help='check, speed, scale or report (default: the first three)')
    ap.add_argument('--seconds', type=float, help='of all parts together (default: 600)')
    ap.add_argument('--check-seconds', type=float, help='time limit of check (default: 90)')
    ap.add_argument('--speed-seconds', type=float, help='time limit of speed (default: 150); scale has the rest')
    ap.add_argument('--data', help='folder with train.zip and test.zip, for scale')
    ap.add_argument('--out', default='gpu', help='folder for the records and gpu.json (default: gpu)')
    ap.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 (default: auto)')
    ap.add_argument('--share', help='2/4: the second quarter of the checks, for processes side by side')
    ap.add_argument('--only', action='append', help='this check alone; may be given more than once')
    ap.add_argument('--commit', help='of the library, where the checkout has no history')
    ap.add_argument('--tiny', action='store_true', help='on the CPU, with digits and tiny settings')
    args = ap.parse_args()
    wrong = [p for p in args.parts if p not in (*PARTS, 'report')]
    if wrong:
        ap.error(f'{wrong[0]}: no such part; there are check, speed, scale and report')
    if not args.tiny and not args.data and 'scale' in args.parts:
        ap.error('scale needs --data, a folder with train.zip and test.zip')
    if args.data and not all((Path(args.data) / f'{n}.zip').is_file() for n in ('train', 'test')):
        ap.error(f'--data {args.data}: there is no train.zip and test.zip in it')
    if args.share and not re.fullmatch(r'[1-9]/[1-9]', args.share):
        ap.error(f'--share {args.share}: must be such as 2/4')
    return args


def settings(args):
    given = dict(seconds=args.seconds, check_seconds=args.check_seconds, speed_seconds=args.speed_seconds)
    return replace(TINY if args.tiny else CARD, **{k: v for k, v in given.items() if v})


def main():
    args = arguments()
    how = settings(args)
    if args.tiny:
        os.environ['TORCHDYNAMO_DISABLE'] = '1'  # torch.compile takes a minute on a CPU
    os.environ.setdefault('GPU_ENDS', str(time.time() + how.seconds))  # a process that starts again keeps the end
    from gpu import Clock, Records
    from gpu.report import report
    from ssdd_nb.core import get_device

    whole = Clock(float(os.environ['GPU_ENDS']) - time.time())
    device = get_device('cpu' if args.tiny else args.device)
    parts = args.parts or PARTS
    kept = {k: v for k, v in asdict(how).items() if not k.endswith('seconds')}
    records = Records(args.out, device, dict(kept, tiny=args.tiny), args.commit)
    print(f"{records.made['device']}, torch {records.made['versions']['torch']}, commit {records.made['commit']}")
    for name in PARTS:
        if name in parts:
            run_part(name, how, records, whole, args)
    return report(args.out)


def run_part(name, how, records, whole, args):
    "One part within its limit; what was left out is recorded too."
    from gpu import Clock, check, run_items, scale, speed

    if name == 'scale' and not (args.tiny or args.data):
        print('\nscale is left out: it needs --data')
        return
    limit = min(whole.left(), dict(check=how.check_seconds, speed=how.speed_seconds).get(name, whole.left()))
    clock = Clock(limit)
    print(f'\n{name}, {max(0, limit):.0f} s')
    part = dict(check=check, speed=speed, scale=scale)[name]
    items = part.items(how, records, clock, args)
    summary = 'summary'
    if name == 'check' and args.share:
        at, of = map(int, args.share.split('/'))
        items, summary = items[at - 1 :: of], f'summary {args.share}'
    if name == 'check' and args.only:
        items = [(n, compute) for n, compute in items if n in args.only]
    left_out = run_items(name, items, records, clock, part.show)
    records.write(name, summary, dict(limit=round(limit), taken=round(limit - clock.left()), left_out=left_out))
    if left_out:
        print(f"no time was left for {', '.join(left_out)}")


if __name__ == '__main__':
    sys.exit(main())
