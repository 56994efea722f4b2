"Does the card compute what the CPU computes?"

import contextlib
import io
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch

from gpu import relative
from ssdd_nb.methods import coresets, experts, forgetting, kernels, krrst, matching, mkdt, scdd, trajectories
from ssdd_nb import distortions, posttrain, protocols, soft_labels, ssl_losses, teacher_training, teachers
from ssdd_nb.core import compiling, generator, get_device, place, precision
from ssdd_nb.records import peak_mib, reset_peak
from ssdd_nb.runs import run
from ssdd_nb.data import load_images
from ssdd_nb.nets import make_net
from ssdd_nb.pretraining import Pretraining, Recipe, Student

LOGGED = 'outer', 'match', 'ce', 'loss'  # what a method minimises, whatever it is called in its log
STILL = distortions.Views()  # no random views: these are drawn where the images are
ALL_VIEWS = replace(teacher_training.PHOTO_VIEWS, rotate=10, shift=0.1, scale=0.1, shear=0.1, blur=0.5)


# ---- the problem, on either device


def problem(device):
    "The problem on a device, made once."
    return made_on(str(device))


@cache
def made_on(device):
    "A few digits, a teacher, a network with classes, and MKDT's experts."
    device = torch.device(device)
    train, test = load_images('digits')
    train, test = (images[torch.arange(n)].to(device) for images, n in ((train, 160), (test, 60)))
    net = make_net('resnet_tiny', 1, (8, 8), 10, seed=0, widths=(8, 16, 32), norm='batch')
    classifier = teachers.Classifier(net.to(device), train.mean, train.std, dict(loss='supervised'))
    on = SimpleNamespace(device=device, train=train, test=test, teacher=teachers.load_teacher('digits'), net=classifier)
    on.experts = experts.experts(train, on.teacher, EXPERTS, show=False)
    on.mtt_experts = experts.experts(train, None, MTT_EXPERTS, show=False)
    on.set = posttrain.random_set(train, 2)
    on.colours = torch.rand(32, 3, 32, 32, generator=generator(0, 'check colours')).to(device)
    return on


EXPERTS = experts.ExpertConfig(experts=2, epochs=3, batch=40, widths=None)
MTT_EXPERTS = replace(trajectories.tiny('mtt').experts, experts=2, epochs=3, batch=40)
WALK = dict(syn_steps=4, max_start_epoch=1, expert_epochs=2, batch=8)


# ---- every method, for a few steps: a function of a problem and of what goes to `run`


def makers(steps):
    "Methods by name."
    small = dict(batch=32, pool=2, max_steps=3)
    made = {
        'krrst': distiller(krrst.krrst, replace(krrst.tiny(10, steps), **small)),
        'krrst, batch norm': distiller(krrst.krrst, replace(krrst.tiny(10, steps), norm='batch', **small)),
        'mkdt': mkdt_maker(replace(mkdt.tiny(12, steps), experts=EXPERTS, **WALK)),
        'scdd': distiller(scdd.scdd, replace(scdd.tiny(2, steps), batch=20, jitter=0)),
        'sre2l': sre2l_maker(replace(scdd.tiny(2, steps), batch=20, jitter=0)),
        'mtt': mtt_maker(replace(trajectories.tiny('mtt', 20, steps), experts=MTT_EXPERTS, **WALK)),
        'tesla': mtt_maker(replace(trajectories.tiny('tesla', 20, steps), experts=MTT_EXPERTS, **WALK)),
        'kip': of_labels(kernels.kip, replace(kernels.tiny('kip', 20, steps), batch=64)),
        'rfad': of_labels(kernels.kip, replace(kernels.tiny('rfad', 20, steps), batch=64)),
        'frepo': of_labels(kernels.frepo, replace(kernels.tiny('frepo', 20, steps), **small)),
    }
    for name in matching.MATCHERS:
        made[name] = distiller(matching.matching, matching.tiny(name, 2, steps))
    for name in ('random', 'kmeans', 'herding', 'sas'):
        made[name] = coreset(getattr(coresets, name))
    made['forgetting'] = coreset(forgetting.forgetting, epochs=2)
    made['highloss'] = coreset(mkdt.highloss, experts_cfg=EXPERTS)
    for name in ssl_losses.LOSSES:
        made[f'teacher, {name}'] = teacher_maker(name, steps, STILL)
    made |= {'pre-training': pretrained, 'post-training': post_trained, 'fine-tuning': finetuned}
    made['experts'] = trained_experts
    return {name: partial_steps(make, steps) for name, make in made.items()}


