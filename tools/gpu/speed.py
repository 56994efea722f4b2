"How fast is every hot path, beside a plain implementation, in each precision, and compiled?"

import math
from dataclasses import replace

import torch

from gpu import free
from ssdd_nb.methods import experts, trajectory_gradient
from ssdd_nb.experiments import plain as plain_
from ssdd_nb import posttrain, teacher_training, teachers
from ssdd_nb.core import compiling, generator, precision
from ssdd_nb.images import Images
from ssdd_nb.distilled import distilled_from
from ssdd_nb.nets import make_net
from ssdd_nb.pretraining import Pretraining, Recipe, Student
from ssdd_nb.probes import linear_probe
from ssdd_nb.methods.krrst import KRRSTTask
from ssdd_nb.costs import rates

# path: the sizes to try, largest first; where one does not fit, the next one is measured
SIZES = {
    'card': {
        'KRR-ST step': [dict(m=1000, batch=1024), dict(m=500, batch=512), dict(m=100, batch=102)],
        'teacher step': [dict(batch=256), dict(batch=128), dict(batch=64)],
        'MKDT walk': [
            dict(N=40, batch=256, width=128, k=512),
            dict(N=40, batch=128, width=128, k=512),
            dict(N=40, batch=64, width=64, k=128),
        ],
        'expert step': [dict(n=2048, batch=256, side=32, width=128)],
        'SC-DD iteration': [dict(net='resnet18', side=32, classes=100, batch=100)],
        'pre-training step': [dict(n=1000, batch=256, side=32, widths=(128, 256, 512))],
        'linear probe': [dict(n=5000, d=8192), dict(n=2500, d=4096)],
        'post-training step': [dict(net='resnet18', classes=100, side=32, batch=64)],
    },
    'tiny': {
        'KRR-ST step': [dict(m=10, batch=12, side=8, widths=(8, 16, 32))],
        'teacher step': [dict(batch=16, side=8, tiny=True)],
        'MKDT walk': [dict(N=3, batch=8, width=8, side=8, k=16)],
        'expert step': [dict(n=64, batch=16, side=8, width=8)],
        'SC-DD iteration': [dict(net='resnet_tiny', side=8, classes=6, batch=6, widths=(8, 8, 8))],
        'pre-training step': [dict(n=20, batch=16, side=8, widths=(8, 16))],
        'linear probe': [dict(n=50, d=64)],
        'post-training step': [dict(net='convnet', classes=6, side=8, batch=8)],
    },
}


# ---- the paths: each makes the steps to time, `plain` (if there is a plain implementation) and `ours`


def noise_images(n, side, device, classes=0):
    x = torch.randint(0, 256, (n, 3, side, side), generator=generator(0, 'speed'), dtype=torch.uint8).to(device)
    y = torch.arange(n, device=device) % classes if classes else None
    return Images(x, y, tuple(map(str, range(classes))), name='random bytes')


def krrst_step(device, **size):
    images, teacher, cfg = plain_.krrst_problem(device=device, **size)
    made = dict(plain=plain_.PlainKRRST(images, teacher, cfg), ours=KRRSTTask(images, teacher, cfg))
    for task in made.values():
        task.pool = [task.fresh()]  # untrained: what is timed does not depend on it
    made['plain'].pool[0].net.to(memory_format=torch.contiguous_format)
    return {v: task.step for v, task in made.items()}


def teacher_step(device, batch, side=32, tiny=False):
    images = noise_images(max(64, 2 * batch), side, device)
    cfg = replace(teacher_training.tiny(3, side), widths=(8, 16, 32)) if tiny else teacher_training.paper()
    cfg = replace(cfg, batch=batch, steps=10_000)
    return dict(plain=plain_.PlainTeacher(images, cfg).step, ours=teacher_training.TeacherTask(images, cfg).step)


def mkdt_walk(device, **size):
    problem = plain_.mkdt_problem(device=device, **size)
    return dict(
        plain=lambda: trajectory_gradient.unrolled(*problem),
        ours=lambda: trajectory_gradient.sweep(*problem),
        more={'ours, all graphs kept': lambda: trajectory_gradient.sweep(*problem, keep=size['N'])},
    )


class NoFiles(experts.ExpertTask):
    "Experts that leave no snapshots."

    def snapshot(self, epoch):
        pass


def expert_step(device, n, batch, side, width):
    images = noise_images(n, side, device)
    targets = torch.randn(n, 512, generator=generator(0, 'speed targets')).to(device)
    cfg = experts.ExpertConfig(experts=4, epochs=10_000, batch=batch, widths=(width,) * 3)
    to = experts.Trajectories('nowhere', cfg)
    four = NoFiles(images, targets, cfg, 0, to, 4, True)  # a step of it is one of each of the four
    return dict(
        plain=plain_.PlainExpert(images, targets, cfg).step,
        ours=NoFiles(images, targets, cfg, 0, to, 1).step,
        more={TOGETHER: four.step},
    )


def scdd_iteration(device, **size):
    plain = plain_.scdd_problem(plain_.PlainSCDD, torch.contiguous_format, device=device, **size)
    return dict(plain=plain.step, ours=plain_.scdd_problem(device=device, **size).step)


