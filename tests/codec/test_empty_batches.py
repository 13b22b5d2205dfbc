"""Batches without an image, through every op on every backend and every public function, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import cases
from support.backends import Backend
from support.settings import FACTORS
from torch import Tensor
from torch.func import grad, vmap

import fdjpeg
from fdjpeg import _slopes, reference, surrogates
from fdjpeg._geometry import Geometry

CHANNELS = pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
TABLES = pytest.mark.parametrize("tables", ["none", "one", "each"])
HEIGHT, WIDTH = 18, 21


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Resets the compiler: torch.compile counts recompilations of a function over all tests, and gives up at eight."""
    torch.compiler.reset()


def _image(channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(0, channels, HEIGHT, WIDTH, dtype=dtype)


# ---------------------------------------------------------------------------------------------------------------------
# The ops, on every backend


def _steps(tables: str) -> Tensor | None:
    return {"none": None, "one": torch.full((1, 3, 8, 8), 9.0), "each": torch.empty(0, 3, 8, 8)}[tables]


def _served(backend: Backend, name: str) -> Callable[..., Any]:
    """Returns the backend's op, or the reference if it has none."""
    op = getattr(backend, name)
    return getattr(reference, name) if op is None else op


def _expect(result: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert (tuple(result.shape), result.dtype) == (shape, dtype)


@CHANNELS
@TABLES
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:1:1"])
def test_exact_ops(backend: Backend, channels: int, tables: str, subsampling: str) -> None:
    setting = (_steps(tables), 60.0, *FACTORS[subsampling], True)
    setting = tuple(x.to(backend.device) if isinstance(x, Tensor) else x for x in setting)  # type: ignore[assignment]
    size = Geometry.of(HEIGHT, WIDTH, channels, *FACTORS[subsampling]).plane_bytes
    for dtype in cases.DTYPES:
        image = _image(channels, dtype).to(backend.device)
        out, planes = backend.round_trip(image, *setting)
        _expect(out, tuple(image.shape), dtype)
        _expect(planes, (0, size), torch.uint8)
        if dtype == torch.uint8:
            continue
        for table_gradient in (False, True):
            of_image, of_tables = backend.round_trip_backward(image, planes, image, *setting, table_gradient)
            _expect(of_image, tuple(image.shape), dtype)
            _expect(of_tables, (0, 3, 8, 8) if table_gradient else (0,), torch.float32)
            slopes = _slopes.slope_table(surrogates.resolve("cubic"), image.device)
            of_image, of_tables = _served(backend, "surrogate_backward")(
                image, planes, image, *setting, table_gradient, slopes
            )
            _expect(of_image, tuple(image.shape), dtype)
            _expect(of_tables, (0, 3, 8, 8) if table_gradient else (0,), torch.float32)


@CHANNELS
def test_by_block_op(backend: Backend, channels: int) -> None:
    image = _image(channels, torch.uint8).to(backend.device)
    qualities = torch.empty(0, 3, 3, dtype=torch.uint8, device=backend.device)
    out, planes = _served(backend, "round_trip_by_block")(image, qualities, 2, 2, True)
    _expect(out, tuple(image.shape), torch.uint8)
    _expect(planes, (0, Geometry.of(HEIGHT, WIDTH, channels, 2, 2).plane_bytes), torch.uint8)


@CHANNELS
@TABLES
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_real_ops(backend: Backend, channels: int, tables: str, soft: bool) -> None:
    steps = _steps(tables)
    for dtype in cases.DTYPES[1:]:
        image = _image(channels, dtype).to(backend.device)
        real = reference.real_dtype(image)
        given = None if steps is None else steps.to(backend.device, real)
        setting = (given, 60.0, 2, 2, True, "sine", 0.0, 0.0, soft)
        out, mask = _served(backend, "real_round_trip")(image, *setting)
        _expect(out, tuple(image.shape), dtype)
        _expect(mask, (0, HEIGHT, WIDTH), torch.uint8)
        for wanted in (False, True):
            of_image, of_tables = _served(backend, "real_round_trip_backward")(image, mask, image, *setting, wanted)
            _expect(of_image, tuple(image.shape), dtype)
            _expect(of_tables, (0, 3, 8, 8) if wanted else (0,), real)


@CHANNELS
@TABLES
def test_coefficient_ops(backend: Backend, channels: int, tables: str) -> None:
    given = _steps(tables)
    steps = None if given is None else given.to(backend.device)
    components = backend.encode(_image(channels, torch.uint8).to(backend.device), steps, 60.0, 2, 2)
    chroma = (0, 2, 2, 8, 8) if channels == 3 else (0, 0, 0, 8, 8)
    for component, shape in zip(components, ((0, 3, 3, 8, 8), chroma, chroma), strict=True):
        _expect(component, shape, torch.int16)
    if steps is None:
        steps = torch.full((1, 3, 8, 8), 9.0, device=backend.device)
    for dtype in cases.DTYPES:
        out = backend.decode(*components, steps, HEIGHT, WIDTH, 2, 2, True, dtype)
        _expect(out, (0, channels, HEIGHT, WIDTH), dtype)


# ---------------------------------------------------------------------------------------------------------------------
# The public functions, forward and backward


class _Own:
    """A surrogate that no op serves."""

    smooth = True

    def forward(self, c: Tensor) -> Tensor:
        return c + 0.1 * c.sin()

    def derivative(self, c: Tensor) -> Tensor:
        return 1 + 0.1 * c.cos()


MODES: dict[str, dict[str, Any]] = {
    **{name: {"gradient": name} for name in surrogates.BY_NAME},
    "own": {"gradient": _Own()},
    **{f"real {name}": {"gradient": name, "arithmetic": "real"} for name in ("straight-through", "identity", "sine")},
    "real own": {"gradient": _Own(), "arithmetic": "real"},
    "soft": {"gradient": "tanh", "arithmetic": "real", "soft": True},
    "soft own": {"gradient": _Own(), "arithmetic": "real", "soft": True},
    "noise": {"gradient": surrogates.Noise(), "arithmetic": "real", "soft": True},
}

STRENGTHS: dict[str, Callable[[], Tensor | None]] = {
    "number": lambda: None,
    "qualities": lambda: torch.empty(0, requires_grad=True),
    "a quality": lambda: torch.tensor(50.0, requires_grad=True),
    "a map": lambda: torch.empty(0, 3, 3, requires_grad=True),
    "a map of bytes": lambda: torch.empty(0, 3, 3, dtype=torch.uint8),
}


@CHANNELS
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_jpeg(channels: int, mode: str, strength: str) -> None:
    image, quality = _image(channels).requires_grad_(), STRENGTHS[strength]()
    out = fdjpeg.jpeg(image, 50 if quality is None else quality, **MODES[mode])
    _expect(out, tuple(image.shape), torch.float32)
    wanted = [image] if quality is None or not quality.requires_grad else [image, quality]
    for tensor, gradient in zip(wanted, torch.autograd.grad(out.sum(), wanted), strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


@CHANNELS
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(8, 8), (0, 8, 8)], ids=["one", "each"])
def test_jpeg_with_tables(channels: int, mode: str, shape: tuple[int, ...]) -> None:
    image, table = _image(channels).requires_grad_(), torch.full(shape, 9.0, requires_grad=True)
    out = fdjpeg.jpeg(image, tables=fdjpeg.QuantTables(table, table), **MODES[mode])
    of_image, of_table = torch.autograd.grad(out.sum(), [image, table])
    assert torch.equal(of_image, torch.zeros_like(image))
    assert torch.equal(of_table, torch.zeros_like(table))


@CHANNELS
def test_second_derivatives(channels: int) -> None:
    for mode in ("straight-through", "real straight-through", "soft"):
        image = _image(channels).requires_grad_()
        (first,) = torch.autograd.grad(fdjpeg.jpeg(image, 50, **MODES[mode]).square().sum(), image, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), image)
        _expect(second, tuple(image.shape), torch.float32)


