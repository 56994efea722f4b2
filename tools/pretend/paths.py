"""What is tried on the pretended card: every method, loss, protocol and command, at two steps on a few digits.

All that knows the library's names and settings is in this file. A check is a name and a call. Data and networks that
several checks share come first; then how a stopped and resumed run is compared with an undisturbed one.
"""

import contextlib
import functools
import io
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn

from card import on_card
from checks import group, raises
from ssdd_nb.experiments import comparison as compare, judging as judging_
from ssdd_nb import evaluation as evaluate, label_free, pretraining, probes
from ssdd_nb.experiments import bench, labelled, plain as plain_, studies, study_rows
from ssdd_nb.methods import (
    bn_losses,
    coresets,
    distil,
    experts as experts_,
    forgetting,
    kernels,
    krrst,
    matching,
    matching_losses,
    mkdt,
    mkdt_task,
    remembered,
    scdd,
    scdd_task,
    trajectories,
    trajectory_gradient,
    views as views_,
)
from ssdd_nb import (
    cli,
    core,
    costs,
    costs as costs_,
    data,
    distortions,
    errors,
    explore,
    functional,
    images as images_,
    nets,
    pixels,
    posttrain,
    processes as processes_,
    protocols,
    pruning,
    records,
    runs,
    soft_labels,
    ssl_losses,
    teacher_training,
    teachers,
    viz,
)
from ssdd_nb.theory import (
    bias as theory_bias,
    entropy as theory_entropy,
    partitions as theory_partitions,
    variance as theory_variance,
    views as theory_views,
)

QUIET = dict(show=False)
WIDTHS = (8, 8, 8)
FEW = 3  # iterations of L-BFGS, where a hundred would find no more
probes.linear_probe.__defaults__ = (probes.linear_probe.__defaults__[0], FEW)


# ---------------------------------------------------------------- what checks share


@functools.cache
def on_the_cpu():
    "Training and test digits."
    train, test = data.load_images('digits')
    return train[torch.arange(60)], test[torch.arange(30)]


def digits(device='cuda'):
    "The same on the card; each time anew, since a card lives as long as its group."
    return [images.to(device) for images in on_the_cpu()]