def pretraining_step(device, n, batch, side, widths):
    images = noise_images(n, side, device)
    targets = torch.randn(n, 512, generator=generator(0, 'speed targets')).to(device)
    d = distilled_from(images.normalised(), targets, images, method='random', config={}, seed=0)
    net = Student(widths=widths, norm='batch').make(images, 512, 0)
    return dict(ours=Pretraining(net, d, Recipe(10_000, batch=batch)).step)


def probe(device, n, d):
    gen = generator(0, 'speed probe')
    f, y = torch.randn(n, d, generator=gen), torch.randint(10, (n,), generator=gen)
    on_card = f.to(device), y.to(device)
    return dict(ours=lambda: linear_probe(*on_card, 10))


def post_training_step(device, net, classes, side, batch):
    images = noise_images(2 * classes, side, device, classes)
    d = distilled_from(images.normalised(), images.y, images, method='random', config={}, seed=0, target_kind='labels')
    network = teachers.Classifier(make_net(net, 3, (side, side), classes).to(device), images.mean, images.std)
    recipe = replace(posttrain.paper_post('cifar100'), steps=10_000, batch=batch)
    fresh = Student(net, norm='batch').make(images, classes, 0)
    return dict(ours=posttrain.PostTraining(fresh, d, recipe, network).step)


PATHS = {
    'KRR-ST step': krrst_step,
    'teacher step': teacher_step,
    'MKDT walk': mkdt_walk,
    'expert step': expert_step,
    'SC-DD iteration': scdd_iteration,
    'pre-training step': pretraining_step,
    'linear probe': probe,
    'post-training step': post_training_step,
}
ALWAYS_FLOAT64 = ('linear probe',)  # whatever the precision
TOGETHER = 'four at once, each'  # its time is a quarter of the four's


# ---- measuring


def under(name, device, step):
    "A step in a precision."

    def call():
        with precision(name, device):
            step()

    return call


def variants(path, made, precisions, device):
    "What is timed in turn: plain in float32, ours in every precision, and what else there is in float32."
    steps = {}
    if made.get('plain'):
        steps['plain'] = under('float32', device, made['plain'])
    if path in ALWAYS_FLOAT64:
        return dict(float64=made['ours'])
    for p in precisions:
        steps[p] = under(p, device, made['ours'])
    for name, step in made.get('more', {}).items():
        steps[name] = under('float32', device, step)
    return steps


def timed(path, steps, size, reps, device):
    "Rows of bench.take_turns: warmed up, synchronised, the median, in turn."
    for step in steps.values():
        step()  # once more than take_turns does: caches are filled
    rows = plain_.take_turns(path, steps, reps, device, show=False, count=False)
    for r in rows:
        if r['variant'] == TOGETHER:
            r.update(seconds=r['seconds'] / 4, all_seconds=[s / 4 for s in r['all_seconds']])
    kept = 'variant', 'seconds', 'peak_mib', 'all_seconds'
    return dict(
        size={k: list(v) if isinstance(v, tuple) else v for k, v in size.items()},
        rows=[{k: r[k] for k in kept} for r in rows],
    )


def stepping_down(path, how, measure):
    "The largest size that fits."
    tried = []
    for size in SIZES[how.sizes][path]:
        try:
            return dict(measure(size), did_not_fit=tried)
        except torch.OutOfMemoryError:
            tried.append({k: str(v) for k, v in size.items()})
        free()
    return dict(error='no size fits', did_not_fit=tried)


def one_path(path, how, device):
    "All variants but the compiled one."

    def measure(size):
        made = PATHS[path](device, **size)
        return timed(path, variants(path, made, how.precisions, device), size, how.reps, device)

    return stepping_down(path, how, measure)


def compiled_path(path, how, device):
    "Ours, compiled and not, in one precision."

    def measure(size):
        usual = PATHS[path](device, **size)['ours']
        with compiling():
            fast = PATHS[path](device, **size)['ours']
        steps = {how.compiled_in: usual, f'{how.compiled_in}, compiled': fast}
        return timed(path, {n: under(how.compiled_in, device, s) for n, s in steps.items()}, size, how.reps, device)

    return stepping_down(path, how, measure)


def machine(how, device):
    "What the card reaches where nothing is in the way."
    return dict(rates={p: rates(device, precision_name=p) for p in how.rates_in})


def items(how, records, clock, args):
    "All paths, then the compiled ones, which take long to build."
    device = records.device
    listed = [('rates', lambda: machine(how, device))] if how.rates_in else []
    listed += [(p, lambda p=p: one_path(p, how, device)) for p in PATHS]
    return listed + [(f'{p}, compiled', lambda p=p: compiled_path(p, how, device)) for p in how.compile_speeds]


def show(r):
    "A line for the terminal."
    if r.get('error'):
        return f"FAILED  {r['name']}: {r['error']}"
    if 'rates' in r:
        return 'GFLOP/s: ' + '; '.join(
            f"{p} convolution {v['convolution']:,.0f}, product {v['product']:,.0f}" for p, v in r['rates'].items()
        )
    return f"{r['name']}: " + ', '.join(f"{v['variant']} {in_ms(v['seconds'])}" for v in r['rows'])


def in_ms(seconds):
    "Milliseconds with three digits."
    digits = max(0, 2 - math.floor(math.log10(max(1e3 * seconds, 1e-3))))
    return f'{1e3 * seconds:.{digits}f} ms'