@pytest.mark.parametrize("shape", [(0, 3, 8, 9), (0, 2, 3, 8, 9), (2, 0, 1, 8, 9), (2, 0, 5, 3, 8, 9)], ids=str)
def test_leading_dimensions(shape: tuple[int, ...]) -> None:
    for dtype in cases.DTYPES:
        out = fdjpeg.jpeg(torch.empty(shape, dtype=dtype))
        _expect(out, shape, dtype)


@CHANNELS
@pytest.mark.parametrize("tables", [None, fdjpeg.QuantTables(torch.empty(0, 8, 8), torch.empty(0, 8, 8))])
def test_coefficients(channels: int, tables: fdjpeg.QuantTables | None) -> None:
    coefficients = fdjpeg.encode(_image(channels), tables=tables)
    assert (len(coefficients), coefficients.cb is None) == (0, channels == 1)
    assert list(coefficients) == []
    _expect(fdjpeg.bits(coefficients), (0,), torch.int64)
    for dtype in cases.DTYPES:
        _expect(fdjpeg.decode(coefficients, dtype), (0, channels, HEIGHT, WIDTH), dtype)


@CHANNELS
def test_rate(channels: int) -> None:
    for dtype, wanted in ((torch.float32, torch.float32), (torch.float64, torch.float64)):
        image, quality = _image(channels, dtype).requires_grad_(), torch.tensor(50.0, requires_grad=True)
        estimate = fdjpeg.rate(image, quality)
        _expect(estimate, (0,), wanted)
        of_image, of_quality = torch.autograd.grad(estimate.sum(), [image, quality])
        assert of_image.shape == image.shape
        assert of_quality == 0


