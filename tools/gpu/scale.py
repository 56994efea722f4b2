"What comes of a few minutes: a teacher, KRR-ST's images, students pre-trained on them and on others, probes."

import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from gpu import Clock
from ssdd_nb.methods import coresets, krrst
from ssdd_nb import teacher_training, teachers
from ssdd_nb.core import precision
from ssdd_nb.records import peak_mib, reset_peak
from ssdd_nb.runs import run
from ssdd_nb.data import alike, load_images
from ssdd_nb.distilled import distilled_from
from ssdd_nb.loading import load
from ssdd_nb.pretraining import Pretraining, Recipe, Student
from ssdd_nb.methods.views import with_views
from ssdd_nb.evaluation import pretrained
from ssdd_nb.probes import probe, probe_scores

SETS = 'none', 'random', 'kmeans', 'krrst', 'full'
VIEWS = ' + views'  # behind the name of a set whose views the teacher is asked about at pre-training
UNDER_VIEWS = tuple(n + VIEWS for n in ('random', 'kmeans', 'full'))
TIMED_STEPS = 10  # how many are timed to plan the rest, after three to warm up


class Late(Exception):
    "A training that has had its share, and more."


class Scale:
    "What the items share; each is made when it is first asked for."

    def __init__(self, how, records, clock, args):
        self.how, self.records, self.clock, self.args = how, records, clock, args
        self.device = records.device
        self.out = Path(args.out) / 'scale'

    @cached_property
    def images(self):
        "Training and test images, on the device, normalised alike."
        if self.args.tiny:
            sets = load_images('digits')
        else:
            sets = [load_images(f'zip:{Path(self.args.data) / n}.zip', held_out=0)[0] for n in ('train', 'test')]
        sets = alike(sets, sets[0].x.shape[1:])
        return [images.to(self.device) for images in sets]

    @cached_property
    def plan(self):
        "Seconds of each share of what is left, from the first call that planned."
        return self.records.read('scale', 'plan')

    def make_plan(self):
        train, test = self.images
        left = self.clock.left()
        teacher, making = (left * share for share in (self.how.teacher_share, self.how.krrst_share))
        shares = dict(teacher=round(teacher), krrst=round(making), students=round(left - teacher - making))
        return dict(
            shares=shares,
            source=train.name,
            n_train=len(train),
            n_test=len(test),
            side=train.x.shape[2],
            precision=self.how.precision,
            m=self.how.m,
            seeds=self.how.seeds,
            labels=list(self.how.labels),
            note='random: another draw for each seed; k-means and KRR-ST: one set, new students for each seed',
        )

    def step_seconds(self, step):
        "Seconds of a step, from a few."
        for timed in (False, True):
            start = self.now()
            for _ in range(TIMED_STEPS if timed else 3):
                with precision(self.how.precision, self.device):
                    step()
        return (self.now() - start) / TIMED_STEPS

    def now(self):
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.monotonic()

    def until(self, share):
        "For `run`: end a training that takes far longer than its share."
        clock = Clock(self.plan['shares'][share] * self.how.late)

        def on_step(step, task):
            if clock.left() < 0:
                raise Late

        return on_step

    def drive(self, task, steps, folder, share):
        "Run a task to its end, or as far as its share goes; steps done, seconds, memory."
        reset_peak(self.device)
        start, late = self.now(), False
        try:
            run(
                task,
                steps,
                self.out / folder,
                name=folder,
                precision=self.how.precision,
                show=False,
                log_every=50,
                on_step=self.until(share),
            )
        except Late:
            late = True
        return dict(
            steps=steps,
            done=task.t,
            late=late,
            seconds=round(self.now() - start, 1),
            peak_mib=round(peak_mib(self.device), 1),
        )

    # ---- the teacher

    def teacher_config(self, steps):
        if self.args.tiny:
            cfg = replace(teacher_training.tiny(1, 8), widths=(16, 32, 64))
        else:
            cfg = teacher_training.paper('barlow_twins')
        return replace(cfg, steps=steps, batch=self.how.teacher_batch)

    def plan_teacher(self):
        "As many steps as its share allows."
        train, _ = self.images
        each = self.step_seconds(teacher_training.TeacherTask(train, self.teacher_config(10_000)).step)
        steps = min(self.how.most_teacher_steps, max(2, int(self.plan['shares']['teacher'] * self.how.safety / each)))
        epochs = steps * self.how.teacher_batch / len(train)
        return dict(step_seconds=each, steps=steps, epochs=round(epochs, 1))

    def train_teacher(self):
        train, _ = self.images
        steps = self.records.read('scale', 'plan of the teacher')['steps']
        task = teacher_training.TeacherTask(train, self.teacher_config(steps))
        row = self.drive(task, steps, 'teacher', 'teacher')
        about = dict(net=task.cfg.net, loss=task.cfg.loss, steps=task.t, seed=0, trained_on=train.describe())
        teachers.Teacher(task.net, train.mean, train.std, about).save(self.out / 'teacher.safetensors')
        return row

    @cached_property
    def teacher(self):
        return teachers.load_teacher(self.out / 'teacher.safetensors')

    def targets(self):
        "The teacher's features of all images, and what a probe makes of them."
        train, test = self.images
        f, f_test = self.teacher.targets(train), self.teacher.targets(test)
        scores = probe_scores(f, f_test, train, test, self.how.labels, draws=self.how.draws)
        return dict(method='teacher', accuracy={str(k): v for k, v in scores.items()})

    # ---- the sets

    def krrst_config(self, steps, max_steps):
        cfg = krrst.paper('cifar100')
        return replace(
            cfg,
            m=self.how.m,
            steps=steps,
            batch=self.how.krrst_batch,
            lr=self.how.krrst_lr,
            widths=self.how.widths,
            norm=self.how.norm,
            max_steps=max_steps,
        )

    def plan_krrst(self):
        "As many steps as its share allows, and a pool that does not take most of it to fill."
        train, _ = self.images
        task = krrst.KRRSTTask(train, self.teacher, self.krrst_config(10_000, 10_000))
        task.pool = [task.fresh()]
        each = self.step_seconds(task.step)
        inner = self.step_seconds(lambda: task.pool[0].train(task.X_s.detach(), task.Y_s.detach()))
        share = self.plan['shares']['krrst'] * self.how.safety
        wanted = 2 * share * self.how.fill_share / (task.cfg.pool * inner)
        max_steps = min(self.how.most_pool_steps, max(20, int(wanted)))
        filling = task.cfg.pool * inner * max_steps / 2
        steps = min(self.how.most_krrst_steps, max(2, int((share - filling) / each)))
        return dict(step_seconds=each, inner_seconds=inner, max_steps=max_steps, steps=steps)

    def distil(self):
        train, _ = self.images
        planned = self.records.read('scale', 'plan of KRR-ST')
        task = krrst.KRRSTTask(train, self.teacher, self.krrst_config(planned['steps'], planned['max_steps']))
        row = self.drive(task, planned['steps'], 'krrst', 'krrst')
        task.distilled().save(self.out / 'krrst.safetensors')
        return row

    def choose_kmeans(self):
        "k-means on a random part of the images, which is what a CPU has time for."
        train, _ = self.images
        start = self.now()
        part = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: self.how.kmeans_of]
        d = coresets.kmeans(train[part], self.teacher, self.how.m, show=False)
        d.save(self.out / 'kmeans.safetensors')
        return dict(seconds=round(self.now() - start, 1))

    def set_of(self, method, seed):
        train, _ = self.images
        if method == 'none':
            return None
        if method.endswith(VIEWS):
            return with_views(self.set_of(method.removesuffix(VIEWS), seed), self.teacher, 'unlimited')
        if method == 'random':
            return coresets.random(train, self.teacher, self.how.m, seed, show=False)
        if method == 'full':
            return distilled_from(
                train.normalised(),
                self.teacher.targets(train),
                train,
                method='full',
                config={},
                seed=0,
                teacher=self.teacher.about(),
            )
        return load(self.out / f'{method}.safetensors')

    # ---- the students

    @property
    def kind_of_student(self):
        return Student(widths=self.how.widths, norm=self.how.norm)

    def plan_students(self):
        "As many steps of pre-training, for all the same, as leave time for the probes."
        train, _ = self.images
        net = self.kind_of_student.make(train, self.teacher.targets(train).shape[1], 0)
        recipe = Recipe(1000, batch=self.how.student_batch)
        each = self.step_seconds(Pretraining(net, self.set_of('random', 0), recipe).step)
        viewed = Pretraining(net, self.set_of('random' + VIEWS, 0), recipe, teacher=self.teacher)
        each_view = self.step_seconds(viewed.step)
        start = self.now()
        self.judge(net, 0)
        judging = self.now() - start
        together = ((len(SETS) - 1) * each + len(UNDER_VIEWS) * each_view) * self.how.seeds
        left = min(self.plan['shares']['students'], self.clock.left()) * self.how.safety
        steps = (left - judging * len(SETS + UNDER_VIEWS) * self.how.seeds) / together
        steps = int(min(self.how.most_student_steps, max(10, steps)))
        return dict(step_seconds=each, view_seconds=each_view, judging_seconds=judging, steps=steps)

    def judge(self, net, seed):
        train, test = self.images
        scores = probe(net, train, test, self.how.labels, seed, self.how.draws)
        return {str(k): v for k, v in scores.items()}

    def student(self, method, seed):
        "One row of the table."
        steps = self.records.read('scale', 'plan of the students')['steps']
        d, recipe = self.set_of(method, seed), Recipe(steps, batch=self.how.student_batch, schedule='cosine')
        how = dict(precision=self.how.precision, show=False)
        net, mse, seconds = pretrained(d, *self.images, self.teacher, recipe, self.kind_of_student, seed, **how)
        return dict(
            method=method,
            seed=seed,
            m=0 if d is None else len(d),
            steps=0 if d is None else steps,
            accuracy=self.judge(net, seed),
            target_mse=mse,
            seconds=round(seconds, 2),
        )


