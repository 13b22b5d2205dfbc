"""The forward ops give libjpeg-turbo's bits: every backend against Pillow, libjpeg-turbo and files' coefficients.

`fuzz.py` does the same over many more cases.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from support import cases, oracles
from support.backends import BACKENDS, Backend
from support.settings import FACTORS
from torch import Tensor

from fdjpeg import _slopes, reference, surrogates
from fdjpeg._geometry import Geometry

SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)
CHANNELS = pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
UPSAMPLINGS = pytest.mark.parametrize("upsampling", ["fancy", "nearest"])
DTYPES = pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def _some_sizes(rng: np.random.Generator, number: int, backend: Backend) -> list[tuple[int, int]]:
    """Draws sizes from the list of special ones, and as many at random; for a slow backend a single small one."""
    most = 40 if backend.slow else 100
    special = rng.choice(len(cases.SIZES), number, replace=False)
    drawn = [(int(rng.integers(1, most + 1)), int(rng.integers(1, most + 1))) for _ in range(number)]
    return drawn[:1] if backend.slow else [cases.SIZES[i] for i in special] + drawn


def _assert_same(actual: Tensor, expected: Tensor, batch: cases.Batch) -> None:
    """Asserts equality bit for bit (no result is NaN); a failure reports the image and how many samples differ."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    for image, (one, other) in enumerate(zip(actual.cpu(), expected, strict=True)):
        differing = int((one != other).sum())
        assert differing == 0, f"{differing} of {one.numel()} samples differ: {batch.describe(image)}"


def _expected(image: Tensor, batch: cases.Batch, subsampling: str, upsampling: str) -> Tensor:
    pixels = oracles.to_bytes(image)
    decoded = [oracles.round_trip(one, batch.strength(i), subsampling, upsampling) for i, one in enumerate(pixels)]
    return oracles.from_bytes(np.stack(decoded), image.dtype)


def test_compiled_kernels_are_under_test() -> None:
    """Unless the environment forbids them: a suite that skips them must not look like one that ran."""
    if os.environ.get("FDJPEG_BACKEND") != "reference":
        assert BACKENDS["cpu"].missing is None