def partial_steps(make, steps):
    return lambda on, **kwargs: make(on, steps, **kwargs)


def distiller(fn, cfg):
    return lambda on, steps, **kw: fn(on.train, on.teacher, cfg, show=False, **kw)


def of_labels(fn, cfg):
    return lambda on, steps, **kw: fn(on.train, cfg, show=False, **kw)


def sre2l_maker(cfg):
    return lambda on, steps, **kw: scdd.scdd(on.train, on.net, cfg, show=False, **kw)


def mkdt_maker(cfg):
    return lambda on, steps, **kw: mkdt.mkdt(on.train, on.teacher, cfg, to=on.experts, show=False, **kw)


def mtt_maker(cfg):
    return lambda on, steps, **kw: trajectories.mtt(on.train, cfg, to=on.mtt_experts, show=False, **kw)


def coreset(choose, **settings):
    return lambda on, steps, **kw: choose(on.train, on.teacher, 10, show=False, **settings, **kw)


def teacher_config(name, steps, views):
    queue = dict(queue=64) if name in ('moco', 'swav') else {}
    cfg = replace(
        teacher_training.tiny(1, 8, name), steps=steps, batch=32, widths=(8, 16, 32), projector=(16, 16), **queue
    )
    return replace(cfg, views=views)


def teacher_maker(name, steps, views):
    def make(on, steps, **kw):
        t = teacher_training.train_teacher(on.train, teacher_config(name, steps, views), show=False, **kw)
        return as_result(t.net, t.run)

    return make


def as_result(net, rec):
    "A network, looked at as if it were a set."
    weights = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    return SimpleNamespace(x=weights, y=weights, run=rec)


def trained(task, steps, **kw):
    rec = run(task, steps, kw.pop('out', None), show=False, **kw)
    return as_result(task.net, rec)


def student(on, k):
    return Student(widths=(8, 16)).make(on.train, k, 0)


def pretrained(on, steps, **kw):
    d = coresets.random(on.train, on.teacher, 20, show=False)
    return trained(Pretraining(student(on, d.y.shape[1]), d, Recipe(steps, batch=8)), steps, **kw)


def post_trained(on, steps, **kw):
    recipe = replace(posttrain.tiny_post(1), steps=steps, batch=16)
    return trained(posttrain.PostTraining(student(on, 10), on.set, recipe, on.net), steps, **kw)


def finetuned(on, steps, **kw):
    index = torch.arange(100)
    return trained(protocols.FineTuning(student(on, 10), on.train, index, protocols.FineTune(steps, 32)), steps, **kw)


def trained_experts(on, steps, **kw):
    to = experts.experts(on.train, on.teacher, replace(EXPERTS, experts=1), show=False, **kw)
    theta = to.get(0, EXPERTS.epochs)
    return SimpleNamespace(x=theta, y=theta, run=to.run)


# ---- the kinds of check; each returns a row: gap, tolerance, and what else is worth keeping


def losses(result):
    "What was minimised, step by step; nothing for a coreset."
    keys = [k for k in LOGGED if result.run.log and k in result.run.log[0]]
    return torch.tensor([line[keys[0]] for line in result.run.log], dtype=torch.float64) if keys else None


def loss_gap(a, b, first=None):
    "The largest relative gap of two runs' losses; of those that choose images, the share of others."
    a, b = losses(a), losses(b)
    if a is None:
        return None
    return ((a - b).abs() / b.abs().clamp_min(1e-6))[:first].max().item()


@cache
def on_the_cpu(name, steps):
    return makers(steps)[name](problem('cpu'))


