"""The ops and the layer inside PyTorch: compile, export, torch.func, autocast, workers, fake devices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.no_reading import NoReading
from support.settings import FACTORS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset

import fdjpeg

SUBSAMPLINGS = pytest.mark.parametrize("subsampling", FACTORS)

#: The ops that have an op for their backward.
GRADIENTS = pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic"])


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Resets the compiler: torch.compile counts recompilations of a function over all tests, and gives up at eight."""
    torch.compiler.reset()


@pytest.fixture
def image(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random((2, 3, 18, 21))).float()


# ---------------------------------------------------------------------------------------------------------------------
# torch.compile, torch.export


def _gradients(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Returns the result, and the gradient of a quantity that is not linear in it."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad((out * out).sum(), leaves)


def _assert_equal(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@GRADIENTS
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_compile_whole_graph(gradient: str, subsampling: str, image: Tensor) -> None:
    def layer(x: Tensor, quality: Tensor) -> Tensor:
        return fdjpeg.jpeg(x * 0.5, quality, subsampling=subsampling, gradient=gradient)

    quality = torch.tensor([40.0, 80.0])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    expected = _gradients(layer, image, quality)
    assert expected[2].abs().min() > 0
    _assert_equal(_gradients(compiled, image, quality), expected)


def test_compile_with_inductor(image: Tensor) -> None:
    """Compiled arithmetic around the op moves neither its bits nor libjpeg's floors."""
    quality = torch.tensor([37.0, 62.0])
    compiled = torch.compile(fdjpeg.jpeg, fullgraph=True)
    out, of_image, of_quality = _gradients(compiled, image, quality)
    expected = _gradients(fdjpeg.jpeg, image, quality)
    assert torch.equal(out, expected[0])
    assert torch.equal(of_image, expected[1])
    torch.testing.assert_close(of_quality, expected[2])


@pytest.mark.parametrize("qualities", [(50, 50, 50), (30, 40, 50), (30.5, 40.5, 50.5)], ids=str)
@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "automatic"])
def test_compile_with_numbers_and_sizes_that_change(dynamic: bool | None, qualities: tuple[float, ...]) -> None:
    compiled = torch.compile(fdjpeg.jpeg, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for shape, quality in zip(((2, 3, 17, 24), (3, 3, 40, 19), (1, 3, 64, 65)), qualities, strict=True):
        x = torch.rand(shape)
        assert torch.equal(compiled(x, quality), fdjpeg.jpeg(x, quality))


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_compile_real_arithmetic(soft: bool) -> None:
    def layer(x: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, 50, gradient="sine", arithmetic="real", soft=soft)

    x = torch.rand(1, 1, 16, 24)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(_gradients(compiled, x), _gradients(layer, x), strict=True):
        torch.testing.assert_close(actual, expected)


def test_compile_a_training_step(image: Tensor) -> None:
    """The layer in front of a model, tables learned together with its weights, in one graph."""
    torch.manual_seed(0)
    layer = fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(50))
    model = nn.Sequential(layer, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    model(image)
    model(image).logsumexp(1).sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(image).logsumexp(1).sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_compile_encode_and_decode(image: Tensor) -> None:
    def there_and_back(x: Tensor) -> Tensor:
        return fdjpeg.decode(fdjpeg.encode(x, 70, subsampling="4:2:2"), torch.float32)

    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(image), fdjpeg.jpeg(image, 70, subsampling="4:2:2"))


@pytest.mark.parametrize("strict", [True, False])
def test_export(strict: bool, image: Tensor) -> None:
    layer = fdjpeg.JPEG(35, subsampling="4:2:2")
    shapes = {"image": {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}}
    exported = torch.export.export(layer, (image,), dynamic_shapes=shapes, strict=strict)
    assert any(node.target is torch.ops.fdjpeg.round_trip.default for node in exported.graph.nodes)
    for x in (image, torch.rand(5, 3, 33, 70)):
        assert torch.equal(exported.module()(x), layer(x))


#: Layers that draw, at one quality only, so that their results are known.
DRAWING = {
    "RandomJPEG": fdjpeg.RandomJPEG((40, 40)),
    "RandomJPEG of a share": fdjpeg.RandomJPEG((40, 40), p=0.5),
    "StochasticJPEG": fdjpeg.StochasticJPEG((40,), subsampling="4:4:4"),
}