def photos(n=24, side=16, device='cuda'):
    "Random bytes in colour, of three classes."
    x = torch.randint(0, 256, (n, 3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return images_.Images(x, torch.arange(n) % 3, ('a', 'b', 'c'), name='photos').to(device)


def teaching(loss='barlow_twins', channels=1, side=8, **more):
    "A teacher's settings: two steps of a narrow network."
    small = dict(steps=2, batch=16, widths=WIDTHS, projector=(8, 8))
    queue = dict(queue=32) if loss in ('moco', 'swav') else {}
    return replace(teacher_training.tiny(channels, side, loss), **{**small, **queue, **more})


def teacher(images, loss='barlow_twins', steps=2):
    "A teacher on the images' device."
    return teacher_training.train_teacher(images, teaching(loss, images.x.shape[1], steps=steps), 0, **QUIET)


def classifier(images, **how):
    "An untrained network with batch norms, as SC-DD recovers images from."
    c, h, w = images.x.shape[1:]
    net = nets.make_net('resnet_tiny', c, (h, w), len(images.classes), seed=0, widths=WIDTHS, norm='batch')
    about = dict(loss='supervised', **how)
    return teachers.Classifier(net.to(images.x.device), images.mean, images.std, about)


def student(images, k, norm='instance'):
    "A network to be trained on a set."
    net = 'resnet_tiny' if norm == 'batch' else 'convnet'
    return pretraining.Student(net, WIDTHS if norm == 'batch' else WIDTHS[:2], norm).make(images, k, 0)


def krrst_settings(**more):
    return replace(krrst.tiny(8, 2), **{**dict(batch=16, pool=2, max_steps=2), **more})


def expert_settings(**more):
    return experts_.ExpertConfig(**{**dict(experts=2, epochs=2, batch=30, widths=None), **more})


def mkdt_settings(experts=None, **more):
    small = dict(syn_steps=3, max_start_epoch=0, expert_epochs=2, batch=8, experts=experts or expert_settings())
    return replace(mkdt.tiny(10, 2), **{**small, **more})


def scdd_settings(**more):
    return replace(scdd.tiny(1, 2), **{**dict(batch=10), **more})


def post_recipe(channels=1, **more):
    return replace(posttrain.tiny_post(channels), **{**dict(steps=2, batch=8), **more})


def trajectory_settings(system):
    cfg = trajectories.tiny(system, 10, 2)
    return replace(cfg, syn_steps=3, max_start_epoch=0, experts=replace(cfg.experts, experts=2, epochs=2, batch=30))


def matching_settings(method, channels=1):
    cfg = replace(matching.tiny(method, 8 if method == 'dm-ssl' else 1, 2, channels), batch=4)
    return replace(cfg, outer=2, inner=1) if hasattr(cfg, 'outer') else cfg


# ---------------------------------------------------------------- runs that are stopped


class Stopped(KeyboardInterrupt):
    "By a test."


def stop(step, task):
    "After the second step, which is then not saved."
    if step == 2:
        raise Stopped


def numbers(made):
    "The tensors of a result: of a set, of a network, of a teacher, of labels."
    if hasattr(made, 'manifest') and hasattr(made, 'x'):
        return [made.x, made.y]
    net = getattr(made, 'net', made)
    return list(net.state_dict().values())


def resumes(make):
    "`make(folder, **kwargs)` on the card: undisturbed, and stopped and resumed; the same comes out."
    with tempfile.TemporaryDirectory() as d:
        whole = make(Path(d) / 'whole', checkpoint_steps=1, **QUIET)
        with contextlib.suppress(Stopped):
            make(Path(d) / 'parts', checkpoint_steps=1, on_step=stop, **QUIET)
        assert (Path(d) / 'parts' / 'checkpoint.pt').exists(), 'the stopped run left no checkpoint'
        parts = make(Path(d) / 'parts', checkpoint_steps=1, **QUIET)
    for a, b in zip(numbers(whole), numbers(parts), strict=True):
        assert torch.equal(a.cpu(), b.cpu()), 'the resumed run differs from the undisturbed one'
    return whole


def crosses(make, first):
    "Begun on one device and resumed on the other: it goes on, or says in one line why not."
    second = dict(cpu='cuda', cuda='cpu')[first]
    with tempfile.TemporaryDirectory() as d:
        with contextlib.suppress(Stopped):
            make(first, Path(d), checkpoint_steps=1, on_step=stop, **QUIET)
        assert (Path(d) / 'checkpoint.pt').exists(), 'the stopped run left no checkpoint'
        with contextlib.suppress(errors.BadInput):
            make(second, Path(d), checkpoint_steps=1, **QUIET)


def exact(call):
    "A part of the library by itself, in the precision that a run would set."
    with core.precision('float32', 'cuda'):
        return call()


def float32_except(card, *functions):
    "No product in these functions was made in bf16, though autocast is on; nor one of the small matrices of views."
    for place, operation, shape in card.lowered:
        assert place.split()[-1].split('.')[-1] not in functions, f'{place}: {operation} of {shape} in bf16'
        assert shape[-2:] not in ((3, 3), (2, 2)), f'{place}: {operation} of {shape} in bf16, a matrix of views'


# ---------------------------------------------------------------- images


@group
def images(check):
    train, test = digits()
    check('hash', lambda: equal(train.hash, on_the_cpu()[0].hash))
    check('index, split, describe', lambda: index(train))
    check(
        'labels', lambda: (train.label_hash, images_.labelled(train.y, 0.2, 0), data.alike((train, test), (3, 16, 16)))
    )
    check('check_pixels', lambda: pixels.check_pixels(torch.rand(3, 1, 4, 4).to('cuda')))
    check('NaN is refused', nan_is_refused)
    check('labels beyond the classes are refused (a dead card otherwise)', labels_beyond)
    check('arrays on the card', arrays_on_the_card)
    check('images on the card, labels in a list', labels_in_a_list)
    check('bytes', lambda: photos().normalised())
    check('on disk', on_disk)
    check(
        'the device by name',
        lambda: (
            core.get_device('auto'),
            core.get_device('cuda'),
            records.describe('cuda'),
            records.peak_mib('cuda'),
            records.reset_peak('cuda'),
            costs.free_gib('cuda'),
        ),
    )


def equal(a, b):
    assert a == b, f'{a} is not {b}'


def index(train):
    some = torch.arange(5)
    for i in (some, some.to('cuda'), slice(5), train.y == 1):
        train[i], train.pixels(i), train.normalised(i)
    images_.split(train), images_.split(train, some)
    return train.describe(), repr(train)


def nan_is_refused():
    with raises(errors.BadInput):
        pixels.check_pixels(torch.full((3, 1, 4, 4), float('nan')).to('cuda'))


def labels_beyond():
    with raises(errors.BadInput):
        images_.Images(torch.rand(3, 1, 4, 4).to('cuda'), torch.tensor([0, 1, 2]).to('cuda'), ('a', 'b'))


def arrays_on_the_card():
    made = images_.from_arrays(torch.rand(3, 1, 8, 8).to('cuda'), torch.arange(3).to('cuda'))
    assert made.x.is_cuda and made.y.is_cuda


def labels_in_a_list():
    made = images_.from_arrays(torch.rand(3, 1, 8, 8).to('cuda'), [0, 1, 2])
    assert made.y.is_cuda, 'the labels stay on the CPU'
    made[made.y == 1]


def on_disk():
    with tempfile.TemporaryDirectory() as d:
        rows = np.random.default_rng(0).integers(0, 255, (40, 3, 8, 8), dtype=np.uint8)
        np.save(f'{d}/x.npy', rows)
        made = images_.Images(pixels.OnDisk(f'{d}/x.npy'), torch.arange(40) % 4, tuple('abcd')).to('cuda')
        made[torch.arange(7)].normalised(torch.arange(5))
        made[made.y == 1].pixels(torch.arange(5).to('cuda'))
        images_.split(made)
        krrst.krrst(made, teacher(made), krrst_settings(m=4), **QUIET)


# ---------------------------------------------------------------- core


@group
def core_runs(check):
    check('the log is fetched for many steps at once', lambda: fetches(check.card))
    check('the log is the same, however it is fetched', same_log)
    check('divergence names its step', diverges)
    check('resume of a run whose log was fetched late', lambda: resumes(lambda out, **k: toy(out, **k)))
    check('processes of their own beside a card', processes)
    check('precision asks for what it says', precision)


class Toy:
    "A task with two numbers to log."

    def __init__(self, nan_at=0):
        self.device, self.t, self.nan_at = torch.device('cuda'), 0, nan_at
        self.w = torch.ones(3).to('cuda')

    def step(self):
        self.t += 1
        self.w = self.w * 0.9
        loss = self.w.square().sum()
        return dict(loss=loss * float('nan') if self.t == self.nan_at else loss, norm=self.w.norm())

    def state_dict(self):
        return dict(w=self.w, t=self.t)

    def load_state_dict(self, s):
        self.w, self.t = s['w'].to(self.device), s['t']


STEPS, FETCHES = 20, 5


def fetches(card):
    with card.count() as seen:
        rec = runs.run(Toy(), STEPS, **QUIET)
    waits = seen.syncs.total()
    assert len(rec.log) == STEPS
    assert waits <= FETCHES, f'the host waits {waits} times in {STEPS} steps: {most_of(seen.syncs)}'


def most_of(syncs):
    "Where the host waits, in a line."
    return ', '.join(f'{n} {place} ({kind}: {operation})' for (kind, operation, place), n in syncs.most_common(4))


def same_log():
    with tempfile.TemporaryDirectory() as d:
        each = runs.run(Toy(), STEPS, Path(d) / 'each', checkpoint_steps=1, **QUIET).log
        late = runs.run(Toy(), STEPS, Path(d) / 'late', **QUIET).log
        files = [(Path(d) / n / 'log.jsonl').read_text() for n in ('each', 'late')]
    assert each == late and files[0] == files[1] and [line['step'] for line in each] == list(range(1, STEPS + 1))


def diverges():
    with raises(errors.Diverged, 'step 7'):
        runs.run(Toy(nan_at=7), STEPS, **QUIET)


def toy(out, **kwargs):
    task = Toy()
    runs.run(task, STEPS, out, **kwargs)
    return nn.ParameterList([task.w])


def of_a_process():
    "A gradient, and a sum over processes, on the CPU."
    w = torch.ones(3, requires_grad=True)
    w.square().sum().backward()
    total = w.grad.clone()
    processes_.all_sum(total)
    return total


def processes():
    of_a_process()
    for got in processes_.forked(of_a_process, 2):
        assert torch.equal(got, torch.full((3,), 4.0))


def precision():
    x, cudnn = torch.ones(2, 2).to('cuda'), torch.backends.cudnn
    for name in core.PRECISIONS:
        with core.precision(name, 'cuda'):
            assert cudnn.deterministic and cudnn.allow_tf32 == (name == 'tf32')
            assert (x @ x).dtype == (torch.bfloat16 if name == 'bf16' else torch.float32)


# ---------------------------------------------------------------- teachers


@group
def teacher_losses(check):
    train, test = digits()
    for loss in ssl_losses.LOSSES:
        check(
            loss, lambda: resumes(lambda out, **k: teacher_training.train_teacher(train, teaching(loss), 0, out, **k))
        )
        check(
            f'{loss} bf16', lambda: teacher_training.train_teacher(train, teaching(loss), 0, precision='bf16', **QUIET)
        )
    losses = 'barlow_twins', 'simclr', 'moco', 'moco_v3', 'dino', 'swav', 'sinkhorn'
    check('bf16 leaves views and losses in float32', lambda: float32_except(check.card, *losses))


@group
def teacher_edges(check):
    train, test = digits()
    trained = teacher(train)
    for loss in ('barlow_twins', 'dino'):
        check(f'{loss} on photographs', lambda: photographs(loss, 'float32'))
    check('swav on photographs, bf16', lambda: photographs('swav', 'bf16'))
    check('bf16 leaves views of photographs in float32', lambda: float32_except(check.card))
    check('tf32', lambda: photographs('barlow_twins', 'tf32'))
    check('slimming', lambda: teacher_training.train_teacher(train, teaching('supervised', slim=0.01), 0, **QUIET))
    check('a foreign module', lambda: teachers.foreign(foreign_module(), mean=(0.5,), std=(0.2,)).targets(train))
    check('the packaged teacher', lambda: teachers.load_teacher('digits').targets(test))
    check('targets kept in a file come back to the card', lambda: kept_targets(test))
    check('images of the CPU do not move it', lambda: stays(trained.net, lambda: trained.targets(on_the_cpu()[1])))
    for first in ('cpu', 'cuda'):
        check(f'begun on {first}, resumed on the other', lambda: crosses(teach_on, first))


def kept_targets(test):
    plain = teachers.load_teacher('digits').targets(test)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # computed and kept; then read
            keeps = teachers.load_teacher('digits')
            keeps.folder = Path(folder)
            got = keeps.targets(test)
            assert got.device == plain.device == test.x.device, got.device
            assert torch.equal(got, plain)


def photographs(loss, how):
    views = distortions.Views(
        crop=(0.2, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        rotate=10,
        shift=0.1,
        scale=0.1,
        shear=0.1,
        jitter=0.8,
        grey=0.2,
        blur=0.5,
        solarise=0.2,
        noise=0.1,
        padding='reflection',
    )
    local = {} if loss == 'barlow_twins' else dict(local=views, n_local=1)
    cfg = teaching(loss, 3, 16, views=views, batch=8, **local)
    return teacher_training.train_teacher(photos(), cfg, 0, precision=how, **QUIET)


def foreign_module():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def teach_on(device, out, **kwargs):
    return teacher_training.train_teacher(digits(device)[0], teaching(), 0, out, **kwargs)


def stays(net, ask):
    "Asking a network of the card about images of the CPU leaves it where it is."
    ask()
    assert all(on_card(p) for p in net.parameters()), 'the network was moved to the CPU'


# ---------------------------------------------------------------- KRR-ST


@group
def krr_st(check):
    train, test = digits()
    t = teacher(train)
    check('plain, as on the CPU', lambda: as_on_the_cpu(train, t))
    base = dict(norm='batch', augment=True)
    check('resumes', lambda: resumes(lambda out, **k: krrst.krrst(train, t, krrst_settings(**base), 0, out, **k)))
    variants = dict(
        kmeans=dict(x_init='kmeans', features_in='train', norm='batch'),
        large=dict(lam=0.01, m=40),
        noise=dict(x_init='noise', y_init='random', raw_pixels=True, learn_y=False, reduction='sum'),
        resnet=dict(net='resnet_tiny', widths=WIDTHS, norm='batch', reset_counter=False, max_steps=1),
    )
    for name, more in variants.items():
        check(name, lambda: krrst.krrst(train, t, krrst_settings(**more), **QUIET))
    check('tf32', lambda: krrst.krrst(train, t, krrst_settings(norm='batch'), precision='tf32', **QUIET))
    for lam in (1e-6, 0.01):
        check(f'bf16, λ = {lam}', lambda: krrst.krrst(train, t, krrst_settings(lam=lam), precision='bf16', **QUIET))
    check('the ridge regression stays in float32', lambda: float32_except(check.card, 'krr', 'outer_loss', 'mse'))


def as_on_the_cpu(train, t):
    there = krrst.krrst(train, t, krrst_settings(), **QUIET)
    here_teacher = teachers.Teacher(t.net.to('cpu'), t.mean, t.std)
    here = krrst.krrst(on_the_cpu()[0], here_teacher, krrst_settings(), **QUIET)
    t.net.to('cuda')
    gap = (there.x - here.x).abs().max().item()
    assert gap < 1e-4, f'pixels differ by {gap:.2g}'


# ---------------------------------------------------------------- view targets


@group
def view_targets(check):
    train, test = digits()
    t = teacher(train)
    settings = lambda **more: replace(
        views_.ViewTargets.tiny(6, 2), batch=16, pool=2, max_steps=2, widths=WIDTHS, **more
    )
    made = lambda **more: distil(train, settings(**more), t, **QUIET)
    for name, more in dict(stored={}, unlimited=dict(stored=0), under=dict(n_views=2, learn_y=False)).items():
        d = check(f'distils, {name}', lambda: made(**more))
        asked = {} if d.answers else dict(teacher=t)
        check(f'a student, {name}', lambda: pretraining.pretrain(d, pretraining.Recipe(3), show=False, **asked))
    check('resumes', lambda: resumes(lambda out, **k: distil(train, settings(stored=2), t, 0, out, **k)))
    check('answers are the same on the CPU', lambda: same_answers(made(stored=3), t))


def same_answers(d, t):
    there = views_.with_views(d, t, 3).answers.all()
    t.net.to('cpu')
    here = views_.with_views(d, teachers.Teacher(t.net, t.mean.to('cpu'), t.std.to('cpu')), 3).answers.all()
    t.net.to('cuda')
    gap = (there.cpu() - here).abs().max().item()
    assert gap < 1e-3, f'answers differ by {gap:.2g}'


# ---------------------------------------------------------------- MKDT


@group
def mkdt_runs(check):
    train, test = digits()
    t = teacher(train)
    views = dict(views=teacher_training.GREY_VIEWS, lr=0.001)
    for objective in trajectory_gradient.OBJECTIVES:
        cfg = expert_settings(experts=1, epochs=1, objective=objective, **views)
        check(f'experts {objective}', lambda: experts_.experts(train, t, cfg, **QUIET))
    half = expert_settings(half=True, same_start=True)
    check('experts stacked, bf16', lambda: experts_.experts(train, t, half, stacked=True, precision='bf16', **QUIET))
    check('experts resume', lambda: resumed_experts(train, t))
    kept = experts_.experts(train, t, expert_settings(), **QUIET)
    run = functools.partial(mkdt.mkdt, train, t, to=kept)
    check('resumes', lambda: resumes(lambda out, **k: run(mkdt_settings(), 0, out, **k)))
    variants = dict(
        highloss=dict(init='highloss', problems=2),
        kmeans=dict(init='kmeans', decay=0.1),
        sgd=dict(optimiser='sgd', lr_x=1.0, momentum=0.5, learn_y=False),
        guarded=dict(guard=1e-3),
    )
    for name, more in variants.items():
        check(name, lambda: run(mkdt_settings(**more), **QUIET))
    check('no memory for graphs', lambda: run(mkdt_settings(), memory_budget=0, **QUIET))
    check('bf16', lambda: run(mkdt_settings(), precision='bf16', **QUIET))
    check(
        'momentum', lambda: exact(lambda: trajectory_gradient.sweep(*walk_problem(3), momentum=0.9, weight_decay=1e-4))
    )
    check('unrolled', lambda: exact(lambda: trajectory_gradient.unrolled(*walk_problem(3))))
    ssl_experts = expert_settings(experts=1, epochs=1, objective='ssl', **views)
    ssl = mkdt_settings(ssl_experts, lr_syn=0.001, learn_y=False, steps=1, syn_steps=2, expert_epochs=1)
    check('trajectories of Barlow Twins, bf16', lambda: mkdt.mkdt(train, t, ssl, precision='bf16', **QUIET))
    check('bf16 leaves views and losses in float32', lambda: float32_except(check.card, 'barlow_twins'))
    check('highloss coreset', lambda: mkdt.highloss(train, t, 5, experts_cfg=expert_settings(), **QUIET))


def resumed_experts(train, t):
    def make(folder, **more):
        return experts_.experts(train, t, expert_settings(), 0, folder, at_once=1, checkpoint_steps=1, **more, **QUIET)

    with tempfile.TemporaryDirectory() as d:
        whole = make(Path(d) / 'whole')
        with contextlib.suppress(Stopped):
            make(Path(d) / 'parts', on_step=stop)
        parts = make(Path(d) / 'parts')
        for expert in range(2):
            for epoch in range(3):
                assert torch.equal(whole.get(expert, epoch), parts.get(expert, epoch)), (expert, epoch)


def walk_problem(steps):
    "What `sweep` and `unrolled` are called with."
    gen = torch.Generator().manual_seed(0)
    net = nets.make_net('convnet', 1, (8, 8), 5, widths=(4,), norm='instance').to('cuda')
    theta, loss = functional.flat(net), trajectory_gradient.objective('kd', functional.Functional(net))
    draw = lambda *shape: torch.randn(*shape, generator=gen).to('cuda')
    end = theta + 0.01 * draw(len(theta))
    batches = [torch.randperm(8, generator=gen)[:4].to('cuda') for _ in range(steps)]
    outer = lambda th: (th - end).square().sum()
    return [theta, draw(8, 1, 8, 8), draw(8, 5), torch.tensor(0.05).to('cuda'), batches, loss, outer]


# ---------------------------------------------------------------- SC-DD


@group
def sc_dd(check):
    train, test = digits()
    moco = teacher(train, 'moco')
    check('alignment by L-BFGS', lambda: posttrain.align(moco, train))
    check('alignment by SGD', lambda: posttrain.align(moco, train, replace(posttrain.SGD_PROBE, steps=2), **QUIET))
    net = classifier(train)
    run = functools.partial(scdd.scdd, train, net)
    check('resumes', lambda: resumes(lambda out, **k: run(scdd_settings(joint=False, batch=6), 0, out, **k)))
    best = scdd_settings(keep='best', **scdd.RRC)
    check('resumes in the middle', lambda: resumes(lambda out, **k: run(best, 0, out, **k)))
    variants = dict(
        cda=dict(curriculum='cosine', crop=(0.3, 1.0)),
        learned=dict(learn_coefficients=True, clip=False),
        real=dict(init='real', bn_loss='gauge', beta=2.0, gamma=0.5),
    )
    for name, more in variants.items():
        check(name, lambda: run(scdd_settings(**more), **QUIET))
    check('bf16', lambda: run(scdd_settings(**scdd.RRC), precision='bf16', **QUIET))
    check('bf16 leaves views in float32', lambda: float32_except(check.card))
    for first in ('cpu', 'cuda'):
        check(f'begun on {first}, resumed on the other', lambda: crosses(recover_on, first))
    d = posttrain.random_set(train, 2)
    for where, its in dict(cpu=d, card=d.to('cuda')).items():
        check(f'fit to the network, set on the {where}', lambda: remembered.recovered(its, net, scdd_settings()))
        check(f'clusters of pixels, set on the {where}', lambda: remembered.pixel_clusters(its))
        check(
            f'clusters of some classes, set on the {where}', lambda: remembered.pixel_clusters(its, classes=(0, 1, 2))
        )
    check(
        'figures of batch norms',
        lambda: (
            remembered.bn_fluctuation(net.net),
            remembered.selection({'a': net.net}),
            remembered.show_bn({'scdd': net.net}, layers=(0,)),
        ),
    )
    check('another gauge', lambda: bn_losses.regauge(net.net, lambda bn: bn.running_var.rsqrt()))


def recover_on(device, out, **kwargs):
    train, _ = digits(device)
    return scdd.scdd(train, classifier(train), scdd_settings(), 0, out, **kwargs)


# ---------------------------------------------------------------- post-training


@group
def post_training(check):
    train, test = digits()
    net, d = classifier(train), posttrain.random_set(train, 1)
    fresh = functools.partial(student, train, 10, 'batch')
    for mix in ('cutmix', 'mixup', 'none'):
        recipe = post_recipe(mix=mix)
        for kind, labels in dict(stored=lambda: relabelled(d, net, recipe), live=lambda: net).items():
            check(f'{mix}, labels {kind}', lambda: posttrain.post_train(fresh(), d, recipe, labels(), **QUIET))
    check('hard labels', lambda: posttrain.post_train(fresh(), d, post_recipe(kind='hard'), **QUIET))
    check('labels made on the CPU', lambda: soft_labels.relabel(d, classifier(on_the_cpu()[0]), recipe, **QUIET))
    check('resumes', lambda: resumes(lambda out, **k: posttrain.post_train(fresh(), d, recipe, net, out=out, **k)))
    check('labels in a folder, resumed', lambda: labels_in_a_folder(d, net))
    sgd = post_recipe(optimiser='sgd', mix='cutmix')
    check('bf16', lambda: posttrain.post_train(fresh(), d, sgd, net, precision='bf16', **QUIET))
    check('RandAugment, bf16', rand_augment)
    check('bf16 leaves views in float32', lambda: float32_except(check.card))
    model = fresh()
    check('test accuracy', lambda: posttrain.test_accuracy(model, test))
    cpu = on_the_cpu()[1]
    check('test accuracy on images of the CPU', lambda: stays(model, lambda: posttrain.test_accuracy(model, cpu)))
    check('relabelling a set of the CPU', lambda: stays(net.net, lambda: soft_labels.relabel(d, net, recipe, **QUIET)))
    check('pruning', lambda: prune(train, test))


def relabelled(d, net, recipe, **more):
    return soft_labels.relabel(d, net, recipe, device='cuda', **more, **QUIET)


def labels_in_a_folder(d, net):
    recipe = post_recipe(steps=3)
    with tempfile.TemporaryDirectory() as f:
        with contextlib.suppress(Stopped):
            relabelled(d, net, recipe, out=Path(f), checkpoint_steps=1, on_step=stop)
        labels = relabelled(d, net, recipe, out=Path(f))
        return posttrain.post_train(student(digits()[0], 10, 'batch'), d, recipe, labels, **QUIET)


def rand_augment():
    images, recipe = photos(), post_recipe(3, randaugment=True)
    d, net = posttrain.random_set(images, 1), classifier(images)
    return posttrain.post_train(student(images, 3, 'batch'), d, recipe, net, precision='bf16', **QUIET)


def prune(train, test):
    cfg = replace(pruning.slimming(train), steps=2, batch=16, widths=(4,) * 8)
    trained = teacher_training.train_teacher(train, cfg, 0, **QUIET)
    small = pruning.prune(trained.net, 0.4)
    pruning.repair(small, posttrain.random_set(train, 1), trained, post_recipe(batch=4), **QUIET)
    return posttrain.test_accuracy(small, test)


# ---------------------------------------------------------------- protocols


@group
def protocols_(check):
    train, test = digits()
    t = teacher(train)
    d = coresets.random(train, t, 10, **QUIET)
    k, recipe = d.y.shape[1], pretraining.Recipe(2)
    net = student(train, k)
    pretrain = lambda out, **more: pretraining.pretrain(student(train, k), d, recipe, out=out, **more)
    check('pre-training resumes', lambda: resumes(pretrain))
    cosine = pretraining.Recipe(2, schedule='cosine')
    check('pre-training in bf16', lambda: pretraining.pretrain(student(train, k), d, cosine, precision='bf16', **QUIET))
    check('evaluate', lambda: evaluate.evaluate(d, train, test, t, (0.2,), recipe=recipe, draws=1, **QUIET))
    check('verdict', lambda: label_free.verdict(d, train, test, t, 1, recipe, **QUIET))
    check('nearest neighbours', lambda: neighbours(net, train, test))
    tuning = protocols.FineTune(2, 16)
    finetune = lambda out, **more: protocols.finetune(net, train, tuning, 0.5, out=out, **more)
    check('fine-tuning resumes', lambda: resumes(finetune))
    cls = classifier(train)
    check('data-free distillation', lambda: without_data(net, cls, d, train, test))
    check('data-free, on noise, resumes', lambda: resumes(functools.partial(from_noise, 'cuda')))
    for first in ('cpu', 'cuda'):
        check(f'data-free, begun on {first}, resumed on the other', lambda: crosses(from_noise, first))
    check('distances of features', lambda: distances(t, d, train))
    check('a set on the card', lambda: set_on_the_card(d.to('cuda'), train))
    labels = posttrain.random_set(train, 1).to('cuda')
    check('a set with labels on the card', lambda: set_on_the_card(labels, train))


def neighbours(net, train, test):
    return probes.knn(probes.embed(net, train), train.y, probes.embed(net, test), test.y)


def without_data(net, cls, d, train, test):
    made = protocols.distil_without_data(net, cls, d, train, 2, **QUIET)
    return protocols.by_batch_accuracy(made, test)


def from_noise(device, out, **kwargs):
    train, _ = digits(device)
    net = student(train, 10, 'batch')
    return protocols.distil_without_data(net, classifier(train), None, train, 2, 16, out=out, **kwargs)


def distances(t, d, train):
    here, there = t(d.pixels()), t(d.pixels().to('cuda'))
    real = t.targets(train)
    for a, b in ((here, real), (real, there), (there, real)):
        protocols.frechet(a, b, quiet=True)
        protocols.kernel_distance(a, b)


def set_on_the_card(d, train):
    k = d.y.shape[1] if d.y.ndim == 2 else 10
    pretraining.pretrain(student(train, k), d, pretraining.Recipe(2), **QUIET)
    d.dataset(), d.preview(), d.hash, d.stats(), repr(d)
    with tempfile.TemporaryDirectory() as f:
        d.save(Path(f) / 'set.safetensors')
        d.export(Path(f) / 'pictures')


# ---------------------------------------------------------------- coresets, and memory


@group
def coresets_(check):
    train, test = digits()
    t = teacher(train)
    for name in ('random', 'kmeans', 'herding', 'sas', 'full'):
        check(name, lambda: getattr(coresets, name)(train, t, 8, **QUIET))
    check('forgetting', lambda: forgetting.forgetting(train, t, 8, epochs=1, **QUIET))
    check('in a folder, read again', lambda: twice(train, t))
    f = t.targets(train)
    for index in (coresets.herding_index, coresets.sas_index, coresets.kmeans_index):
        check(f'{index.__name__} of features on the card', lambda: index(f, 3))


def twice(train, t):
    with tempfile.TemporaryDirectory() as d:
        for _ in range(2):
            coresets.kmeans(train, t, 5, out=Path(d), **QUIET)


@group
def memory(check):
    "No copy of all images as floats."
    images = photos(1100, 8)
    net = student(images, 3)
    t = teachers.Teacher(net, images.mean, images.std)
    tuning = protocols.FineTune(1, 16)
    calls = {
        'a coreset': lambda: coresets.random(images, t, 5, **QUIET),
        'forgetting': lambda: forgetting.forgetting(images, t, 5, epochs=1, **QUIET),
        'fine-tuning': lambda: protocols.finetune(net, images, tuning, **QUIET),
        'features': lambda: probes.embed(net, images),
        'targets': lambda: t.targets(images),
        'experts': lambda: experts_.experts(images, t, expert_settings(experts=1, epochs=1, batch=550), **QUIET),
        'test accuracy': lambda: posttrain.test_accuracy(net, images),
    }
    for name, call in calls.items():
        check(name, lambda: batch_by_batch(check.card, images, call))


def batch_by_batch(card, images, call):
    with card.count() as seen:
        call()
    assert (tuple(images.x.shape), torch.float32) not in seen.made, 'all images are turned into floats at once'


# ---------------------------------------------------------------- the other systems


@group
def peers(check):
    train = photos(12, 8)
    t = teacher(train)
    for m in matching.MATCHERS:
        cfg = matching_settings(m, 3)
        check(m, lambda: resumes(lambda out, **k: matching.matching(train, t, cfg, 0, out, **k)))
    check('dsa bf16', lambda: matching.matching(train, None, matching_settings('dsa', 3), precision='bf16', **QUIET))
    noise = replace(matching_settings('dm', 3), init='noise')
    check('from noise', lambda: matching.matching(train, None, noise, **QUIET))
    x = torch.rand(2, 3, 8, 8).to('cuda').requires_grad_()
    for name, change in matching_losses.OPERATIONS.items():
        check(f'augmentation {name}', lambda: change(x, torch.rand(2, 3).to('cuda')).sum().backward())


@group
def trajectory_peers(check):
    train, test = digits()
    mtt = trajectory_settings('mtt')
    check('mtt resumes', lambda: resumes(lambda out, **k: trajectories.mtt(train, mtt, 0, out, **k)))
    check('tesla, bf16', lambda: trajectories.mtt(train, trajectory_settings('tesla'), precision='bf16', **QUIET))
    moving = replace(trajectory_settings('tesla'), labels='moving', cut=True)
    check('moving labels', lambda: trajectories.mtt(train, moving, **QUIET))


@group
def kernel_peers(check):
    train, test = digits()
    small = lambda system, **more: replace(kernels.tiny(system, 10, 2), batch=16, **more)
    settings = dict(ntk=small('kip'), nngp=small('kip', kernel='nngp', depth=2, learn_y=False), rfad=small('rfad'))
    for name, cfg in settings.items():
        check(name, lambda: resumes(lambda out, **k: kernels.kip(train, cfg, 0, out, **k)))
        check(f'{name} bf16', lambda: kernels.kip(train, cfg, precision='bf16', **QUIET))
    frepo = small('frepo', pool=2, max_steps=2)
    check('frepo', lambda: resumes(lambda out, **k: kernels.frepo(train, frepo, 0, out, **k)))
    other = replace(frepo, norm='batch', optimiser='adamw', schedule='linear', inner='sgd')
    check('frepo bf16', lambda: kernels.frepo(train, other, precision='bf16', **QUIET))


# ---------------------------------------------------------------- comparisons, studies, benchmarks


@group
def comparisons(check):
    train, test = digits()
    t, cls = teacher(train), classifier(train)
    check('all protocols', lambda: compare_all(train, test, t, cls))
    check('sets with labels', lambda: compare_labelled(train, test, cls))
    check('figure 1', lambda: figure_1(train, t))
    check('a row of a study', lambda: a_study(train, test, cls))
    check('costs', lambda: costs_of(train, cls))


def compare_all(train, test, t, cls):
    methods, target = ('none', 'random', 'krrst', 'full'), judging_.Target(train, test, cls)
    judged = dict(protocols=('probe', 'knn', 'finetune', 'kd'), labels=(0.2,), draws=1, targets=[target])
    trained = dict(recipe=pretraining.Recipe(2), tuning=protocols.FineTune(2), kd_steps=2)
    small = pretraining.Student(widths=(8, 8), norm='none')
    return compare.compare(train, test, t, methods, 6, steps=2, seeds=1, student=small, **judged, **trained, **QUIET)


def compare_labelled(train, test, cls):
    networks = dict(ssl=posttrain.align(teacher(train, 'moco'), train), sl=cls)
    methods = ('noise', 'random', 'sre2l', 'scdd', 'full')
    few = dict(seeds=1, students=1, steps=2, post_steps=2)
    got = labelled.compare_labelled(train, test, networks, methods, (1,), **few, **QUIET)
    labelled.labelled_table(got)
    return labelled.labelled_picture(got, dict(scdd=posttrain.random_set(train, 1)))


def figure_1(train, t):
    "A point of MKDT's figure 1."
    kept = experts_.experts(train, t, expert_settings(same_start=True), **QUIET)
    studies.scatter(kept)
    return studies.match_one(train, t, mkdt_settings(expert_settings(experts=1), steps=1, learn_y=False), 0, False)


def a_study(train, test, cls):
    "A recovery and a student, as all studies of SC-DD make them."
    small = pretraining.Student('resnet_tiny', WIDTHS, 'batch')
    shared = study_rows.Recovery(train, test, students=1, post_steps=2)
    return study_rows.recovery_row(shared, cls, scdd_settings(), small, False, 0)


def costs_of(train, cls):
    costs.of_teacher(train, teaching())
    costs.need_room(costs.of_krrst(train, krrst.tiny(), 8), 'cuda')
    costs.of_mkdt(train, mkdt.tiny(), 8)
    costs.of_scdd(train, scdd.tiny(), cls.net)


@group
def benchmarks(check):
    small = dict(net='resnet_tiny', side=8, classes=4, batch=4, device='cuda')
    for cls in (scdd_task.SCDDTask, plain_.PlainSCDD):
        check(cls.__name__, lambda: exact(lambda: plain_.scdd_problem(cls, **small).step()))
    walk = dict(walk=lambda: trajectory_gradient.sweep(*walk_problem(2)))
    check('one size of a step, timed', lambda: plain_.take_turns('x', walk, 1, 'cuda', False))
    check('a walk', lambda: exact(lambda: trajectory_gradient.sweep(*plain_.mkdt_problem(2, 4, 8, 8, 8, 'cuda'))))
    plain = plain_.PlainTeacher(photos(24, 8), teaching('barlow_twins', 3, 8))
    check('a plain teacher', lambda: exact(plain.step))
    check('a plain expert', lambda: exact(plain_expert))
    check('ssdd-bench without names', bench_all)


def plain_expert():
    Y = torch.randn(24, 5).to('cuda')
    return plain_.PlainExpert(photos(24, 8), Y, expert_settings(batch=8)).step()


def bench_all():
    "All benchmarks, with nothing in place of those that measure: what is left is how they are called."
    kept = dict(bench.BENCHES)
    rates, costs_.rates = costs_.rates, lambda device: {}
    bench.BENCHES.update({n: lambda reps, device, show: [] for n in kept if n != 'ranks'})
    try:
        with tempfile.TemporaryDirectory() as d:
            bench.bench(None, Path(d), 1, 'cuda', False)
            assert (Path(d) / 'bench.json').exists()
    finally:
        bench.BENCHES.update(kept)
        costs_.rates = rates


@group
def rates(check):
    "How fast the card is: a product and a convolution, large ones on the CPU."
    check('costs.rates', lambda: costs.rates('cuda', 1))


# ---------------------------------------------------------------- pictures


@group
def pictures(check):
    train, test = digits()
    t, x = teacher(train), torch.rand(10, 1, 8, 8).to('cuda')
    d = coresets.random(train, t, 10, **QUIET)
    real, made = t.targets(train), t(x)
    check('images', lambda: (viz.show_images(x), viz.filmstrip({0: x, 1: x}), viz.animate({0: x, 1: x})))
    check('neighbours', lambda: viz.show_nearest(x, train.pixels(), made, real))
    of_set = t(d.pixels().to('cuda'))
    check('neighbours of a set of the CPU', lambda: viz.show_nearest(d.pixels(), train.pixels(), of_set, real))
    check('neighbours of features of the CPU', lambda: viz.nearest(d.y, real))
    check('embedding', lambda: viz.plot_embedding(viz.embed_2d(dict(real=real, krrst=made), 'pca'), train.y))
    check('explorer of a set', lambda: explore.explore_set(d, train, t))
    check('explorers of pixels', lambda: (explore.explore_steps({0: x, 1: x}), explore.explore_methods(dict(random=x))))
    check('explorer of a set on the card', lambda: explore.explore_set(d.to('cuda'), train, t))
    import matplotlib.pyplot as plt

    plt.close('all')


# ---------------------------------------------------------------- theorems


@group
def theorems(check):
    X, p = torch.rand(4, 6).to('cuda'), torch.tensor([0.2, 0.3, 0.5]).to('cuda')
    masks = (torch.rand(3, 6) > 0.3).float().to('cuda')
    solve, outer = theory_bias.autoencoder(X, masks, p)
    check('bias', lambda: theory_bias.gradient_bias(solve, outer, X, p, 2).squared())
    check('bias, drawn', lambda: theory_bias.gradient_bias(solve, outer, X, p, 2, 5).squared())
    check('terms of the bias', lambda: theory_bias.covariance_terms(solve, outer, X, p, 2))
    check('constant of the bias', lambda: theory_bias.bias_constant(solve, outer, X, p))
    on_views = theory_views.view_regression(lambda x, j: (x * masks[j], x), 0.1)
    check('least squares on views', lambda: theory_bias.gradient_bias(on_views, outer, X, p, 2).squared())
    W = torch.rand(3, 3, dtype=torch.float64).to('cuda')
    batch = torch.rand(4, 3, dtype=torch.float64).to('cuda'), None
    check('spectral losses', lambda: [theory_variance.spectral_loss(W, batch, n) for n in theory_variance.NEGATIVES])
    check('variance of gradients', lambda: gradient_variance())
    check('partitions', lambda: partitions(X))
    train, test = digits()
    check('entropy of layers', lambda: entropies(classifier(train).net, train))


def gradient_variance():
    draw = lambda gen: torch.rand(4, 3, generator=gen).to('cuda')
    theta = torch.rand(3).to('cuda')
    return theory_variance.gradient_variance(lambda th, b: (b @ th).square().sum(), theta, draw, 10)


def partitions(X):
    h = torch.rand(4, 4, 3).to('cuda')
    theory_partitions.pairwise_variance(h + h.transpose(0, 1), 2)
    loss = lambda th, B: (X[B] @ th).square().sum()
    return theory_partitions.partition_variance(loss, torch.rand(6).to('cuda'), 4, 2)


def entropies(net, train):
    theory_entropy.layer_entropy(net)
    theory_entropy.before_and_after(net, train)
    return theory_entropy.side_by_side({'a': [net]}, train)


# ---------------------------------------------------------------- console commands


@group
def commands(check):
    train, test = on_the_cpu()
    with tempfile.TemporaryDirectory() as d:
        both = [torch.cat([getattr(i, k) for i in (train, test)]).numpy() for k in ('x', 'y')]
        np.savez(f'{d}/digits.npz', x=both[0][:, 0], y=both[1])
        source = ['--source', f'npz:{d}/digits.npz', '--device', 'cuda']

        def run(name, *argv):
            check(f"ssdd-{name} {' '.join(argv[:2]).replace(d, '')}", lambda: command(name, *argv, *source))

        run('teacher', '--steps', '2', '--out', f'{d}/t')
        run(
            'distill',
            '--method',
            'krrst',
            '--steps',
            '2',
            '--m',
            '5',
            '--teacher',
            f'{d}/t',
            '--yes',
            '--no-verdict',
            '--out',
            f'{d}/k',
        )
        judging = ['--protocol', 'probe,finetune', '--labels', '1', '--tuning-steps', '2', '--recipe', 'mkdt']
        run('eval', f'{d}/k', '--teacher', f'{d}/t', '--seeds', '1', *judging)
        soft = ['--method', 'scdd', '--ipc', '1', '--teacher-steps', '2', '--soft-labels']
        run('distill', *soft, '--steps', '2', '--out', f'{d}/s')
        run('eval', f'{d}/s', '--seeds', '1', '--post-steps', '2')
        few = ['--protocol', 'knn', '--steps', '2', '--seeds', '1', '--m', '5', '--recipe', 'mkdt']
        run('compare', '--methods', 'random,krrst', *few, '--teacher', f'{d}/t', '--out', f'{d}/c')


def small_krrst(m=8, steps=2, settings=krrst_settings()):
    return replace(settings, m=m, steps=steps)


def shorter(preset, kind, channels, steps=None, recipe=labelled.post_recipe):
    return recipe(preset, kind, channels, steps or 2)


def command(name, *argv):
    "A console command, in this process; what has no flag to make it short is made short here."
    said = io.StringIO()
    small = mock.patch.object(krrst, 'tiny', small_krrst), mock.patch.object(labelled, 'post_recipe', shorter)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said), small[0], small[1]:
        try:
            getattr(cli, name)(list(argv))
        except SystemExit as e:
            if e.code:
                raise RuntimeError(f'ends with {e.code}: {said.getvalue()[-200:]}') from None


# ---------------------------------------------------------------- how often the host waits


@group
def waits(check):
    "A step makes the host wait at most once; logging, which `core.run` does, comes on top."
    train, test = digits()
    t = teacher(train)
    d = coresets.random(train, t, 10, **QUIET)
    long_walk = mkdt_settings(syn_steps=40, batch=4)
    kept = experts_.experts(train, t, long_walk.experts, **QUIET)
    tasks = {
        'KRR-ST': lambda: krrst.KRRSTTask(train, t, krrst_settings(steps=9, max_steps=9)),
        'MKDT, 40 inner steps': lambda: mkdt_task.MKDTTask(train, t, kept, long_walk),
        'SC-DD': lambda: scdd_task.SCDDTask(train, classifier(train), scdd_settings(steps=9, **scdd.RRC)),
        'SC-DD, rolled': lambda: scdd_task.SCDDTask(train, classifier(train), scdd_settings(steps=9)),
        'teacher': lambda: teacher_training.TeacherTask(train, teaching(steps=9)),
        'teacher, photographs': lambda: teacher_training.TeacherTask(
            photos(), teaching('barlow_twins', 3, 16, steps=9)
        ),
        'pre-training': lambda: pretraining.Pretraining(student(train, d.y.shape[1]), d, pretraining.Recipe(9)),
    }
    for name, make in tasks.items():
        check(name, lambda: waits_of(check, name, make))


def waits_of(check, name, make):
    task = make()
    if not name.startswith('MKDT'):  # its first step is as any other, and long
        exact(task.step)  # with what is done once
    with check.card.count() as seen:
        exact(task.step)
        waits, where = seen.syncs.total(), most_of(seen.syncs)
    check.note(f'        {name:22s} {waits:3d} waits a step   {where[:120]}')
    assert waits <= 1, f'the host waits {waits} times a step: {where}'


# ---------------------------------------------------------------- two cards


def two_cards():
    "What two processes do together, each with a card of its own: {name: a function of the folder that they share}."
    train, test = [images.to(core.get_device('auto')) for images in on_the_cpu()]
    with processes_.alone():
        frozen = teachers.load_teacher('digits')
    keep = dict(checkpoint_steps=1, **QUIET)
    teach = lambda loss: lambda out: teacher_training.train_teacher(train, teaching(loss), 0, out, **keep)
    ridge = lambda **more: lambda out: krrst.krrst(train, frozen, krrst_settings(**more), 0, out, **keep)
    walk = lambda **more: lambda out: mkdt.mkdt(train, frozen, mkdt_settings(**more), 0, out, **keep)
    frepo = replace(kernels.tiny('frepo', 10, 2), batch=16, pool=2, max_steps=2)
    return {
        'teacher': teach('barlow_twins'),
        'moco': teach('moco'),
        'dino': teach('dino'),
        'KRR-ST': ridge(),
        'KRR-ST, batch norm': ridge(norm='batch'),
        'experts': lambda out: experts_.experts(train, frozen, expert_settings(), 0, out, **keep),
        'MKDT': walk(init='highloss'),
        'MKDT, two problems': walk(problems=2),
        'SC-DD': lambda out: scdd.scdd(train, classifier(train), scdd_settings(**scdd.RRC), 0, out, **keep),
        'TESLA': lambda out: trajectories.tesla(train, trajectory_settings('tesla'), 0, out, **keep),
        'FRePo': lambda out: kernels.frepo(train, frepo, 0, out, **keep),
        'coreset': lambda out: coresets.random(train, frozen, 5, out=out, **keep),
    }


def join():
    "Become one of the processes."
    processes_.join('auto')
