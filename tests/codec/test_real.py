"""The round trip in real numbers: the kernels against the reference, derivatives by gradcheck, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from support.backends import Backend
from support.settings import FACTORS
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import fdjpeg
from fdjpeg import QuantTables, _slopes, reference, surrogates
from fdjpeg.surrogates import Cubic, Fourier, Noise, Sine, Softmax, StraightThrough, Surrogate, Tanh, Zero

SMOOTH = ("sine", "tanh", "softmax", "fourier", "cubic")
SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)
UPSAMPLINGS = pytest.mark.parametrize("upsampling", ["fancy", "nearest"])
SIZES = ((1, 1), (3, 5), (16, 16), (17, 15), (25, 34))

#: Each with its own parameters.
ROUNDINGS: tuple[tuple[Surrogate, bool], ...] = (
    (StraightThrough(), False),
    (Zero(), False),
    (Cubic(floor=0.2), False),
    (Cubic(), True),
    (Sine(), False),
    (Sine(), True),
    (Fourier(3, floor=0.1), False),
    (Fourier(7), True),
    (Tanh(9.0), False),
    (Tanh(0.5), True),
    (Softmax(2.0, floor=0.3), False),
    (Softmax(11.0), True),
)


def _rounding(surrogate: Surrogate, soft: bool) -> tuple[str, float, float, bool]:
    """Returns the last arguments of the ops."""
    formula = _slopes.formula_of(surrogate)
    assert formula is not None
    return *formula, soft


def _assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Asserts a small difference, relative to the largest."""
    if expected.numel() > 0:
        bound = tolerance * max(float(expected.abs().max()), 1e-3)
        assert float((actual.cpu().to(expected.dtype) - expected).abs().max()) <= bound


# ---------------------------------------------------------------------------------------------------------------------
# The kernels