@pytest.mark.parametrize("name", DRAWING)
def test_layers_that_draw_take_other_sizes_when_compiled_or_exported(name: str, image: Tensor) -> None:
    layer = DRAWING[name]
    free = torch.export.Dim.DYNAMIC
    exported = torch.export.export(layer, (image,), dynamic_shapes=({0: free, 2: free, 3: free},)).module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for x in (image, torch.rand(5, 3, 33, 70)):
        compressed = fdjpeg.jpeg(x, 40, subsampling=layer.subsampling)
        for out in (exported(x), compiled(x)):
            changed = (out != x).flatten(1).any(1)
            assert torch.equal(out, torch.where(changed[:, None, None, None], compressed, x))
            assert changed.all() or name == "RandomJPEG of a share"


@pytest.mark.parametrize("traced", [(24, 40), (21, 35)], ids=str)
def test_channels_for_themselves_take_whole_and_broken_blocks_when_exported(traced: tuple[int, int]) -> None:
    layer = fdjpeg.FeatureDistillation("code")
    free = torch.export.Dim.DYNAMIC
    inputs = (torch.rand(2, 3, *traced),)
    exported = torch.export.export(layer, inputs, dynamic_shapes=({0: free, 2: free, 3: free},)).module()
    for size in ((24, 40), (21, 35), (24, 35), (64, 16)):
        x = torch.rand(3, 3, *size)
        assert torch.equal(exported(x), layer(x)), size


def test_qualities_of_each_image_and_bits_take_other_sizes_when_exported(image: Tensor) -> None:
    class Bits(nn.Module):
        def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
            return fdjpeg.jpeg(x, quality), fdjpeg.bits(fdjpeg.encode(x, quality))

    free = torch.export.Dim.DYNAMIC
    inputs = (image, torch.tensor([30, 60]))
    exported = torch.export.export(Bits(), inputs, dynamic_shapes=({0: free, 2: free, 3: free}, {0: free})).module()
    for x, quality in (inputs, (torch.rand(3, 3, 33, 70), torch.tensor([5, 50, 95]))):
        out, bits = exported(x, quality)
        assert torch.equal(out, fdjpeg.jpeg(x, quality))
        assert torch.equal(bits, fdjpeg.bits(fdjpeg.encode(x, quality)))


# ---------------------------------------------------------------------------------------------------------------------
# torch.func


@GRADIENTS
@SUBSAMPLINGS
def test_vmap_is_a_loop(subsampling: str, gradient: str, image: Tensor) -> None:
    def layer(x: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, 60, subsampling=subsampling, gradient=gradient)

    assert torch.equal(torch.func.vmap(layer)(image), layer(image))
    videos = torch.stack([image, image.flip(0), 1 - image])
    assert torch.equal(torch.func.vmap(layer)(videos), torch.stack([layer(video) for video in videos]))
    assert torch.equal(torch.func.vmap(layer, in_dims=1, out_dims=1)(videos), layer(videos))
    assert torch.equal(torch.func.vmap(torch.func.vmap(layer))(videos), layer(videos))


def test_vmap_over_quality_and_tables(image: Tensor) -> None:
    qualities = torch.tensor([10, 55, 95])
    by_loop = torch.stack([fdjpeg.jpeg(image, quality) for quality in qualities])
    assert torch.equal(torch.func.vmap(lambda quality: fdjpeg.jpeg(image, quality))(qualities), by_loop)
    tables = fdjpeg.QuantTables.standard(qualities)
    assert torch.equal(torch.func.vmap(lambda one: fdjpeg.jpeg(image, tables=one))(tables), by_loop)
    both = torch.func.vmap(lambda x, quality: fdjpeg.jpeg(x, quality))(image, qualities[:2])
    assert torch.equal(both, fdjpeg.jpeg(image, qualities[:2]))


def test_vmap_over_encode_and_decode(image: Tensor) -> None:
    coefficients = torch.func.vmap(lambda x: torch.ops.fdjpeg.encode(x[None], None, 60.0, 2, 2))(image)
    for mapped, expected in zip(coefficients, torch.ops.fdjpeg.encode(image, None, 60.0, 2, 2), strict=True):
        assert torch.equal(mapped[:, 0], expected)
    tables = fdjpeg.QuantTables.standard(60).stacked()
    decoded = torch.func.vmap(
        lambda y, cb, cr: torch.ops.fdjpeg.decode(y, cb, cr, tables, 18, 21, 2, 2, True, torch.float32)
    )(*coefficients)
    assert torch.equal(decoded[:, 0], fdjpeg.jpeg(image, 60))