def test_stages() -> None:
    image = torch.empty(0, 3, 16, 24, requires_grad=True)
    ycbcr = fdjpeg.rgb_to_ycbcr(image)
    levels = fdjpeg.quantize(fdjpeg.block_dct(ycbcr), torch.full((8, 8), 0.1))
    samples = fdjpeg.block_idct(fdjpeg.dequantize(levels, torch.full((8, 8), 0.1)))
    out = fdjpeg.ycbcr_to_rgb(samples)
    _expect(out, (0, 3, 16, 24), torch.float32)
    (of_image,) = torch.autograd.grad(out.sum(), image)
    _expect(of_image, (0, 3, 16, 24), torch.float32)


@CHANNELS
@pytest.mark.parametrize(
    "layer",
    [
        fdjpeg.JPEG(50),
        fdjpeg.RandomJPEG(p=0.5),
        fdjpeg.StochasticJPEG(),
        fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(50)),
        *(fdjpeg.FeatureDistillation(preset) for preset in ("paper", "code", "uniform(30)")),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers(channels: int, layer: torch.nn.Module) -> None:
    image = _image(channels).requires_grad_()
    out = layer(image)
    _expect(out, tuple(image.shape), torch.float32)
    out.sum().backward()
    assert image.grad is not None
    assert image.grad.shape == image.shape
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in layer.parameters())


def test_check() -> None:
    for quality in (50, torch.empty(0), torch.empty(0, 3, 3)):
        fdjpeg.check(_image(3), quality)


# ---------------------------------------------------------------------------------------------------------------------
# torch.func and torch.compile

MAPPED = pytest.mark.parametrize("mode", ["straight-through", "identity", "cubic", "real sine", "soft"])


@CHANNELS
@MAPPED
def test_vmap_over_no_batches_and_over_empty_ones(channels: int, mode: str) -> None:
    def loss(image: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, 50, **MODES[mode]).square().sum()

    image = torch.empty(2, 0, channels, HEIGHT, WIDTH)
    _expect(vmap(lambda x: fdjpeg.jpeg(x, 50, **MODES[mode]))(image), tuple(image.shape), torch.float32)
    _expect(vmap(grad(loss))(image), tuple(image.shape), torch.float32)


@CHANNELS
@MAPPED
def test_compile(channels: int, mode: str) -> None:
    compiled = torch.compile(lambda x: fdjpeg.jpeg(x, 50, **MODES[mode]), fullgraph=True, backend="aot_eager")
    image = _image(channels).requires_grad_()
    out = compiled(image)
    _expect(out, tuple(image.shape), torch.float32)
    (of_image,) = torch.autograd.grad(out.sum(), image)
    _expect(of_image, tuple(image.shape), torch.float32)


@CHANNELS
def test_compile_of_coefficients(channels: int) -> None:
    def through(image: Tensor) -> Tensor:
        return fdjpeg.decode(fdjpeg.encode(image))

    out = torch.compile(through, fullgraph=True, backend="aot_eager")(_image(channels))
    _expect(out, (0, channels, HEIGHT, WIDTH), torch.uint8)