def agrees(name, how, device):
    """The card against the CPU: the first loss, and more loosely all losses and the set.

    After a step the two see different networks: with convolutions off by a millionth on one CPU, DC's losses already
    differ by 4 %, because a unit lies on the other side of a kink.
    """
    reset_peak(device)
    got = makers(how.steps)[name](problem(device))
    peak = peak_mib(device)
    want = on_the_cpu(name, how.steps)
    images = relative(got.x, want.x)
    first, all_ = (loss_gap(got, want, n) for n in (1, None))
    row = dict(
        gap=images if first is None else first,
        gap_losses=all_,
        tolerance=how.close,
        peak_mib=round(peak, 1),
        gap_set=images,
        bit_equal=torch.equal(got.x.cpu(), want.x.cpu()),
    )
    return dict(row, passed=row['gap'] <= how.close and max(images, all_ or 0) <= how.close_set)


def lowered(name, how, device):
    "bf16 against float32, the first loss: after it the two go ways of their own."
    got = makers(how.steps)[name](problem(device), precision='bf16')
    return dict(gap=loss_gap(got, makers(how.steps)[name](problem(device)), 1), tolerance=how.close_bf16)


def compiled(name, how, device):
    "torch.compile against none."
    full = dict(krrst='krrst, batch norm', teacher='teacher, barlow_twins', experts='experts')[name]
    want = makers(how.steps)[full](problem(device))
    with compiling():
        got = makers(how.steps)[full](problem(device))
    return dict(gap=loss_gap(got, want), tolerance=how.close_compiled)


class Stopped(Exception):
    "What kills a run in a check."


def stop_after(step):
    def on_step(at, task):
        if at == step:
            raise Stopped

    return on_step


def resumes(make, first, second, at=2):
    "Killed after a step on one device and resumed on another, against undisturbed on the second."
    with tempfile.TemporaryDirectory() as d:
        with contextlib.suppress(Stopped):
            make(problem(first), out=Path(d) / 'a', checkpoint_steps=1, on_step=stop_after(at))
        got = make(problem(second), out=Path(d) / 'a')
        want = make(problem(second), out=Path(d) / 'b')
    equal = torch.equal(got.x, want.x) and torch.equal(got.y, want.y)
    return dict(gap=relative(got.x, want.x), bit_equal=equal)


def resume(name, how, device):
    "To the last bit, but where gradients go through a crop: its backward pass adds up in any order on a card."
    row = resumes(makers(how.steps)[name], device, device)
    if name in matching.MATCHERS and matching.MATCHERS[name].siamese:
        return dict(row, tolerance=how.close_set)
    return dict(row, tolerance=0, passed=row['bit_equal'])


def moved(name, how, first, second):
    "Begun on one device, taken up on the other."
    return dict(resumes(makers(how.steps)[name], first, second), tolerance=how.close_set)


def with_views(name, steps):
    "Methods whose gradients go through views, or whose views turn and shift."
    if name == 'scdd':
        cfg = replace(scdd.tiny(2, steps), batch=20, **scdd.RRC)
        return lambda on, **kw: scdd.scdd(on.train, on.teacher, cfg, show=False, **kw)
    make = teacher_maker('barlow_twins', steps, teacher_training.GREY_VIEWS)
    return lambda on, **kw: make(on, steps, **kw)


def resume_views(name, how, device):
    "Recovery, whose gradients go through a crop, need not repeat to the last bit."
    row = resumes(with_views(name, how.steps), device, device)
    tolerance = 0 if name == 'teacher' else how.close_set
    return dict(row, tolerance=tolerance)


# ---- views, precision, memory


def distort(x, draws):
    "Every kind of view but for those with jumps, from numbers drawn on the CPU."

    def uniform(lo, hi, *more):
        return (lo + (hi - lo) * torch.rand(len(x), *more, generator=draws)).to(x.device)

    x = distortions.warp(x, ALL_VIEWS.geometry(uniform, x), ALL_VIEWS.padding)
    x = distortions.contrast(distortions.brightness(x, uniform(0.6, 1.4)), uniform(0.6, 1.4))
    x = distortions.hue(distortions.saturation(x, uniform(0.6, 1.4)), uniform(-0.1, 0.1))
    return distortions.blur(x, uniform(0.1, 2.0), 3)