@GRADIENTS
@SUBSAMPLINGS
def test_grad_vjp_and_vmap_of_grad(subsampling: str, gradient: str, image: Tensor) -> None:
    def loss(x: Tensor, quality: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, quality, subsampling=subsampling, gradient=gradient).square().sum()

    quality = torch.tensor([31.0, 72.0])
    leaves = [image.clone().requires_grad_(), quality.clone().requires_grad_()]
    of_image, of_quality = torch.autograd.grad(loss(*leaves), leaves)
    by_grad = torch.func.grad(loss, argnums=(0, 1))(image, quality)
    assert torch.equal(by_grad[0], of_image)
    assert torch.equal(by_grad[1], of_quality)
    by_vmap = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(image, quality)
    assert torch.equal(by_vmap[0], of_image)
    torch.testing.assert_close(by_vmap[1], of_quality)

    cotangent = torch.randn_like(image)
    _, pullback = torch.func.vjp(lambda x: fdjpeg.jpeg(x, 72, subsampling=subsampling, gradient=gradient), image)
    x = image.clone().requires_grad_()
    out = fdjpeg.jpeg(x, 72, subsampling=subsampling, gradient=gradient)
    assert torch.equal(pullback(cotangent)[0], torch.autograd.grad(out, x, cotangent)[0])
    many = torch.func.vmap(pullback)(torch.stack([cotangent, 2 * cotangent]))[0]
    torch.testing.assert_close(many, torch.stack([pullback(cotangent)[0], pullback(2 * cotangent)[0]]))


@GRADIENTS
def test_jacrev_is_row_by_row(gradient: str) -> None:
    x = torch.rand(3, 4, 6, dtype=torch.float64)

    def layer(x: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, 60, gradient=gradient).flatten()

    jacobian = torch.func.jacrev(layer)(x)
    leaf = x.clone().requires_grad_()
    out = layer(leaf)
    for i in (0, 17, 71):
        (row,) = torch.autograd.grad(out[i], leaf, retain_graph=True)
        torch.testing.assert_close(jacobian[i], row)
    of_quality = torch.func.jacrev(lambda quality: fdjpeg.jpeg(x, quality, gradient=gradient))(torch.tensor(60.0))
    assert of_quality.shape == x.shape
    assert of_quality.abs().max() > 0


# ---------------------------------------------------------------------------------------------------------------------
# Double backward


