"The pretended card by itself: it computes what the CPU computes, raises what CUDA raises, and counts what waits."

import copy
import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import card as cards
from checks import Checks, group, raises


@group
def card(check):
    "All that follows rests on this."
    check('a failure, a wait and a fault are seen', lambda: failures_are_seen(check.card))
    for name in ('SGD', 'AdamW'):
        check(f'training with {name} equals the CPU bit for bit', lambda: trains_alike(name))
    check('vmap, double backward and autocast', transforms)
    check('errors of two devices', errors_of_two_devices)
    check('errors of generators', errors_of_generators)
    check('errors of NumPy, bf16 and pinned memory', other_errors)
    check('batch norm without statistics fails as on CUDA', batch_norm)
    check('CPU tensors under NCCL', lambda: nccl(check.card))
    check('waiting is counted where it happens', lambda: waiting(check.card))


def failures_are_seen(card):
    "The checks themselves, on what is wrong: an exception, a fault in the package's name, a group that dies."
    inner = Checks(card, 'inner')
    inner('raises', lambda: 1 / 0)
    inner('faulty', lambda: card.faults.update(['somewhere: something']))
    inner('fine', lambda: None)
    assert inner.n == 3 and len(inner.lines) == 2, inner.lines
    assert 'ZeroDivisionError' in inner.lines[0] and 'something' in inner.lines[1]
    del card.faults['somewhere: something']


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    )


def trains_alike(name):
    "Three steps on the card and on the CPU; optimiser states are saved and loaded in between."
    nets, weights = dict(cpu=small_net(), cuda=small_net().to('cuda')), {}
    gen = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 3, 4, 4, generator=gen), torch.randint(5, (6,), generator=gen)
    for device, net in nets.items():
        opt = getattr(torch.optim, name)(net.parameters(), lr=0.05, weight_decay=0.01)
        for _ in range(3):
            loss = F.cross_entropy(net(x.to(device)), y.to(device))
            opt.zero_grad()
            loss.backward()
            opt.step()
            file = io.BytesIO()
            torch.save(dict(net=net.state_dict(), opt=opt.state_dict()), file)
            file.seek(0)
            state = torch.load(file, map_location='cpu', weights_only=True)
            opt.load_state_dict(state['opt'])
            net.load_state_dict(state['net'])
        assert {p.device.type for p in net.parameters()} == {device}
        weights[device] = copy.deepcopy(net).to('cpu').state_dict()
    for k, w in weights['cpu'].items():
        assert torch.equal(w, weights['cuda'][k]), k


def transforms():
    "What the library asks of autograd and autocast."
    w = torch.arange(9.0).view(3, 3).to('cuda').requires_grad_()
    (g,) = torch.autograd.grad((w @ w).square().sum(), w, create_graph=True)
    g.square().sum().backward()
    v = torch.arange(9.0).view(3, 3).requires_grad_()
    (h,) = torch.autograd.grad((v @ v).square().sum(), v, create_graph=True)
    h.square().sum().backward()
    assert w.grad.is_cuda and torch.equal(w.grad.cpu(), v.grad)
    loss = torch.func.grad_and_value(lambda t, u: (t * u).square().sum())
    gradient, value = torch.func.vmap(loss)(w.detach(), w.detach())
    assert gradient.is_cuda and value.shape == (3,)
    with torch.autocast('cuda', torch.bfloat16):
        assert (w @ w).dtype == torch.bfloat16


def errors_of_two_devices():
    "Tensors of both devices: refused, but for single numbers and for indices on the CPU."
    x, c, rows = torch.ones(4, 3, device='cuda'), torch.ones(4, 3), torch.tensor([0, 1])
    two = 'Expected all tensors to be on the same device'
    wrong = dict(
        add=lambda: x + c,
        product=lambda: x @ c.T,
        cat=lambda: torch.cat([x, c]),
        where=lambda: torch.where(x > 0, x, c),
        index_add=lambda: x.index_add_(0, rows, x[:2]),
        in_place=lambda: c.add_(x[0, 0]),
        put=lambda: x.__setitem__(rows, c[:2]),
        loss=lambda: F.cross_entropy(x, rows.repeat(2)),
    )
    for name, call in wrong.items():
        with raises(RuntimeError, two):
            call()
            print(f'{name} is not refused')
    with raises(RuntimeError, 'indices should be either on cpu or on the same device'):
        c[rows.to('cuda')]
    by_number = x * torch.tensor(2.0), torch.where(x > 0, x, 0.0), torch.tensor([1.0], device='cuda')
    for right in (*by_number, x[rows], x[[0, 1]], x[x > 0]):
        assert right.is_cuda