@SUBSAMPLINGS
@UPSAMPLINGS
def test_kernels_equal_the_reference(
    backend: Backend, subsampling: str, upsampling: str, rng: np.random.Generator
) -> None:
    """In float64, forward and both gradients; every surrogate in turn, with tables for each image."""
    if backend.real_round_trip is None or backend.real_round_trip_backward is None:
        pytest.skip(f"backend {backend.name} has no kernel for real numbers")
    setting = (*FACTORS[subsampling], upsampling == "fancy")
    for i, (surrogate, soft) in enumerate(ROUNDINGS):
        channels, (height, width) = 1 if i % 4 == 3 else 3, SIZES[(i + len(subsampling)) % len(SIZES)]
        image = torch.from_numpy(rng.uniform(-0.1, 1.1, (2, channels, height, width)))
        grad = torch.from_numpy(rng.standard_normal(image.shape))
        tables = torch.from_numpy(rng.uniform(0.5, 30, (2, 3, 8, 8)))
        arguments = (tables, 0.0, *setting, *_rounding(surrogate, soft))
        expected, inside = reference.real_round_trip(image, *arguments)
        gradients = reference.real_round_trip_backward(grad, inside, image, *arguments, True)

        on_device = (tables.to(backend.device), *arguments[1:])
        image, grad = image.to(backend.device), grad.to(backend.device)
        out, mask = backend.real_round_trip(image, *on_device)
        assert torch.equal(mask.cpu(), inside)
        _assert_near(out, expected, 1e-12)
        of_image, of_tables = backend.real_round_trip_backward(grad, mask, image, *on_device, True)
        _assert_near(of_image, gradients[0], 1e-9)
        _assert_near(of_tables, gradients[1], 1e-9)
        alone, nothing = backend.real_round_trip_backward(grad, mask, image, *on_device, False)
        _assert_near(alone, gradients[0], 1e-9)
        assert nothing.shape == (0,)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_kernels_of_narrow_types(backend: Backend, dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Computed in float32, so close to float64 before the result is rounded to its type."""
    if backend.real_round_trip is None or backend.real_round_trip_backward is None:
        pytest.skip(f"backend {backend.name} has no kernel for real numbers")
    arguments = (None, 71.0, 2, 2, True, *_rounding(Sine(), True))
    tolerance = {torch.uint8: 0.51, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5}[dtype]
    for channels in (1, 3):
        scale = 255 if dtype == torch.uint8 else 1
        image = torch.from_numpy(scale * rng.random((2, channels, 19, 37))).to(dtype)
        wide = image.double() / scale
        expected, inside = reference.real_round_trip(wide, *arguments)
        out, _ = backend.real_round_trip(image.to(backend.device), *arguments)
        assert out.dtype == dtype
        assert float((out.cpu().double() / scale - expected).abs().max()) <= tolerance / scale
        if dtype == torch.uint8:
            continue
        grad = torch.from_numpy(rng.standard_normal(image.shape)).to(dtype)
        gradients = reference.real_round_trip_backward(grad.double(), inside, wide, *arguments, True)
        on_device = (grad.to(backend.device), inside.to(backend.device), image.to(backend.device))
        of_image, of_tables = backend.real_round_trip_backward(*on_device, *arguments, True)
        assert (of_image.dtype, of_tables.dtype) == (dtype, torch.float32)
        _assert_near(of_image, gradients[0], max(tolerance, 1e-4))
        _assert_near(of_tables, gradients[1], 1e-4)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("quality", [1.0, 33.0, 50.0, 88.5, 100.0])
def test_cpu_numbers_stand_for_standard_tables(soft: bool, quality: float) -> None:
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    arguments = (2, 2, True, *_rounding(Sine(), soft))
    tables = QuantTables.standard(torch.tensor(quality).double(), soft=soft).stacked()
    by_number, _ = torch.ops.fdjpeg.real_round_trip(image, None, quality, *arguments)
    by_tables, _ = torch.ops.fdjpeg.real_round_trip(image, tables, 0.0, *arguments)
    torch.testing.assert_close(by_number, by_tables, rtol=0, atol=1e-12)
    explicit, _ = reference.real_round_trip(image, None, quality, *arguments)
    torch.testing.assert_close(by_number, explicit, rtol=0, atol=1e-12)


def _both(image: Tensor, grad: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
    leaf = image.detach().requires_grad_()
    out = fdjpeg.jpeg(leaf, 40, arithmetic="real", **arguments)
    return out.detach(), torch.autograd.grad(out, leaf, grad)[0]


@SUBSAMPLINGS
def test_cpu_strides_and_emptiness(subsampling: str, rng: np.random.Generator) -> None:
    """The numbers are those of contiguous tensors, laid out like ``torch.empty_like``."""
    settings = {"subsampling": subsampling, "gradient": "tanh", "soft": True}
    values = torch.from_numpy(rng.random((2, 3, 22, 35))).float()
    grad = torch.from_numpy(rng.standard_normal(values.shape)).float()
    expected = _both(values, grad, **settings)
    wide = torch.zeros(2, 3, 44, 70)
    wide[..., ::2, ::2] = values
    last = values.contiguous(memory_format=torch.channels_last)
    for image in (last, wide[..., ::2, ::2], values.transpose(2, 3).contiguous().transpose(2, 3)):
        for actual, wanted in zip(_both(image, grad, **settings), expected, strict=True):
            assert torch.equal(actual, wanted)
            assert actual.stride() == torch.empty_like(image).stride()
    ones = torch.ones(())
    for actual, wanted in zip(
        _both(values, ones.expand_as(values), **settings),
        _both(values, torch.ones_like(values), **settings),
        strict=True,
    ):
        assert torch.equal(actual, wanted)
    assert [x.shape for x in _both(values[:0], grad[:0], **settings)] == [(0, 3, 22, 35)] * 2


@SUBSAMPLINGS
@UPSAMPLINGS
def test_cpu_threads_change_nothing(subsampling: str, upsampling: str, rng: np.random.Generator) -> None:
    """One image, shared out by rows of MCUs."""
    image = torch.from_numpy(rng.random((1, 3, 417, 300))).float()
    settings = {"subsampling": subsampling, "upsampling": upsampling, "gradient": "sine", "soft": True}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = _both(image, image, **settings)
        torch.set_num_threads(3)
        for actual, wanted in zip(_both(image, image, **settings), expected, strict=True):
            assert torch.equal(actual, wanted)
    finally:
        torch.set_num_threads(before)


def test_cpu_numbers_beyond_whole_floats_are_left_alone() -> None:
    """Steps so small that float32 has no fraction left of a coefficient in steps."""
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for step in (1e-3, 1e-5, 1e-7):
        tables = QuantTables.flat(step)
        out = fdjpeg.jpeg(image, tables=tables, arithmetic="real")
        torch.testing.assert_close(out, image, rtol=0, atol=1e-5)


def test_cpu_nan_stays_in_its_block() -> None:
    image = torch.full((1, 1, 16, 24), 0.4)
    image[0, 0, 3, 9] = torch.nan
    out = fdjpeg.jpeg(image, 50, arithmetic="real", gradient="sine", soft=True)
    expected = torch.zeros(16, 24, dtype=torch.bool)
    expected[:8, 8:16] = True
    assert torch.equal(out[0, 0].isnan(), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("cosine", 0.0, 0.0, False),
            "surrogate must be straight-through, zero, cubic, sine, fourier, tanh or softmax",
        ),
        (("zero", 0.0, 0.0, True), "surrogate must have a smooth forward where soft is true, got zero"),
    ],
)
def test_cpu_refuses_unknown_surrogates(arguments: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fdjpeg.real_round_trip(torch.rand(1, 1, 8, 8), None, 50.0, 2, 2, True, *arguments)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives


def _interior(shape: tuple[int, ...]) -> Tensor:
    """Returns an image that no clamp touches, even after the codec, since quality is high."""
    generator = torch.Generator().manual_seed(7)
    return (0.3 + 0.4 * torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()


@pytest.mark.parametrize("name", SMOOTH)
@UPSAMPLINGS
@SUBSAMPLINGS
def test_gradcheck(subsampling: str, upsampling: str, name: str) -> None:
    """By image and quality, which takes the tables along."""

    def layer(image: Tensor, quality: Tensor) -> Tensor:
        return fdjpeg.jpeg(
            image,
            quality,
            subsampling=subsampling,
            upsampling=upsampling,
            gradient=name,
            arithmetic="real",
            soft=True,
        )

    quality = torch.tensor([44.0], dtype=torch.float64, requires_grad=True)
    inputs = (_interior((1, 3, 6, 9)), quality)
    assert gradcheck(layer, inputs, fast_mode=True)
    assert gradgradcheck(layer, inputs, fast_mode=True, check_undefined_grad=False)


@pytest.mark.parametrize("name", SMOOTH)
@UPSAMPLINGS
@SUBSAMPLINGS
def test_gradcheck_of_tables(subsampling: str, upsampling: str, name: str) -> None:
    """Of two images by their own tables; of one, twice."""
    generator = torch.Generator().manual_seed(1)
    setting = {"subsampling": subsampling, "upsampling": upsampling, "gradient": name}

    def layer(image: Tensor, y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, tables=QuantTables(y, cb, cr), arithmetic="real", soft=True, **setting)

    shared, own = (
        [(3 + 20 * torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_() for _ in range(3)]
        for shape in ((8, 8), (2, 8, 8))
    )
    assert gradcheck(layer, (_interior((2, 3, 6, 9)), *own), fast_mode=True)
    assert gradgradcheck(layer, (_interior((1, 3, 6, 9)), *shared), fast_mode=True, check_undefined_grad=False)


@pytest.mark.parametrize("name", ["straight-through", "cubic", "sine", "fourier", "tanh", "softmax", "zero"])
@SUBSAMPLINGS
def test_rounded_gradients_equal_autograd_through_the_formula(subsampling: str, name: str) -> None:
    image = _interior((2, 3, 13, 21))
    tables = torch.linspace(2, 40, 192, dtype=torch.float64).reshape(1, 3, 8, 8).requires_grad_()
    surrogate = surrogates.resolve(name)
    y, cb, cr = tables[0]
    out = fdjpeg.jpeg(image, tables=QuantTables(y, cb, cr), subsampling=subsampling, gradient=name, arithmetic="real")
    rounding = surrogates.hard_rounding(surrogate)
    explicit = reference.real_pipeline(image, tables, *FACTORS[subsampling], True, rounding)
    torch.testing.assert_close(out, explicit, rtol=0, atol=1e-12)
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for actual, expected in zip(
        torch.autograd.grad(out, (image, tables), grad),
        torch.autograd.grad(explicit, (image, tables), grad),
        strict=True,
    ):
        _assert_near(actual, expected, 1e-10)


def test_identity_passes_the_image_and_straight_through_the_tables() -> None:
    image, quality = _interior((1, 3, 16, 16)), torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = {
        name: torch.autograd.grad(fdjpeg.jpeg(image, quality, gradient=name, arithmetic="real"), (image, quality), grad)
        for name in ("identity", "straight-through")
    }
    assert torch.equal(gradients["identity"][0], grad)
    assert torch.equal(gradients["identity"][1], gradients["straight-through"][1])


def test_straight_through_is_linear_in_the_incoming_gradient() -> None:
    """So its derivative by that is the transposed map, and by all else 0."""
    image = _interior((1, 3, 6, 9))
    steps = torch.full((8, 8), 9.0, dtype=torch.float64, requires_grad=True)

    def layer(image: Tensor, steps: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, tables=QuantTables(steps, steps), arithmetic="real")

    jacobians = torch.func.jacrev(layer, argnums=(0, 1))(image.detach(), steps.detach())
    grad = torch.rand(image.shape, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(layer(image, steps), (image, steps), grad, create_graph=True)
    v = tuple(torch.rand_like(x) for x in first)
    of_grad, of_image, of_steps = torch.autograd.grad(first, (grad, image, steps), v)
    expected = sum((jacobian * x).flatten(4).sum(4) for jacobian, x in zip(jacobians, v, strict=True))
    torch.testing.assert_close(of_grad, expected)
    torch.testing.assert_close(of_image, torch.zeros_like(image), rtol=0, atol=1e-12)
    torch.testing.assert_close(of_steps, torch.zeros_like(steps), rtol=0, atol=1e-12)


class _Own:
    """A user's own surrogate: the sine, which the kernels do not recognise."""

    smooth = True

    def forward(self, c: Tensor) -> Tensor:
        return Sine().forward(c)

    def derivative(self, c: Tensor) -> Tensor:
        return Sine().derivative(c)


@pytest.mark.parametrize("soft", [False, True])
def test_a_users_own_surrogate(soft: bool) -> None:
    image = _interior((1, 3, 17, 19))
    gradients = []
    for surrogate in (Sine(), _Own()):
        out = fdjpeg.jpeg(image, 60, gradient=surrogate, arithmetic="real", soft=soft)
        gradients.append(torch.autograd.grad(out.square().sum(), image)[0])
    _assert_near(gradients[1], gradients[0], 1e-10)


def test_noise_is_soft_rounding_of_its_own() -> None:
    image = _interior((1, 3, 16, 16))
    settings = {"arithmetic": "real", "soft": True}
    first, again = (
        fdjpeg.jpeg(image, 50, gradient=Noise(torch.Generator().manual_seed(3)), **settings) for _ in range(2)
    )
    assert torch.equal(first, again)
    assert (first - image).abs().max() > 1e-3
    assert gradcheck(
        lambda x: fdjpeg.jpeg(x, 50, gradient=Noise(torch.Generator().manual_seed(3)), **settings),
        image,
        fast_mode=True,
    )


@pytest.mark.parametrize("surrogate", ["cubic", "sine", "zero", _Own()], ids=["cubic", "sine", "zero", "own"])
def test_surrogates_of_a_forward_that_rounds_refuse_a_second_derivative(surrogate: Any) -> None:
    image = _interior((1, 3, 8, 8))
    loss = fdjpeg.jpeg(image, 50, gradient=surrogate, arithmetic="real").square().sum()
    (first,) = torch.autograd.grad(loss, image, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again: use gradient='straight-through'"):
        torch.autograd.grad(first.square().sum(), image)


def test_hessian_by_function_transforms() -> None:
    def loss(image: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, 80, gradient="tanh", arithmetic="real", soft=True).square().sum()

    image = _interior((1, 3, 4)).detach()
    by_rows = torch.autograd.functional.hessian(loss, image)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(image), by_rows)


# ---------------------------------------------------------------------------------------------------------------------
# Memory


#: The memory beyond the image, its output and their gradients, as a multiple of the image; printed line by line.
_MEASURE = """
import sys, torch, fdjpeg

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

torch.set_num_threads(1)
for keywords, dtype in eval(sys.argv[1]):
    def run(image, grad):
        image.grad = None
        fdjpeg.jpeg(image, 75, **keywords).backward(grad)

    small = torch.rand(1, 3, 64, 64).to(getattr(torch, dtype)).requires_grad_()
    run(small, torch.ones_like(small))
    image = torch.full((1, 3, 2048, 2048), 0.25, dtype=small.dtype).requires_grad_()
    grad = torch.ones_like(image)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak
    before = status("VmRSS")
    run(image, grad)
    size = image.numel() * image.element_size()
    print((status("VmHWM") - before - 2 * size) / size)
"""

_SOFT = {"arithmetic": "real", "soft": True}

#: The largest allowed. Straight through, 0.5 is promised for float32, and 1.5 for surrogates; less is kept.
_MEMORY = (
    ({}, "float32", 0.2),
    ({"subsampling": "4:4:4"}, "float32", 0.3),
    ({"gradient": "sine"}, "float32", 0.2),
    ({"arithmetic": "real"}, "float32", 0.15),
    ({"gradient": "sine"} | _SOFT, "float32", 0.15),
    ({"gradient": "softmax", "subsampling": "4:4:4"} | _SOFT, "bfloat16", 0.3),
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_cpu_memory_beyond_input_output_and_gradients() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, repr([case[:2] for case in _MEMORY])],
        capture_output=True,
        text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # freed memory goes back to the system at once
    )
    assert done.returncode == 0, done.stderr
    for (keywords, dtype, limit), used in zip(_MEMORY, map(float, done.stdout.split()), strict=True):
        assert used <= limit, f"{keywords} in {dtype}: {used:.2f} times the image"