@DTYPES
@UPSAMPLINGS
@CHANNELS
@SUBSAMPLINGS
def test_round_trip(
    backend: Backend, subsampling: str, channels: int, upsampling: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    for height, width in _some_sizes(rng, 3, backend):
        batch = cases.draw(rng, channels, height, width)
        image = cases.samples(rng, batch.pixels, dtype)
        out, _ = backend.round_trip(
            image.to(backend.device), *batch.arguments(backend.device), *FACTORS[subsampling], upsampling == "fancy"
        )
        _assert_same(out, _expected(image, batch, subsampling, upsampling), batch)


@CHANNELS
@SUBSAMPLINGS
def test_every_special_size(backend: Backend, subsampling: str, channels: int, rng: np.random.Generator) -> None:
    # A slow backend's small ones are shared out among the subsamplings.
    small = [size for size in cases.SIZES if max(size) <= 24][list(FACTORS).index(subsampling) :: len(FACTORS)]
    for height, width in small if backend.slow else cases.SIZES:
        batch = cases.draw(rng, channels, height, width, images=2)
        image = torch.from_numpy(batch.pixels)
        for upsampling in ("fancy", "nearest"):
            out, _ = backend.round_trip(
                image.to(backend.device), *batch.arguments(backend.device), *FACTORS[subsampling], upsampling == "fancy"
            )
            _assert_same(out, _expected(image, batch, subsampling, upsampling), batch)


@DTYPES
@CHANNELS
@SUBSAMPLINGS
def test_planes_and_layouts(
    backend: Backend, subsampling: str, channels: int, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    """The components that forward leaves for backward are the reference's, for images of any strides."""
    for height, width in ((21, 37), (16, 32)):
        batch = cases.draw(rng, channels, height, width, images=2)
        image = cases.samples(rng, batch.pixels, dtype)
        strength, setting = batch.arguments(), (*FACTORS[subsampling], True)
        expected, expected_planes = BACKENDS["reference"].round_trip(image, *strength, *setting)
        geometry = Geometry.of(height, width, channels, *FACTORS[subsampling])
        flags, end = geometry.flag_offset, geometry.flag_offset + geometry.mcu_rows * geometry.mcu_columns
        strength = batch.arguments(backend.device)
        for laid_out in (image, image.to(memory_format=torch.channels_last), image.mT.contiguous().mT):
            out, planes = backend.round_trip(laid_out.to(backend.device), *strength, *setting)
            assert out.stride() == torch.empty_like(laid_out).stride()
            _assert_same(out, expected, batch)
            planes = planes.cpu()
            assert torch.equal(planes[:, :flags], expected_planes[:, :flags])
            # A flag may be set without need, but is wherever the reference sets it.
            assert bool((planes[:, flags:end] >= expected_planes[:, flags:end]).all())
            assert not planes[:, end:].any()


@pytest.mark.parametrize("size", cases.LARGE_SIZES, ids=lambda size: "×".join(map(str, size)))
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey"])
def test_large_images(backend: Backend, subsampling: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    channels = 1 if subsampling == "grey" else 3
    subsampling = "4:2:0" if subsampling == "grey" else subsampling
    height, width = (side // 4 for side in size) if backend.slow else size
    batch = cases.draw(rng, channels, height, width, images=2)
    image = cases.samples(rng, batch.pixels, torch.float32)
    out, _ = backend.round_trip(image.to(backend.device), *batch.arguments(backend.device), *FACTORS[subsampling], True)
    _assert_same(out, _expected(image, batch, subsampling, "fancy"), batch)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "grey"])
def test_every_quality(backend: Backend, subsampling: str, rng: np.random.Generator) -> None:
    channels = 1 if subsampling == "grey" else 3
    subsampling = "4:2:0" if subsampling == "grey" else subsampling
    drawn = cases.draw(rng, channels, 24, 40)
    image = torch.from_numpy(drawn.pixels)
    for quality in range(1, 101, 33 if backend.slow else 1):
        batch = drawn._replace(quality=quality, tables=None)
        out, _ = backend.round_trip(image.to(backend.device), None, float(quality), *FACTORS[subsampling], True)
        _assert_same(out, _expected(image, batch, subsampling, "fancy"), batch)


def test_every_colour_but_for_two_bits(backend: Backend) -> None:
    """2¹⁸ colours (2¹² of a slow backend), flat over each block, with all steps 1: both colour conversions."""
    step, side = (16, 64) if backend.slow else (4, 512)
    levels = np.concatenate([np.arange(0, 256 - step, step), [255]]).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij")).reshape(3, side, side)
    pixels = np.ascontiguousarray(colours.repeat(2, 1).repeat(2, 2))  # at 4:2:0, each sample of chroma is one colour
    out, _ = backend.round_trip(
        torch.from_numpy(pixels)[None].to(backend.device),
        torch.ones(1, 3, 8, 8, device=backend.device),
        0.0,
        2,
        2,
        True,
    )
    expected = oracles.round_trip(pixels, np.ones((3, 8, 8), dtype=np.int64), "4:2:0")
    assert np.array_equal(out[0].cpu().numpy(), expected)


@CHANNELS
@SUBSAMPLINGS
def test_encode_gives_a_files_coefficients(
    backend: Backend, subsampling: str, channels: int, rng: np.random.Generator
) -> None:
    for height, width in _some_sizes(rng, 5, backend):
        batch = cases.draw(rng, channels, height, width)
        image = cases.samples(rng, batch.pixels, cases.DTYPES[rng.integers(len(cases.DTYPES))])
        encoded = backend.encode(image.to(backend.device), *batch.arguments(backend.device), *FACTORS[subsampling])
        for i, pixels in enumerate(oracles.to_bytes(image)):
            held = oracles.coefficients(oracles.encode(pixels, batch.strength(i), subsampling))
            for component, expected in zip(encoded, held.components, strict=False):
                assert component.dtype == torch.int16
                assert np.array_equal(component[i].cpu().numpy(), expected), batch.describe(i)
        if channels == 1:
            assert [tuple(component.shape) for component in encoded[1:]] == [(3, 0, 0, 8, 8)] * 2


def _decoded(
    backend: Backend, file: bytes, size: tuple[int, int], subsampling: str, upsampling: str, dtype: torch.dtype
) -> Tensor:
    """Decodes a file's coefficients by the op."""
    held = oracles.coefficients(file)
    components = [torch.from_numpy(component)[None] for component in held.components]
    if len(components) == 1:
        components += [torch.empty(1, 0, 0, 8, 8, dtype=torch.int16)] * 2
    tables = torch.from_numpy(held.tables)[None].float()
    tensors = [tensor.to(backend.device) for tensor in (*components, tables)]
    return backend.decode(*tensors, *size, *FACTORS[subsampling], upsampling == "fancy", dtype)


@UPSAMPLINGS
@CHANNELS
@SUBSAMPLINGS
def test_decode_of_a_files_coefficients_gives_its_pixels(
    backend: Backend, subsampling: str, channels: int, upsampling: str, rng: np.random.Generator
) -> None:
    for height, width in _some_sizes(rng, 5, backend):
        batch = cases.draw(rng, channels, height, width, images=1)
        file = oracles.encode(batch.pixels[0], batch.strength(0), subsampling)
        if rng.random() < 0.5:  # Coefficients about as large as any, though no image has exactly these.
            held = oracles.coefficients(file)
            file = oracles.with_coefficients(
                file,
                [
                    np.round(rng.uniform(-512, 512, component.shape) / held.tables[i]).astype(np.int16)
                    for i, component in enumerate(held.components)
                ],
            )
        dtype = cases.DTYPES[rng.integers(len(cases.DTYPES))]
        decoded = _decoded(backend, file, (height, width), subsampling, upsampling, dtype)
        expected = oracles.from_bytes(oracles.decode(file, upsampling)[None], dtype)
        _assert_same(decoded, expected, batch)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_decode_takes_many_images_with_one_table_or_many(
    backend: Backend, subsampling: str, rng: np.random.Generator
) -> None:
    drawn = cases.draw(rng, 3, 30, 43, images=4)
    image = torch.from_numpy(drawn.pixels).to(backend.device)
    for images in (1, 4):
        tables = torch.from_numpy(cases.TABLES["random"](rng, images)).float().to(backend.device)
        encoded = backend.encode(image, tables, 0.0, *FACTORS[subsampling])
        decoded = backend.decode(*encoded, tables, 30, 43, *FACTORS[subsampling], True, torch.uint8)
        batch = drawn._replace(quality=None, tables=np.broadcast_to(tables.cpu().numpy(), (4, 3, 8, 8)).astype(int))
        _assert_same(decoded, _expected(torch.from_numpy(drawn.pixels), batch, subsampling, "fancy"), batch)


@pytest.mark.parametrize("value", [-32768, -1, 1, 32767])
@SUBSAMPLINGS
def test_hostile_coefficients_are_harmless_and_the_same_everywhere(
    backend: Backend, subsampling: str, value: int, rng: np.random.Generator
) -> None:
    """No file made from 8-bit samples holds these: only defined arithmetic and the same result are promised."""
    rows, columns = 3, 5
    horizontal, vertical = FACTORS[subsampling]
    chroma = (1, -(-rows // vertical), -(-columns // horizontal), 8, 8)
    shapes = ((1, rows, columns, 8, 8), chroma, chroma)
    extreme = [torch.from_numpy(rng.choice([-value - 1, value], shape).astype(np.int16)) for shape in shapes]
    arguments = (8 * rows, 8 * columns, horizontal, vertical, True, torch.uint8)
    tables = torch.full((1, 3, 8, 8), 255.0)
    expected = BACKENDS["reference"].decode(*extreme, tables, *arguments)
    actual = backend.decode(*(x.to(backend.device) for x in extreme), tables.to(backend.device), *arguments)
    assert torch.equal(actual.cpu(), expected)


def test_tables_act_as_a_file_can_hold_them(backend: Backend, rng: np.random.Generator) -> None:
    """Steps are rounded half to even, limited to 1…255, NaN as 1: on any device, without reading them back."""
    odd = np.array([0.0, -7.0, 0.4, 0.5, 1.5, 2.5, 2.51, 254.5, 255.5, 256.0, 1e9, np.inf, -np.inf, np.nan])
    acts_as = np.array([1, 1, 1, 1, 2, 2, 3, 254, 255, 255, 255, 255, 1, 1])
    places = rng.integers(len(odd), size=(2, 3, 8, 8))
    drawn = cases.draw(rng, 3, 33, 29, images=2)
    image = torch.from_numpy(drawn.pixels)
    batch = drawn._replace(quality=None, tables=acts_as[places])
    tables = torch.from_numpy(odd[places]).float().to(backend.device)
    out, _ = backend.round_trip(image.to(backend.device), tables, 0.0, 2, 2, True)
    _assert_same(out, _expected(image, batch, "4:2:0", "fancy"), batch)


@DTYPES
def test_all_bytes_survive(backend: Backend, dtype: torch.dtype) -> None:
    """A flat block of any grey value comes back unchanged at steps of 1, through each dtype."""
    pixels = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1).repeat(8, 2).repeat(8, 3)
    image = oracles.from_bytes(pixels, dtype).to(backend.device)
    out, _ = backend.round_trip(image, torch.ones(1, 3, 8, 8, device=backend.device), 0.0, 1, 1, True)
    assert torch.equal(out, image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_samples_round_as_stated(backend: Backend, dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Ties, their neighbours on either side, and all samples that are not in [0, 1]."""
    ties = torch.from_numpy((np.arange(-2, 258) + 0.5) / 255).to(dtype)
    wide = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, 2.0, -1.0, 1e4, -1e4]).to(dtype)
    below, above = (torch.nextafter(ties, torch.full_like(ties, end)) for end in (-9.0, 9.0))
    values = torch.cat([ties, below, above, wide])
    image = values.reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    out, _ = backend.round_trip(
        image.to(backend.device), torch.ones(1, 3, 8, 8, device=backend.device), 0.0, 1, 1, True
    )
    expected = oracles.from_bytes(oracles.to_bytes(image), dtype)
    assert torch.equal(out.cpu(), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Backward


#: The largest difference of gradients from the reference in float64, relative to the largest: the dtype's rounding.
TOLERANCES = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1e-5, torch.float64: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@UPSAMPLINGS
@CHANNELS
@SUBSAMPLINGS
def test_straight_through_gradients(
    backend: Backend, subsampling: str, channels: int, upsampling: str, dtype: torch.dtype, rng: np.random.Generator
) -> None:
    """Against the reference in float64, which `test_reference_gradients.py` holds against autograd."""
    for height, width in _some_sizes(rng, 2, backend):
        batch = cases.draw(rng, channels, height, width)
        image = cases.samples(rng, batch.pixels, dtype)
        grad = torch.from_numpy(rng.standard_normal(batch.pixels.shape)).to(dtype)
        setting = (*FACTORS[subsampling], upsampling == "fancy")

        strength = batch.arguments()
        wide = torch.from_numpy(oracles.to_bytes(image)).double() / 255  # the same bytes, and so the same integers
        wide[image.isnan()] = torch.nan
        oracle = BACKENDS["reference"]
        _, planes = oracle.round_trip(wide, *strength, *setting)
        expected = oracle.round_trip_backward(grad.double(), planes, wide, *strength, *setting, True)

        strength = batch.arguments(backend.device)
        on_device, grad = image.to(backend.device), grad.to(backend.device)
        _, planes = backend.round_trip(on_device, *strength, *setting)
        of_image, of_tables = backend.round_trip_backward(grad, planes, on_device, *strength, *setting, True)
        alone, nothing = backend.round_trip_backward(grad, planes, on_device, *strength, *setting, False)

        assert of_image.dtype == dtype
        assert of_tables.dtype == torch.float32
        assert torch.equal(alone, of_image)
        assert nothing.shape == (0,)
        _assert_close(of_image, expected[0], TOLERANCES[dtype], batch)
        _assert_close(of_tables, expected[1], 1e-4, batch)


class Tabulated:
    """A surrogate as kernels take it: its table of slopes, interpolated in the coefficient's own precision.

    ``test_surrogates.py`` bounds by how much the table differs from the formula, which is relative to the largest slope
    and therefore more than rounding where a gradient vanishes.
    """

    def __init__(self, slopes: Tensor) -> None:
        self.slopes = slopes

    def derivative(self, c: Tensor) -> Tensor:
        """Returns the slope at a coefficient, in steps."""
        return _slopes.interpolate_slopes(self.slopes, c - c.round())


@pytest.mark.parametrize("name", ["cubic", "sine", "fourier", "tanh", "softmax", "zero"])
@UPSAMPLINGS
@SUBSAMPLINGS
def test_surrogate_gradients(
    backend: Backend, subsampling: str, upsampling: str, name: str, rng: np.random.Generator
) -> None:
    """Against autograd through the explicit formula with the same table of slopes, in float64."""
    if backend.surrogate_backward is None:
        pytest.skip(f"backend {backend.name} has no kernel for surrogates")
    surrogate = surrogates.resolve(name)
    slopes = _slopes.slope_table(surrogate, torch.device("cpu"))
    assert slopes is not None
    setting = (*FACTORS[subsampling], upsampling == "fancy")
    for channels in (1, 3):
        batch = cases.draw(rng, channels, *_some_sizes(rng, 1, backend)[0])
        wide = (torch.from_numpy(batch.pixels).double() / 255).requires_grad_()
        drawn, quality = batch.arguments()
        tables = reference.standard_tables(quality, wide).float() if drawn is None else drawn
        tables = tables.expand(len(wide), -1, -1, -1).clone().requires_grad_()
        grad = torch.from_numpy(rng.standard_normal(batch.pixels.shape)).float()
        explicit = reference.exact_with_surrogate(wide, tables, *setting, Tabulated(slopes))
        expected = torch.autograd.grad(explicit, (wide, tables), grad.double())

        image = wide.detach().float().to(backend.device)
        steps = tables.detach().to(backend.device)
        _, planes = backend.round_trip(image, steps, 0.0, *setting)
        options = (*setting, True, slopes.to(backend.device))
        actual = backend.surrogate_backward(grad.to(backend.device), planes, image, steps, 0.0, *options)
        # Where a gradient vanishes, the error is relative to the incoming one: what cancels in it was rounded before.
        smallest = 0.02 * float(grad.abs().max())
        for one, other in zip(actual, expected, strict=True):
            _assert_close(one, other, 1e-4, batch, smallest)


def _assert_close(
    actual: Tensor, expected: Tensor, tolerance: float, batch: cases.Batch, smallest: float = 1e-3
) -> None:
    for image, (one, other) in enumerate(zip(actual.cpu().double(), expected.double(), strict=True)):
        bound = tolerance * max(float(other.abs().max()), smallest)
        worst = float((one - other).abs().max())
        assert worst <= bound, f"off by {worst:g}, more than {bound:g}: {batch.describe(image)}"


@pytest.mark.parametrize("quality", [1.0, 100.0])
@pytest.mark.parametrize("content", cases.CONTENTS)
@SUBSAMPLINGS
def test_no_gradient_is_nan(
    backend: Backend, subsampling: str, content: str, quality: float, rng: np.random.Generator
) -> None:
    pixels = np.stack([cases.CONTENTS[content](rng, 3, 24, 40) for _ in range(2)])
    for image in (torch.from_numpy(pixels).float() / 255, torch.full((2, 3, 24, 40), torch.nan)):
        on_device = image.to(backend.device)
        out, planes = backend.round_trip(on_device, None, quality, *FACTORS[subsampling], True)
        gradients = backend.round_trip_backward(
            torch.ones_like(out), planes, on_device, None, quality, *FACTORS[subsampling], True, True
        )
        assert all(gradient.isfinite().all() for gradient in gradients)