def errors_of_generators():
    "A generator draws for its own device, and its state is of another size."
    g = torch.Generator('cuda').manual_seed(3)
    state = g.get_state()
    a = torch.rand(3, generator=g, device='cuda')
    g.set_state(state)
    assert len(state) == 16 and torch.equal(a.cpu(), torch.rand(3, generator=g, device='cuda').cpu())
    with raises(RuntimeError, "Expected a 'cuda' device type for generator"):
        torch.randn(3, generator=torch.Generator(), device='cuda')
    with raises(RuntimeError, "Expected a 'cpu' device type for generator"):
        torch.randn(3, generator=g)
    with raises(RuntimeError, 'RNG state is wrong size'):
        g.set_state(torch.Generator().get_state())
    with raises(RuntimeError, 'size'):
        torch.Generator().set_state(state)


def other_errors():
    "What else CUDA refuses."
    x = torch.eye(3, device='cuda')
    with raises(TypeError, "can't convert cuda:0 device type tensor to numpy"):
        x.numpy()
    with raises(TypeError, "can't convert cuda:0 device type tensor to numpy"):
        np.asarray(x)
    with raises(NotImplementedError, 'not implemented'):
        torch.linalg.cholesky(x.bfloat16())
    with raises(RuntimeError, 'cannot pin'):
        x.pin_memory()


def batch_norm():
    "Eval mode's backward without the saved statistics, channels-last: an internal assertion of CUDA's."
    x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).to('cuda')
    mean, var = torch.zeros(3, device='cuda'), torch.ones(3, device='cuda')
    back = torch.ops.aten.native_batch_norm_backward
    with raises(RuntimeError, 'save_mean should always be defined'):
        back(x, x, None, mean, var, None, None, False, 1e-5, [True, False, False])
    back(x, x, None, mean, var, mean, var.rsqrt(), False, 1e-5, [True, False, False])


def nccl(card):
    "A process group of one."
    dist = torch.distributed
    dist.init_process_group('nccl', store=dist.HashStore(), rank=0, world_size=1)
    x = torch.ones(2, device='cuda')
    dist.all_reduce(x)
    with raises(RuntimeError, 'No backend type associated with device type cpu'):
        dist.all_reduce(torch.ones(2))
    dist.destroy_process_group()
    card.nccl = False


def waiting(card):
    "Each way to wait is counted once; copies from pinned memory, and its views, do not wait."
    x, c = torch.ones(4, 3, device='cuda'), torch.ones(4, 3)
    once = dict(
        item=lambda: float(x.sum()),
        back=lambda: x.cpu(),
        there=lambda: c.to('cuda'),
        mask=lambda: x[x > 0],
        index=lambda: x[torch.tensor([0])],
        new=lambda: torch.tensor([1.0], device='cuda'),
        nonzero=lambda: x.nonzero(),
        pageable=lambda: c.to('cuda', non_blocking=True),
        solve=lambda: torch.linalg.cholesky(torch.eye(2, device='cuda')),
    )
    for name, call in once.items():
        with card.count() as seen:
            call()
            assert seen.syncs.total() == 1, (name, seen.syncs)
    pinned, empty = c.pin_memory(), torch.empty(4, 3, pin_memory=True)
    assert pinned.is_pinned() and pinned[:2].is_pinned() and not c.is_pinned()
    with card.count() as seen:
        for t in (pinned, pinned[:2], empty):
            t.to('cuda', non_blocking=True)
        torch.empty(4, 3, device='cuda').copy_(pinned, non_blocking=True)
        x + torch.tensor(1.0)
        assert not seen.syncs, seen.syncs
    assert cards.CARD is card
