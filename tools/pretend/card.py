"""A pretended graphics card: tensors that say they are on `cuda:0`, compute on the CPU, and fail where CUDA fails.

    with pretend('ssdd_nb') as card:          # torch.cuda.is_available() is True in here, and x.to('cuda') works
        with card.count() as seen:
            task.step()
    print(seen.syncs, card.faults)

A tensor of the card is a wrapper around a CPU tensor. A dispatch mode below autograd and autocast unwraps it, computes
on the CPU, and wraps the result. On the way it raises CUDA's errors (two devices in one operation, a generator or an
index of the other device, `.numpy()`, linear algebra in bf16, CPU tensors under NCCL), counts how often the host waits
for the card, and notes what raises nothing but is wrong all the same (`card.faults`).

It knows nothing of speed, memory limits, races, streams, the rounding of TF32, indices out of range, and kernels that
CUDA lacks (but for linear algebra in bf16). All cards of a process are the same one.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import types
import weakref
from collections import Counter
from pathlib import Path

import torch
import torch._dynamo  # keeps a table of torch's functions: before any is replaced
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
CUDA = torch.device('cuda', 0)
HERE = Path(__file__).resolve().parent
CpuGenerator = torch.Generator
CARD = None  # the card that is there, inside `pretend`


# ---------------------------------------------------------------- tensors


class Held:
    "Counts a storage as held by the card for as long as one of its tensors lives."

    users, sizes, now, peak = Counter(), {}, 0, 0
    __slots__ = ('key',)

    def __init__(self, t):
        storage = t.untyped_storage()
        self.key = storage._cdata
        if Held.users[self.key] == 0:
            Held.sizes[self.key] = storage.nbytes()
            Held.now += storage.nbytes()
            Held.peak = max(Held.peak, Held.now)
        Held.users[self.key] += 1

    def __del__(self):
        Held.users[self.key] -= 1
        if Held.users[self.key] == 0:
            del Held.users[self.key]
            Held.now -= Held.sizes.pop(self.key, 0)


class CudaTensor(torch.Tensor):
    "Says it is on cuda:0; `inner` is the CPU tensor that holds its numbers."

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        places = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), layout=inner.layout)
        t = torch.Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=CUDA, **places)
        t.inner = inner
        t._held = Held(inner)
        if CARD:
            CARD.made.add((tuple(inner.shape), inner.dtype))
        return t

    def __init__(self, inner):
        pass

    def __tensor_flatten__(self):
        return ['inner'], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return CudaTensor(inner['inner'])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def __repr__(self):
        return f"{repr(self.inner)[:-1]}, device='cuda:0')"

    def __format__(self, spec):
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            'memory first.'
        )

    def __array__(self, dtype=None):
        return self.numpy()

    def tolist(self):
        return self.detach().cpu().tolist()

    def data_ptr(self):
        return 0

    def __deepcopy__(self, memo):
        if not self.is_leaf:
            raise RuntimeError('Only Tensors created explicitly by the user support the deepcopy protocol')
        if id(self) in memo:
            return memo[id(self)]
        new = CudaTensor(self.inner.detach().clone(memory_format=torch.preserve_format))
        new.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ('inner', '_held')})
        new.requires_grad_(self.requires_grad)
        if self.grad is not None:
            new.grad = self.grad.__deepcopy__(memo)
        memo[id(self)] = new
        return new

    def __reduce_ex__(self, protocol):  # a file holds the CPU tensor; `torch.load` is watched
        if CARD:
            CARD.saved = True
        return self.inner.detach().__reduce_ex__(protocol)


def on_card(t):
    return isinstance(t, CudaTensor)


def on_cpu(t):
    return isinstance(t, torch.Tensor) and not on_card(t) and t.device.type == 'cpu'


def unwrap(t):
    return t.inner if on_card(t) else t


def is_pinned(t, *device):
    "Whether it, or what it is a view of, is in pinned memory."
    return getattr(t, '_pinned', False) or (t._base is not None and getattr(t._base, '_pinned', False))


def pin(t, *device):
    "A copy in pinned memory, or rather one that says so."
    if on_card(t):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    t = t.clone()
    t._pinned = True
    return t


# ---------------------------------------------------------------- generators


class Generator(CpuGenerator):
    "`torch.Generator('cuda')`: a seed and an offset, 16 bytes; each use draws from the CPU stream that these name."

    known = weakref.WeakValueDictionary()  # an operation gets the C++ object only

    def __new__(cls, device='cpu'):
        if torch.device(device).type != 'cuda':
            return CpuGenerator(device)
        g = super().__new__(cls)
        g.start, g.offset = 67280421310721, 0  # CUDA's default seed
        Generator.known[g._cdata] = g
        return g

    def __init__(self, device='cpu'):
        pass

    @property
    def device(self):
        return CUDA

    def manual_seed(self, seed):
        self.start, self.offset = seed % 2**64, 0
        return self

    def initial_seed(self):
        return self.start

    def get_state(self):
        return torch.frombuffer(bytearray(struct.pack('<QQ', self.start, self.offset)), dtype=torch.uint8).clone()

    def set_state(self, state):
        if not isinstance(state, torch.Tensor) or state.device.type != 'cpu' or state.dtype != torch.uint8:
            raise TypeError('RNG state must be a torch.ByteTensor')
        if state.numel() not in (8, 16):
            raise RuntimeError('RNG state is wrong size')
        self.start, self.offset = struct.unpack('<QQ', bytes(state.tolist()).ljust(16, b'\0'))
        return self

    def stream(self):
        "A CPU generator for one use."
        name = hashlib.sha256(struct.pack('<QQ', self.start, self.offset)).digest()
        self.offset = (self.offset + 4) % 2**64
        return CpuGenerator().manual_seed(int.from_bytes(name[:8], 'little') >> 1)

    def __reduce__(self):
        raise TypeError("cannot pickle 'torch._C.Generator' object")


# ---------------------------------------------------------------- the card


class Count:
    "What happened since it was made."

    def __init__(self, card):
        self.card, self.before = card, Counter(card.syncs)
        card.made.clear()

    @property
    def syncs(self):
        "How often the host waited, by (kind, operation, place)."
        return self.card.syncs - self.before

    @property
    def made(self):
        "The (shape, type) of all tensors that were made on the card."
        return self.card.made


class Card(TorchDispatchMode):
    "What the card saw."

    def __init__(self, package):
        super().__init__()
        self.folder = os.sep + package + os.sep
        self.syncs = Counter()  # how often the host waited, by (kind, operation, place)
        self.faults = Counter()  # what is wrong and raises nothing: 'place: what'
        self.lowered = Counter()  # products in bf16: (place, operation, shape)
        self.made = set()  # (shape, type) of tensors
        self.saved, self.nccl, self.default = False, False, Generator('cuda')

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})

    def places(self, most=1):
        "The innermost lines of the package that are being executed, 'file.py:12 function' each."
        frame, found = sys._getframe(2), []
        while frame and len(found) < most:
            code = frame.f_code
            if self.folder in code.co_filename:
                found.append(f'{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_qualname}')
            frame = frame.f_back
        return found

    def place(self):
        "The innermost one."
        return (self.places() or ['elsewhere'])[0]

    def sync(self, kind, operation):
        self.syncs[kind, operation, self.place()] += 1

    def fault(self, what):
        "Note what is wrong, if it is the package that does it."
        places = [p for p in self.places(6) if not p.startswith('nets.py')][:2]
        if places:
            self.faults[f"{' < '.join(places)}: {what}"] += 1

    @contextlib.contextmanager
    def count(self):
        "Counts within the block."
        yield Count(self)


# ---------------------------------------------------------------- operations

COPIES = {'_to_copy', 'copy_', 'copy', '_copy_from'}
INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put'}
# not marked as pointwise, though they take numbers from the CPU as pointwise operations do
POINTWISE = {
    'where',
    'masked_fill',
    'masked_fill_',
    'lerp',
    'lerp_',
    'addcmul',
    'addcdiv',
    'addcmul_',
    'addcdiv_',
    'clamp',
    'clamp_',
    'fill_',
    'index_fill',
    'index_fill_',
    'clamp_min',
    'clamp_max',
    'maximum',
    'minimum',
}
WAITS = {
    '_local_scalar_dense',
    'is_nonzero',
    'equal',
    'nonzero',
    'masked_select',
    '_unique2',
    'unique_dim',
    'unique_consecutive',
    'bincount',
    'histc',
    'repeat_interleave',
    '_linalg_check_errors',
    '_linalg_eigh',
    'linalg_eig',
    'linalg_lstsq',
}
PRODUCTS = {'mm', 'bmm', 'addmm', 'baddbmm', 'mv', 'addmv', 'dot'}
NOT_IN_BF16 = {
    'linalg_cholesky_ex',
    '_linalg_solve_ex',
    '_cholesky_solve_helper',
    'cholesky_solve',
    '_linalg_eigh',
    '_linalg_svd',
    'linalg_qr',
    'linalg_solve_triangular',
    'linalg_lu_factor_ex',
    'linalg_lstsq',
    'cholesky_inverse',
    '_cdist_forward',
}
# of a tensor, but the new one may be on another device
LIKE = ('new_', 'empty_like', 'zeros_like', 'ones_like', 'full_like', 'rand_like', 'randn_like')
RESHAPES = {'squeeze_', 'unsqueeze_', 'transpose_', 't_', 'as_strided_', 'swapaxes_', 'swapdims_'}


def two_devices(operation, first='cuda:0', second='cpu'):
    return RuntimeError(
        'Expected all tensors to be on the same device, but found at least two devices, '
        f'{first} and {second}! (when calling aten::{operation})'
    )


def draws(func):
    return torch.Tag.nondeterministic_seeded in func.tags


def leaves(args, kwargs):
    "All arguments, those in lists one by one. PyTorch's `tree_flatten` takes longer than most operations."
    flat = []
    for a in (*args, *kwargs.values()):
        flat.extend(a) if isinstance(a, (list, tuple)) else flat.append(a)
    return flat


def mapped(f, a):
    "The function of each leaf of an argument or a result."
    if type(a) is tuple:
        return tuple([mapped(f, b) for b in a])
    if type(a) is list:
        return [mapped(f, b) for b in a]
    return tree_map(f, a) if isinstance(a, tuple) and not isinstance(a, torch.Size) else f(a)


def unwrapped(args, kwargs):
    return mapped(unwrap, tuple(args)), {k: mapped(unwrap, v) for k, v in kwargs.items()}


def generator_of(flat):
    "The generator among the arguments, or None; an operation gets the C++ object only."
    for a in flat:
        if a is not None and not isinstance(a, (torch.Tensor, int, float, torch.dtype)) and isinstance(a, CpuGenerator):
            return Generator.known.get(a._cdata, a)


def dispatch(func, args, kwargs):
    "One operation: check it, count it, compute it on the CPU, wrap what comes out."
    name = func._schema.name.split('::')[-1]
    if func.namespace == 'c10d':
        return collective(func, args, kwargs)
    flat = leaves(args, kwargs)
    there = [t for t in flat if on_card(t)]
    device = None if kwargs.get('device') is None else torch.device(kwargs['device'])
    gen = generator_of(flat)
    if not there and (device is None or device.type != 'cuda') and not isinstance(gen, Generator):
        return on_the_cpu_alone(func, args, kwargs)
    if CARD is None:
        raise RuntimeError('a tensor of the pretended card is used outside `pretend`')
    if (device and device.type == 'meta') or any(isinstance(t, torch.Tensor) and t.is_meta for t in flat):
        args, kwargs = unwrapped(args, kwargs)
        return func(*args, **kwargs)
    if name in COPIES:
        return copy(func, name, args, kwargs, device)
    to_card = device.type == 'cuda' if device else bool(there)
    check_generator(func, name, gen, to_card)
    if name in INDEXING:
        check_index(name, *args[:3])
    elif device is None:
        check_devices(func, name, args, flat, there)
    watch(name, args, flat)
    got = compute(func, name, *on_cpu_arguments(func, args, kwargs, gen, to_card))
    return wrapped(func, name, args, kwargs, there, got) if to_card else got


def on_the_cpu_alone(func, args, kwargs):
    "An operation that the card has no part in; where it asks for pinned memory, the result says that it is pinned."
    if not kwargs.get('pin_memory'):
        return func(*args, **kwargs)
    got = func(*args, **{**kwargs, 'pin_memory': False})
    got._pinned = True
    return got


def check_generator(func, name, gen, to_card):
    "A generator must be of the device that it draws for; drawing without one is a fault."
    if gen is not None:
        has, needs = 'cuda' if isinstance(gen, Generator) else 'cpu', 'cuda' if to_card else 'cpu'
        if has != needs:
            raise RuntimeError(f"Expected a '{needs}' device type for generator but found '{has}'")
    elif to_card and draws(func):
        CARD.fault(f'{name} draws from the default generator of the card, which no run seeds or saves')


def check_devices(func, name, args, flat, there):
    "Tensors of two devices meet only where the CPU's is a single number and the operation goes element by element."
    mixed = [t for t in flat if on_cpu(t)]
    if not there or not mixed:
        return
    numbers = all(t.dim() == 0 for t in mixed)
    each = name.startswith('_foreach')
    if not numbers or not (each or name in POINTWISE or torch.Tag.pointwise in func.tags):
        raise two_devices(name)
    if func._schema.is_mutable and not each and on_cpu(args[0]):
        raise two_devices(name, 'cpu', 'cuda:0')


def check_index(name, t, indices, value=None):
    "Indices may be on the CPU or where the tensor is; values must be where the tensor is, or a single number."
    for i in indices:
        if i is None:
            continue
        if on_card(i) and not on_card(t):
            raise RuntimeError('indices should be either on cpu or on the same device as the indexed tensor (cpu)')
        if on_card(t) and not on_card(i) and i.numel():
            CARD.sync('to the card', 'indices')
        if on_card(i) and i.dtype in (torch.bool, torch.uint8):
            CARD.sync('waits', 'mask')
    if isinstance(value, torch.Tensor) and 'put' in name and on_card(value) != on_card(t):
        if value.dim() or on_card(value):
            raise two_devices(name)


def watch(name, args, flat):
    "Count waiting; note products in bf16 and convolutions that are not what `precision` promises."
    if name in WAITS and not (name == 'repeat_interleave' and not on_card(args[0])):
        CARD.sync('waits', name.strip('_'))
    first = next((t for t in flat if on_card(t) and t.is_floating_point()), None)
    if first is None:
        return
    if first.dtype in (torch.bfloat16, torch.float16):
        if name in NOT_IN_BF16:
            raise NotImplementedError(f'"{name}_cuda" not implemented for \'BFloat16\'')
        if name in PRODUCTS:
            CARD.lowered[CARD.place(), name, tuple(first.shape)] += 1
    if name == 'convolution' and first.dtype == torch.float32:
        cudnn, product = torch.backends.cudnn, torch.get_float32_matmul_precision()
        if cudnn.allow_tf32 and product == 'highest':
            CARD.fault('a float32 convolution in TF32')
        if not cudnn.deterministic:
            CARD.fault('a convolution that need not repeat from run to run')


def on_cpu_arguments(func, args, kwargs, gen, to_card):
    "The arguments as the CPU's kernel takes them."
    args, kwargs = unwrapped(args, kwargs)
    if kwargs.get('device') is not None:
        kwargs['device'] = torch.device('cpu')
    if kwargs.get('pin_memory'):
        kwargs['pin_memory'] = False
    if isinstance(gen, Generator):
        stream = gen.stream()

        def streamed(a):
            return stream if isinstance(a, CpuGenerator) else a

        args, kwargs = mapped(streamed, args), {k: mapped(streamed, v) for k, v in kwargs.items()}
    elif to_card and gen is None and draws(func) and any(a.name == 'generator' for a in func._schema.arguments):
        kwargs['generator'] = CARD.default.stream()
    return args, kwargs


def compute(func, name, args, kwargs):
    "The CPU's kernel; for batch norms, which have one of their own on the card, what that one does."
    if name in ('cudnn_batch_norm', '_batch_norm_with_update'):
        y, mean, rstd = aten.native_batch_norm(*args)
        if not args[5]:  # eval mode keeps no statistics
            mean, rstd = (args[0].new_empty(0, dtype=torch.float32) for _ in range(2))
        return y, mean, rstd, torch.empty(0, dtype=torch.uint8)
    if name == 'cudnn_batch_norm_backward':
        x, g, w, running_mean, running_var, mean, rstd, eps = args[:8]
        return aten.native_batch_norm_backward(g, x, w, running_mean, running_var, mean, rstd, True, eps, [True] * 3)
    if name == 'native_batch_norm_backward':
        check_statistics(*args)
        mean, train = args[5], args[7]
        if not train and mean is not None and mean.numel() == 0:
            args = (*args[:5], None, None, *args[7:])
    return func(*args, **kwargs)


def check_statistics(g, x, w, running_mean, running_var, mean, rstd, train, eps, mask):
    "CUDA's backward of a batch norm takes the path that asks for no statistics under its own conditions only."
    if x.dim() == 4:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
    else:
        channels_last = x.dim() > 1 and x.is_contiguous() and x.stride(1) == 1
    fused = (train or mask[1] or mask[2]) and mask[0] and not channels_last
    if not fused and (mean is None or rstd is None):
        raise RuntimeError(
            'save_mean INTERNAL ASSERT FAILED at "aten/src/ATen/native/cuda/Normalization.cu": '
            'save_mean should always be defined'
        )


def wrapped(func, name, args, kwargs, there, got):
    "What came out, as tensors of the card; what was changed in place stays the tensor it was."
    known = {id(t.inner): t for t in there}

    def wrap(t):
        if not isinstance(t, torch.Tensor) or on_card(t):
            return t
        old = known.get(id(t))
        if old is None:
            return CudaTensor(t)
        if old.size() != t.size():  # reshaped in place: C++ does the same to the wrapper
            if name not in RESHAPES:
                raise NotImplementedError(f'aten::{name} reshapes in place, which the pretended card cannot')
            with torch._C._DisableTorchDispatch():
                func(old, *args[1:], **kwargs)
        return old

    return got if name == '_local_scalar_dense' else mapped(wrap, got)


def copy(func, name, args, kwargs, device):
    "A copy between devices makes the host wait, unless it is non-blocking and starts from pinned memory."
    quiet = kwargs.get('non_blocking', False) or (name == 'copy_' and len(args) > 2 and args[2])
    if name == '_to_copy':
        source, here = args[0], on_card(args[0])
        there = here if device is None else device.type == 'cuda'
    else:
        source, here, there = args[1], on_card(args[1]), on_card(args[0])
    if here != there and source.numel() and not (quiet and (here or is_pinned(source))):
        CARD.sync('to the card' if there else 'from the card', 'copy')
    first, (args, kwargs) = args[0], unwrapped(args, kwargs)
    if name == '_to_copy':
        got = func(args[0], **{**kwargs, 'device': torch.device('cpu'), 'pin_memory': False})
        return CudaTensor(got) if there else got
    got = func(*args, **kwargs)
    if name == 'copy_':
        return first
    return CudaTensor(got) if there else got


def collective(func, args, kwargs):
    "A message between processes; under NCCL, which Gloo plays, of tensors on the card only."
    flat, _ = tree_flatten((args, kwargs))
    if CARD and CARD.nccl and any(on_cpu(t) for t in flat):
        raise RuntimeError('No backend type associated with device type cpu')
    known = {id(t.inner): t for t in flat if on_card(t)}
    got = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    return tree_map(lambda t: known.get(id(t), t) if isinstance(t, torch.Tensor) else t, got)


class Factories(TorchFunctionMode):
    "`torch.tensor` and its like copy to the card where no dispatch mode sees it; here the copy can be seen."

    makers = {torch.tensor, torch.as_tensor, torch.asarray, torch.sparse_coo_tensor}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func in self.makers and torch.device(kwargs.get('device') or 'cpu').type == 'cuda' and not on_card(first):
            grad, device = kwargs.pop('requires_grad', False), kwargs.pop('device')
            return func(*args, **kwargs).to(device).requires_grad_(grad)
        if func is torch.Tensor.new_tensor and on_card(first) and not kwargs.get('device') and not on_card(args[1]):
            new = torch.tensor(args[1], dtype=kwargs.get('dtype') or first.dtype).to('cuda')
            return new.requires_grad_(kwargs.get('requires_grad', False))
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and on_card(first):
            index = tuple(map(listed, args[1])) if isinstance(args[1], tuple) else listed(args[1])
            args = (first, index, *args[2:])
        return func(*args, **kwargs)


def listed(index):
    "A list among the indices becomes a tensor on the card."
    if isinstance(index, list) and index and not any(isinstance(i, slice) for i in index):
        return torch.tensor(index).to('cuda')
    return index


# ---------------------------------------------------------------- torch.cuda


class Event:
    "An event that has always happened."

    def __init__(self, *args, **kwargs):
        pass

    def record(self, stream=None):
        pass

    def wait(self, stream=None):
        pass

    def query(self):
        return True

    def synchronize(self):
        CARD.sync('waits', 'event')

    def elapsed_time(self, other):
        return 1.0


def of_torch_cuda(card):
    "What `torch.cuda` says while there is a card."

    def synchronize(device=None):
        card.sync('waits', 'synchronize')
        if device is None:
            card.fault('synchronize() waits for the current card, which need not be the one meant')

    def nothing(*args, **kwargs):
        pass

    about = types.SimpleNamespace(
        name='pretended', major=9, minor=0, total_memory=80 * 2**30, multi_processor_count=132
    )
    stream = types.SimpleNamespace(
        synchronize=lambda: card.sync('waits', 'stream'),
        query=lambda: True,
        wait_stream=nothing,
        wait_event=nothing,
        record_event=lambda event=None: event or Event(),
    )
    cards = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return dict(
        is_available=lambda: True,
        is_initialized=lambda: True,
        init=nothing,
        _lazy_init=nothing,
        device_count=lambda: cards,
        current_device=lambda: 0,
        set_device=nothing,
        empty_cache=nothing,
        get_device_name=lambda *a: 'pretended',
        get_device_capability=lambda *a: (9, 0),
        get_device_properties=lambda *a: about,
        is_bf16_supported=lambda *a, **k: True,
        synchronize=synchronize,
        Event=Event,
        current_stream=lambda *a: stream,
        memory_allocated=lambda *a: Held.now,
        max_memory_allocated=lambda *a: Held.peak,
        reset_peak_memory_stats=lambda *a: setattr(Held, 'peak', Held.now),
        mem_get_info=lambda *a: (79 * 2**30, 80 * 2**30),
        manual_seed=lambda seed: card.default.manual_seed(seed) and None,
        manual_seed_all=lambda seed: card.default.manual_seed(seed) and None,
        get_rng_state=lambda *a: card.default.get_state(),
        set_rng_state=lambda state, *a: card.default.set_state(state) and None,
    )


def patches(card):
    "(object, name, value) of all that is another while there is a card."
    for name, value in of_torch_cuda(card).items():
        yield torch.cuda, name, value
    yield torch, 'Generator', Generator
    yield torch.Tensor, 'pin_memory', pin
    yield torch.Tensor, 'is_pinned', is_pinned

    load = torch.load

    def watched_load(*args, **kwargs):
        # a tensor in a pickle says where it belongs
        unpickled = '_load_from_bytes' in sys._getframe(1).f_code.co_name
        if kwargs.get('map_location') is None and card.saved and not unpickled:
            card.fault('torch.load without map_location: fails where the card is not')
        return load(*args, **kwargs)

    yield torch, 'load', watched_load

    load_state = torch.nn.Module._load_from_state_dict

    def without_swapping(self, *args, **kwargs):  # parameters are swapped for new ones by moves only
        torch.__future__.set_swap_module_params_on_conversion(False)
        try:
            return load_state(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(True)

    yield torch.nn.Module, '_load_from_state_dict', without_swapping

    from torch.optim import optimizer

    yield optimizer, '_foreach_supported_types', [*optimizer._foreach_supported_types, CudaTensor]
    if torch.distributed.is_available():
        yield from of_distributed(card)


def of_distributed(card):
    "NCCL is played by Gloo."
    dist = torch.distributed
    init, device_of = dist.init_process_group, dist.distributed_c10d._get_object_coll_device

    def init_process_group(backend=None, *args, **kwargs):
        card.nccl = backend == 'nccl'
        kwargs.pop('device_id', None)
        return init('gloo' if card.nccl else backend, *args, **kwargs)

    yield dist, 'init_process_group', init_process_group
    yield dist.distributed_c10d, '_get_object_coll_device', lambda g=None: 'cuda' if card.nccl else device_of(g)


# ---------------------------------------------------------------- whether, and how


def missing():
    "Why there can be no pretended card here; '' if there can."
    if torch.version.cuda is None:
        return 'torch was built without CUDA'
    return '' if shutil.which('g++') else 'there is no g++'


def library():
    "card.cpp, compiled once for this torch and kept among the user's caches."
    source = HERE / 'card.cpp'
    name = hashlib.sha256(source.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'ssdd-nb'
    file = folder / f'pretended-card-{name}.so'
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch_at, half = Path(torch.__file__).parent, file.with_suffix(f'.{os.getpid()}')
        subprocess.run(
            [
                'g++',
                '-O1',
                '-std=c++20',
                '-shared',
                '-fPIC',
                f'-I{torch_at}/include',
                str(source),
                '-o',
                str(half),
                f'-L{torch_at}/lib',
                '-ltorch_cpu',
                '-lc10',
            ],
            check=True,
        )
        os.replace(half, file)
    return ctypes.CDLL(str(file))


@contextlib.contextmanager
def pretend(package):  # the package whose lines are named in what is noted
    "Inside, there is a graphics card; yields the `Card`, which says what it saw."
    global CARD
    cpp, card, before = library(), Card(package), []
    cpp.install()
    CARD = card
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    for obj, name, value in patches(card):
        before.append((obj, name, getattr(obj, name)))
        setattr(obj, name, value)
    try:
        with torch.autograd.set_multithreading_enabled(False), card, Factories():
            yield card
    finally:
        for obj, name, value in reversed(before):
            setattr(obj, name, value)
        torch.__future__.set_swap_module_params_on_conversion(swapping)
        cpp.uninstall()
        CARD = None