def pixels_gap(a, b, tolerance):
    a, b = a.cpu(), b.cpu()
    return dict(gap=(a - b).abs().max().item(), tolerance=tolerance, bit_equal=torch.equal(a, b))


def same_numbers(how, device):
    a, b = (distort(problem(d).colours, generator(0, 'check views')) for d in (device, 'cpu'))
    return pixels_gap(a, b, how.close_pixels)


def same_seed(how, device):
    "Views are drawn on the CPU, so that a seed means the same ones on every device."
    a, b = (ALL_VIEWS(problem(d).colours, generator(0, 'check views')).cpu() for d in (device, 'cpu'))
    far = (a - b).abs() > how.close_pixels  # where a bright pixel is turned dark, rounding decides
    return dict(gap=far.float().mean().item(), tolerance=1e-3, bit_equal=torch.equal(a, b))


def views_under_bf16(how, device):
    "Autocast does not move a view."

    def view():
        return ALL_VIEWS(problem(device).colours, generator(0, 'check views'))

    a = view()
    with precision('bf16', device):
        b = view()
    return pixels_gap(a, b, how.close_pixels)


def post_views(how, device):
    p = soft_labels.draw_views(posttrain.tiny_post(3), 32, 0, 0, (32, 32))
    return pixels_gap(*(soft_labels.make_views(problem(d).colours, p) for d in (device, 'cpu')), how.close_pixels)


def product(name, tolerance, device):
    "A matrix product against float64."
    a, b = (torch.randn(512, 512, generator=generator(i, 'check product')).to(device) for i in range(2))
    exact = a.double() @ b.double()
    with precision(name, device):
        got = a @ b
    return dict(gap=relative(got, exact), tolerance=tolerance)


def memory(device):
    "256 MiB on the card are measured as 256 MiB."
    reset_peak(device)
    before = peak_mib(device)
    held = torch.ones(2**26, device=device)
    got = peak_mib(device) - before
    return dict(gap=abs(got - 256) / 256, tolerance=0.05, peak_mib=held.numel() * 4 / 2**20)


def identity(device):
    "A run says which card it ran on, and convolutions get the layout that it likes."
    on = problem(device)
    rec = pretrained(on, 1).run
    layout = place(torch.nn.Conv2d(16, 16, 3), device).weight.is_contiguous(memory_format=torch.channels_last)
    right = rec.device.startswith(device.type) and layout and get_device('auto').type == device.type
    return dict(gap=0.0 if right else 1.0, tolerance=0, device=rec.device)


# ---- the console commands

COMMANDS = {
    'teacher': ['--steps', '3', '--out', '{out}'],
    'distill': ['--teacher', 'digits', '--steps', '3', '--m', '10', '--no-verdict', '--out', '{out}'],
    'eval': ['digits', '--labels', '1', '--seeds', '1', '--out', '{out}'],
    'compare': [
        '--teacher',
        'digits',
        '--methods',
        'random,krrst',
        '--steps',
        '3',
        '--labels',
        '1',
        '--seeds',
        '1',
        '--out',
        '{out}',
    ],
    'compare posttrain': [
        '--protocol',
        'posttrain',
        '--teacher',
        'digits',
        '--methods',
        'random,scdd',
        '--ipc',
        '1',
        '--label-kinds',
        'soft',
        '--steps',
        '3',
        '--post-steps',
        '3',
        '--seeds',
        '1',
        '--students',
        '1',
        '--out',
        '{out}',
    ],
    'bench': ['krrst', '--reps', '1', '--out', '{out}'],
    'study': ['figure1', '--teacher', 'digits', '--seeds', '1', '--out', '{out}'],
    'demo': ['--steps', '3', '--seeds', '1', '--out', '{out}'],
}
CARD_ONLY = 'bench', 'study', 'demo'  # too long for a CPU, or choosing the device themselves