def items(how, records, clock, args):
    "Each needs what those before it have left. Students go seed by seed, so that a cut leaves whole seeds."
    s = Scale(how, records, clock, args)
    listed = [
        ('plan', s.make_plan),
        ('plan of the teacher', s.plan_teacher),
        ('teacher', s.train_teacher),
        ('targets', s.targets),
        ('k-means', s.choose_kmeans),
        ('plan of KRR-ST', s.plan_krrst),
        ('KRR-ST', s.distil),
        ('plan of the students', s.plan_students),
    ]
    return listed + [
        (f'{n}, seed {i}', lambda n=n, i=i: s.student(n, i)) for i in range(how.seeds) for n in SETS + UNDER_VIEWS
    ]


def show(r):
    "A line for the terminal."
    if r.get('error'):
        return f"FAILED  {r['name']}: {r['error']}"
    told = (
        'shares',
        'epochs',
        'step_seconds',
        'steps',
        'done',
        'late',
        'max_steps',
        'accuracy',
        'target_mse',
        'seconds',
        'peak_mib',
    )
    return f"{r['name']}: " + ', '.join(f"{k.replace('_', ' ')} {short(r[k])}" for k in told if k in r)


def short(v):
    if isinstance(v, dict):
        return ' '.join(f'{k}: {short(x)}' for k, x in v.items())
    return f'{v:.4g}' if isinstance(v, float) else str(v)