def _penalty(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the squared norm of a loss's gradient."""
    (of_image,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    return of_image.square().sum()


@SUBSAMPLINGS
@pytest.mark.parametrize("gradient", ["straight-through", "identity"])
def test_gradient_penalty(gradient: str, subsampling: str) -> None:
    """With J = ∂y/∂x, constant, the loss |y|² has the gradient 2 Jᵀy, and the penalty 4 |Jᵀy|² has 8 JᵀJ Jᵀy."""
    x = (0.2 + 0.6 * torch.rand(1, 3, 10, 11, dtype=torch.float64)).requires_grad_()

    def layer(x: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, 90, subsampling=subsampling, gradient=gradient)

    (actual,) = torch.autograd.grad(_penalty(x, layer), x)
    jacobian = torch.func.jacrev(layer)(x.detach()).reshape(x.numel(), x.numel())
    pulled = jacobian.T @ layer(x.detach()).flatten()
    torch.testing.assert_close(actual.flatten(), 8 * jacobian.T @ jacobian @ pulled)


def test_gradient_penalty_of_tables() -> None:
    """Differentiated in the incoming gradient, as for the image; the tables in it count as constant."""
    x = torch.rand(1, 3, 16, 16)
    steps = torch.full((8, 8), 20.0, requires_grad=True)
    weight = torch.rand_like(x).requires_grad_()
    out = fdjpeg.jpeg(x, tables=fdjpeg.QuantTables(steps, steps))
    (of_steps,) = torch.autograd.grad((weight * out).sum(), steps, create_graph=True)
    direction = torch.rand(8, 8)
    (actual,) = torch.autograd.grad((direction * of_steps).sum(), weight)
    jacobian = torch.func.jacrev(lambda q: fdjpeg.jpeg(x, tables=fdjpeg.QuantTables(q, q)))(steps.detach())
    torch.testing.assert_close(actual, (jacobian * direction).sum((-1, -2)))


@pytest.mark.parametrize("gradient", ["cubic", "sine", "fourier", "tanh", "softmax"])
def test_surrogates_refuse_a_second_derivative(gradient: str) -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again: use gradient='straight-through'"):
        torch.autograd.grad(_penalty(x, lambda x: fdjpeg.jpeg(x, gradient=gradient)), x)


# ---------------------------------------------------------------------------------------------------------------------
# Autocast, data loading


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
@GRADIENTS
def test_autocast_changes_nothing(gradient: str, lower: torch.dtype, arithmetic: str, image: Tensor) -> None:
    def layer(x: Tensor, quality: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, quality, gradient=gradient, arithmetic=arithmetic)

    def cast(x: Tensor, quality: Tensor) -> Tensor:
        with torch.autocast("cpu", lower):
            return layer(x, quality)

    quality = torch.tensor(66.0)
    expected = _gradients(layer, image, quality)
    assert expected[0].dtype == torch.float32
    _assert_equal(_gradients(cast, image, quality), expected)
    with torch.autocast("cpu", lower):
        coefficients = fdjpeg.encode(image, 66)
        assert torch.equal(fdjpeg.decode(coefficients, torch.float32), fdjpeg.jpeg(image, 66))


class _Augmented(Dataset[Tensor]):
    """Images that are compressed where they are loaded."""

    def __init__(self) -> None:
        self.images = torch.linspace(0, 1, 4 * 3 * 40 * 50).reshape(4, 3, 40, 50).sqrt()
        self.layer = fdjpeg.JPEG(40)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.layer(self.images[index])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers(method: str) -> None:
    """After the parent has used the op, and with it its threads."""
    dataset = _Augmented()
    expected = dataset.layer(dataset.images)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        fdjpeg.jpeg(torch.rand(8, 3, 64, 64))
        loader = DataLoader(dataset, batch_size=2, num_workers=2, multiprocessing_context=method, timeout=120)
        assert torch.equal(torch.cat(list(loader)), expected)
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------------------------------
# Devices: nothing is computed here, but a tensor on a wrong device and a read of a value are found


@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic", "zero"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_fake_cuda_tensors(where: str, gradient: str) -> None:
    """Quality and tables may be on the host or on the image's device."""
    with FakeTensorMode(), NoReading():
        image = torch.rand(2, 3, 40, 50, device="cuda")
        quality = torch.rand(2, device=where)
        table = torch.rand(8, 8, device=where)
        for settings in ({"quality": 50}, {"quality": quality}, {"tables": fdjpeg.QuantTables(table, table)}):
            out = fdjpeg.jpeg(image, gradient=gradient, **settings)
            assert out.device == image.device
            assert (out.shape, out.dtype) == (image.shape, image.dtype)
            coefficients = fdjpeg.encode(image, **settings)
            assert coefficients.device == coefficients.tables.device == image.device
            assert fdjpeg.decode(coefficients).device == image.device


def test_on_a_device_of_its_own() -> None:
    """The tests of `on_a_device.py`, in a process where nothing has used autograd yet."""
    suite = Path(__file__).parents[1] / "support" / "on_a_device.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@GRADIENTS
def test_backward_reads_no_value(gradient: str, image: Tensor) -> None:
    """With data too. (Eager forward on a CPU may read its own flags, for the warning about values above 1.)"""
    leaf = image.requires_grad_()
    quality = torch.tensor([20.0, 80.0], requires_grad=True)
    out = fdjpeg.jpeg(leaf, quality, gradient=gradient)
    with NoReading():
        out.sum().backward()
    assert quality.grad is not None


def test_meta_tensors() -> None:
    image = torch.rand(2, 3, 40, 50, device="meta", dtype=torch.bfloat16)
    assert fdjpeg.jpeg(image, 50).shape == image.shape
    assert fdjpeg.encode(image, 50).y.shape == (2, 5, 7, 8, 8)