def console(name, device, out):
    "A command in this process; what it printed is in the error, if there is one."
    from ssdd_nb import cli

    argv = [word.format(out=out) for word in COMMANDS[name]]
    if name != 'demo':
        argv += ['--device', str(device)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            getattr(cli, name.split()[0])(argv)
        except SystemExit:
            raise RuntimeError(said.getvalue().strip().splitlines()[-1].replace(str(out), 'OUT')) from None


def scores(out):
    "The numbers that a command left: distances to the teacher, or accuracies."
    for file in ('eval.json', 'compare.json'):
        if (out / file).exists():
            rows = json.loads((out / file).read_text())['rows']
            return torch.tensor([r.get('target_mse') or r['accuracy'] for r in rows])
    if (out / 'distilled.safetensors').exists():
        from ssdd_nb.loading import load

        return load(out / 'distilled.safetensors').x
    return torch.zeros(1)


def command(name, how, device):
    "A command on the card, and on the CPU if that is quick."
    with tempfile.TemporaryDirectory() as d:
        console(name, device, Path(d) / 'card')
        if name in CARD_ONLY or device.type == 'cpu':
            return dict(gap=0.0, tolerance=0)
        console(name, 'cpu', Path(d) / 'cpu')
        return dict(gap=relative(*(scores(Path(d) / w) for w in ('card', 'cpu'))), tolerance=how.close_score)


# ---- the list


def items(how, records, clock, args):
    "All checks: (name, function)."
    device, few = records.device, makers(how.steps)
    last = [(f'compile, {n}', lambda n=n: compiled(n, how, device)) for n in how.compile_checks]
    listed = [('which device', lambda: identity(device)), ('memory', lambda: memory(device))]
    listed += [(f'product, {p}', lambda p=p, t=t: product(p, t, device)) for p, t in how.products]
    listed += [
        ('views, the same numbers', lambda: same_numbers(how, device)),
        ('views, the same seed', lambda: same_seed(how, device)),
        ('views under bf16', lambda: views_under_bf16(how, device)),
        ('views of post-training', lambda: post_views(how, device)),
    ]
    listed += [(n, lambda n=n: agrees(n, how, device)) for n in few]
    listed += [(f'resume, {n}', lambda n=n: resume(n, how, device)) for n in few if n not in ONE_STEP]
    listed += [(f'resume with views, {n}', lambda n=n: resume_views(n, how, device)) for n in ('teacher', 'scdd')]
    ways = dict.fromkeys([('cpu', str(device)), (str(device), 'cpu')])
    listed += [
        (f'begun on {a}, resumed on {b}: {n}', lambda n=n, a=a, b=b: moved(n, how, a, b))
        for n in ('krrst', 'teacher, barlow_twins')
        for a, b in ways
    ]
    listed += [(f'bf16, {n}', lambda n=n: lowered(n, how, device)) for n in LOWERED]
    listed += [(f'ssdd-{n}', lambda n=n: command(n, how, device)) for n in how.commands]
    return [(n, settled(f)) for n, f in listed + last if n not in how.leave_out]


ONE_STEP = 'random', 'kmeans', 'herding', 'sas', 'forgetting', 'highloss'
LOWERED = 'krrst, batch norm', 'mkdt', 'scdd', 'dc', 'dm', 'teacher, barlow_twins', 'pre-training', 'post-training'


def settled(check):
    "A check whose row says whether it passed: not, if it has no tolerance and is for the record."

    def compute():
        row = check()
        if row['tolerance'] is None:
            return dict(row, passed=None)
        return dict(row, passed=bool(row.get('passed', row['gap'] <= row['tolerance'])))

    return compute


def show(r):
    "A line for the terminal."
    if r.get('error'):
        return f"FAILED  {r['name']}: {r['error']}"
    word = {True: 'passed', False: 'FAILED', None: 'noted '}[r['passed']]
    limit = '' if r['tolerance'] is None else f" (at most {r['tolerance']:g})"
    return f"{word}  {r['name']}: gap {r['gap']:.2g}{limit}, {r['seconds_taken']:.1f} s"
