"""Arrays on a device: whatever the package does with them gives the bits that it gives on the CPU."""

import gc
import weakref

import numpy as np
import pytest
from mpi4py import MPI

import mpihpc
from fake_device import KINDS, FakeDevice, make_device
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.device import CPU, check_device
from mpihpc.core.halo import MODES
from mpihpc.core.scratch import HUGE, Scratch
from mpihpc.core.tally import copied, sent
from mpihpc.core.transfer import Transfer
from mpihpc.stencil import Evolution, Leapfrog, Taps, evolve, leapfrog, named_kernel, padded_copy

COMM = MPI.COMM_WORLD
TAPS = Taps.from_kernel(named_kernel("heat", 2), 2)


@pytest.fixture(params=KINDS)
def device(request):
    return make_device(request.param)


def numbers(shape, dtype="f8", seed=0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 8
    return (values + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


def same(found, wanted):
    """All bits, on whatever device, and the halo where there is one."""
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    a, b = found.gather(root=None), wanted.gather(root=None)
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", ["?", "i2", "f4", "f8", "c16"])
def test_there_and_back(device, dtype):
    whole = numbers((13, 7), dtype)
    u = mpihpc.asarray(whole, halo=1, device=device)
    assert u.device is device and u.local.shape == u.box.shape
    assert u.gather(root=None).tobytes() == whole.tobytes()
    back = u.to_device("cpu")
    assert back.device is CPU and isinstance(back.local, np.ndarray) and back.halo == u.halo
    same(back, u)
    same(back.to_device(device), u)
    assert u.to_device(device) is u
    assert u.checksum() == back.checksum()
    same(u.copy(), u)
    same(u.astype("c16"), back.astype("c16"))


def test_makers(device):
    for make in (
        lambda **where: mpihpc.zeros((9, 4), **where),
        lambda **where: mpihpc.ones(11, "f4", **where),
        lambda **where: mpihpc.full((3, 5), 2.5, **where),
        lambda **where: mpihpc.fromfunction(lambda i, j, k: i * 100 + j * 10.0 - k, (5, 6, 7), **where),
        lambda **where: mpihpc.asarray(numbers(30) if COMM.rank == COMM.size - 1 else None, "f4", **where),
    ):
        made = make(device=device)
        assert made.device is device
        same(made, make())
    ours = mpihpc.asarray(numbers((12, 5)))
    same(mpihpc.from_local(device.asarray(ours.local), (12, 5), dims=ours.decomposition.dims, device=device), ours)


@pytest.mark.parametrize("mode", sorted(set(MODES.values())))
def test_halo(device, mode):
    whole = numbers((11, 9, 8))
    here, there = (mpihpc.asarray(whole, halo=2, device=d) for d in ("cpu", device))
    for u in (here, there):
        u.exchange(mode, 1.5)
    assert device.to_host(there.padded).tobytes() == np.ascontiguousarray(here.padded).tobytes()


def test_redistribute(device):
    u = mpihpc.asarray(numbers((16, 9)), dims=(COMM.size, 1), device=device)
    v = u.redistribute((1, COMM.size), halo=1)
    assert v.device is device
    same(v, u)


def test_delivery(device):
    """What arrives once, and is used where it lands, from ranks that have sent it before others receive."""
    whole = numbers((24, 10), "f4")
    u = mpihpc.asarray(whole, dims=(COMM.size, 1), device=device)
    wanted = Decomposition((24, 10), (1, COMM.size))
    before = copied.to_device
    for _ in range(3):
        delivery = Transfer(u.decomposition, wanted).deliver(u.topology, u.local, u.box.start, device)
        pieces = [(box, device.to_host(cells)) for box, cells in delivery]
        delivery.finish()
        assert sum(box.size for box, _ in pieces) == wanted.box(COMM.rank).size
        for box, cells in pieces:
            assert cells.tobytes() == np.ascontiguousarray(whole[box.slices()]).tobytes()
    here = (u.box & wanted.box(COMM.rank)).size
    arrived = 3 * 4 * (wanted.box(COMM.rank).size - here)
    assert copied.to_device - before == (0 if device.transport == "direct" else arrived)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("kernel", ["heat", "gaussian:1", "laplace:8"])
def test_evolve(device, kernel, overlap):
    whole = numbers((40, 37), "f4")
    u, v = mpihpc.asarray(whole), mpihpc.asarray(whole, device=device)
    for mode in ("reflect", "wrap", ("constant", "mirror")):
        wanted = evolve(u, kernel, 5, mode, 0.25)
        for fuse in (None, 1, 2):
            found = evolve(v, kernel, 5, mode, 0.25, fuse=fuse, overlap=overlap)
            assert found.device is device
            same(found, wanted)
    fast, wanted = evolve(v, kernel, 2, exact=False), evolve(u, kernel, 2, exact=False)
    if isinstance(device, FakeDevice):  # which rounds as the CPU does, but knows how it was asked
        same(fast, wanted)
        assert device.kernels.strict == (kernel == "gaussian:1")  # applied as lines
    else:
        found, wanted = (x.gather(root=None) for x in (fast, wanted))
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_leapfrog_with_a_field(device):
    whole, speed = numbers((21, 18)), np.abs(numbers((21, 18), seed=1)) / 50
    here, there = ([mpihpc.asarray(a, device=d) for a in (whole, speed)] for d in ("cpu", device))
    for fuse in (1, 3):
        wanted = leapfrog(here[0], here[0], "laplace:4", 7, field=here[1], fuse=fuse)
        found = leapfrog(there[0], there[0], "laplace:4", 7, field=there[1], fuse=fuse)
        for a, b in zip(found, wanted, strict=True):
            same(a, b)
    same(evolve(there[0], "laplace", 3, field=there[1]), evolve(here[0], "laplace", 3, field=here[1]))


@pytest.mark.parametrize("mode", ["reflect", "wrap"])
def test_many_steps_without_messages(device, mode, monkeypatch):
    """They are recorded: the same bits, callbacks and places of arrays; again for arrays that lie elsewhere."""
    whole = numbers((20, 31), seed=COMM.rank)
    cut, alone = Decomposition.balanced(whole.shape, 1), {"comm": MPI.COMM_SELF}

    def results(where):
        for kernel, fuse, exact in (("heat", 1, True), ("heat", 8, True), ("gaussian:2", None, False)):
            taps = Taps.from_kernel(named_kernel(kernel, 2), 2)
            plan = Evolution(cut, taps, "f8", mode=mode, fuse=fuse, exact=exact, device=where, **alone)
            given = {"halo": plan.stencil.halo.width, "device": where, **alone}
            done = []
            for steps in (300, 31, 2, 301):
                u = plan.run(mpihpc.asarray(whole, **given), steps, done.append)
                yield u
                u = plan.run(plan.run(u, steps), 270)
                yield u
            assert done[-1] == 301 and (fuse is None or done[: 300 // fuse] == list(range(fuse, 301, fuse)))
        field = mpihpc.asarray(np.abs(whole) / 50, device=where, **alone)
        for fuse in (1, 3):
            u = mpihpc.asarray(whole, device=where, **alone)
            yield from leapfrog(u, u, "laplace:4", 100, mode, field=field, fuse=fuse)

    counted = {}
    for found, wanted in zip(results(device), results("cpu"), strict=True):
        same(found, wanted)
        counted["recordings"], counted["replays"] = (getattr(device, name, 0) for name in ("recordings", "replays"))
    if isinstance(device, FakeDevice):
        assert 5 <= counted["recordings"] < counted["replays"] / 10, counted
        monkeypatch.setattr("mpihpc.stencil.stepping._SHORT", 20 * 31 * 8 - 1)
        large = [evolve(mpihpc.asarray(whole, device=d, **alone), "heat", 100, mode) for d in (device, "cpu")]
        same(*large)
        assert device.recordings == counted["recordings"]


def test_plans_are_gone_when_nobody_holds_them(device):
    """With their arrays, buffers and recordings, and not only when Python looks for cycles."""
    gc.collect()
    gc.disable()
    try:
        for where in (device, "cpu"):
            u = mpihpc.asarray(numbers((20, 31)), device=where)
            plans = [plan(u.decomposition, TAPS, "f8", fuse=2, device=where) for plan in (Evolution, Leapfrog)]
            seen = [weakref.ref(plan) for plan in plans]
            for plan in plans:
                width = plan.stencil.halo.width
                given = [padded_copy(u, u.dtype, width) for _ in range(1 if isinstance(plan, Evolution) else 2)]
                plan.run(*given, 99)
            del plan, plans
            assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()


def test_bytes_between_host_and_device(device):
    """Staged: those of the halo, once out and once in. Direct: none. Messages are those of the CPU."""
    cut = mpihpc.zeros((64, 48)).decomposition
    here, there = (Evolution(cut, TAPS, "f8", device=d, fuse=2) for d in ("cpu", device))
    halo = there.stencil.halo
    assert (halo.bytes, halo.messages) == (here.stencil.halo.bytes, here.stencil.halo.messages)
    u = mpihpc.full((64, 48), 1.0, dims=cut.dims, halo=halo.width, device=device)
    before, out, back = sent.bytes, copied.to_host, copied.to_device
    waits = getattr(device, "waits", 0)
    there.run(u, 6)
    assert sent.bytes - before == 3 * halo.bytes
    assert copied.to_host - out == (0 if device.transport == "direct" else 3 * halo.bytes)
    total = COMM.allreduce(copied.to_device - back)
    assert total == (0 if device.transport == "direct" else 3 * COMM.allreduce(halo.bytes))
    assert getattr(device, "waits", 0) - waits <= 3  # one for each exchange


def test_devices_do_not_mix(device):
    whole = numbers((12, 12))
    u, field = mpihpc.asarray(whole, device=device), mpihpc.asarray(whole)
    with pytest.raises(ValueError, match=r"field is on cpu, u on (fake|gpu) .*\w+ transport\): use \.to_device"):
        evolve(u, "heat", 1, field=field)
    plan = Evolution(u.decomposition, TAPS, "f8", device=device)
    with pytest.raises(ValueError, match="the plan is for"):
        plan.run(mpihpc.asarray(whole, halo=plan.stencil.halo.width), 1)


def test_unknown_devices():
    for name in ("gpus", "cuda", ""):
        with pytest.raises(ValueError, match="unknown device"):
            mpihpc.zeros(3, device=name)
        with pytest.raises(ValueError, match="unknown device"):
            check_device(name)
    assert mpihpc.zeros(3, device="auto").device.name in ("cpu", "gpu")


def test_arithmetic(device):
    u, v = numbers((9, 14)), numbers((9, 14), "f4", seed=1)
    row, chosen = numbers(14, seed=2), numbers((9, 14), seed=3) > 0

    def results(where):
        a, b = mpihpc.asarray(u, device=where), mpihpc.asarray(v, dims=(1, COMM.size), device=where)
        picked = mpihpc.asarray(chosen, device=where)
        yield a + b
        yield 2 * a - b / 3
        yield a * row
        yield np.sqrt(np.abs(a)) < b
        yield np.add(a, b, out=mpihpc.zeros((9, 14), device=where), where=picked)
        yield np.add(a, b, out=mpihpc.zeros((9, 14), dims=(1, COMM.size), device=where), where=chosen)
        yield from np.modf(a)
        yield a**2
        a += mpihpc.asarray(row, device=where)
        yield a
        yield mpihpc.map_blocks(lambda x, y: x * 2 + y, a, b)

    for found, wanted in zip(results(device), results("cpu"), strict=True):
        assert found.device is device
        same(found, wanted)
    values = [
        mpihpc.map_reduce(lambda x: x[0] * 0 + 1, mpihpc.asarray(u, device=d), np.add, rows=2) for d in (device, "cpu")
    ]
    assert values[0].tobytes() == values[1].tobytes()


@pytest.mark.parametrize("dtype", ["f4", "c16", "i8"])
def test_products(device, dtype):
    a, b = numbers((17, 30), dtype), numbers((30, 12), dtype, seed=1)

    def results(where):
        x, y = mpihpc.asarray(a, device=where), mpihpc.asarray(b, dims=(1, COMM.size), device=where)
        vector = mpihpc.asarray(a[0], device=where)
        yield x @ y
        yield mpihpc.linalg.matmul(x, y, out=mpihpc.zeros((17, 12), dtype, dims=(1, COMM.size), device=where))
        yield mpihpc.linalg.matmul(x, y, reproducible=True)
        yield x @ vector
        yield mpihpc.linalg.outer(vector, vector)
        yield mpihpc.linalg.gram(x)
        yield mpihpc.full(1, vector @ vector, device=where)

    for found, wanted in zip(results(device), results("cpu"), strict=True):
        assert found.device is device
        same(found, wanted)
    x = mpihpc.asarray(a, device=device)
    with pytest.raises(ValueError, match=r"matmul: b is on cpu, a on (fake|gpu) .*: use \.to_device"):
        _ = x @ mpihpc.asarray(b)
    with pytest.raises(ValueError, match=r"operand 1 is on .*: use \.to_device"):
        _ = x + mpihpc.asarray(a)


@pytest.mark.parametrize("dtype", ["?", "i4", "f4", "f8", "c8"])
def test_reductions(device, dtype):
    cells, others = numbers((12, 9, 5), dtype), numbers((12, 9, 5), dtype, seed=1)

    def results(where):
        a, b = mpihpc.asarray(cells, device=where), mpihpc.asarray(others, dims=(1, COMM.size, 1), device=where)
        for axis in (None, 0, -1, (0, 2)):
            for name in ("sum", "mean", "var", "std", "prod", "min", "max", "any", "all", "count_nonzero", "norm"):
                yield getattr(mpihpc, name)(a, axis=axis)
            yield mpihpc.sum(a, axis=axis, keepdims=True, reproducible=False)
        for axis in (None, 1):
            yield mpihpc.argmin(a, axis=axis)
            yield mpihpc.argmax(a, axis=axis)
        yield mpihpc.vecdot(a, b)
        yield mpihpc.vecdot(a, cells)
        few = mpihpc.asarray(cells[:1, 0, 0], device=where)  # most ranks have none
        yield mpihpc.min(few)
        yield mpihpc.argmax(few)
        yield mpihpc.dot(few, few)

    with np.errstate(all="ignore"):  # products overflow
        pairs = list(zip(results(device), results("cpu"), strict=True))
    for found, wanted in pairs:
        if isinstance(wanted, mpihpc.DistArray):
            assert found.device is device
            same(found, wanted)
        else:
            assert type(found) is type(wanted) and found.tobytes() == wanted.tobytes()


def test_scratch_memory_is_used_again_and_never_twice_at_a_time():
    memory = Scratch(3 * HUGE)
    first = memory.row(HUGE + 1)
    assert (first.nbytes, first.dtype) == (HUGE + 1, np.uint8)
    first[...] = 1
    view, where = first.view(np.uint8)[7:].reshape(-1, 2), first.ctypes.data
    del first
    other = memory.row(HUGE + 1)
    assert memory.kept == 0 and not np.shares_memory(view, other)  # the view still lives
    other[...] = 2
    assert np.all(view == 1)
    del view
    assert memory.kept == 2 * HUGE
    small, third = memory.row(100), memory.row(HUGE)
    assert third.ctypes.data == where and memory.kept == 0
    assert not np.shares_memory(small, third)
    del other
    assert memory.kept == 2 * HUGE
    large = memory.row(8 * HUGE)  # nothing fits: what is kept goes
    assert memory.kept == 0
    del large
    assert memory.kept == 0  # more than is to be kept
    del third
    assert memory.kept == 2 * HUGE
    memory.clear()
    assert memory.kept == 0
