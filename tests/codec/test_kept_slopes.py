"""The table of a surrogate's slopes: computed once, and never kept where its tensors could not be used later."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import fdjpeg
from fdjpeg import _slopes
from fdjpeg.surrogates import Cubic, Fourier, Sine, Surrogate, Tanh


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """Empties the cache, so that each test makes the first call."""
    _slopes._kept_slope_table.cache_clear()
    yield
    _slopes._kept_slope_table.cache_clear()


def picture() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(5))


def loss(image: Tensor) -> Tensor:
    return fdjpeg.jpeg(image, 50, gradient="cubic").square().sum()


def gradient(image: Tensor) -> Tensor:
    leaf = image.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def slopes_of(surrogate: Surrogate, image: Tensor | None = None) -> Tensor:
    table = _slopes.slopes_for(picture() if image is None else image, surrogate)
    assert table is not None
    return table


def kept() -> int:
    return _slopes._kept_slope_table.cache_info().currsize


def is_everybodys(table: Tensor) -> bool:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(table)
    return type(table) is Tensor and not wrapped and not table.is_inference()


def test_computed_once_for_all_objects_of_equal_parameters() -> None:
    first = slopes_of(Fourier(4))
    assert slopes_of(Fourier(4)) is first
    assert slopes_of(Fourier(4), torch.nn.Parameter(picture())) is first
    assert _slopes.slope_table(Fourier(4), torch.device("cpu")).equal(first)  # type: ignore[union-attr]


def test_another_parameter_is_another_table() -> None:
    tables = [slopes_of(s) for s in (Tanh(4), Tanh(5), Tanh(4, floor=0.3), Cubic(), Sine())]
    assert kept() == len({id(table) for table in tables}) == 5
    surrogate = Tanh(4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        surrogate.alpha = 5.0  # type: ignore[misc]
    assert slopes_of(dataclasses.replace(surrogate, alpha=5.0)) is tables[1]


def test_devices_have_their_own() -> None:
    on_cpu, on_meta = (slopes_of(Cubic(), picture().to(device)) for device in ("cpu", "meta"))
    assert on_cpu.device.type == "cpu"
    assert on_meta.device.type == "meta"
    assert slopes_of(Cubic()) is on_cpu
    assert fdjpeg.jpeg(picture().to("meta"), 50, gradient="cubic").shape == picture().shape


def test_a_users_own_is_never_kept() -> None:
    class Own:
        periodic = True
        factor = 1.0

        def forward(self, c: Tensor) -> Tensor:
            return c.round()

        def derivative(self, c: Tensor) -> Tensor:
            return self.factor * (1 - (c - c.round()).abs())

    class Steeper(Cubic):
        def derivative(self, c: Tensor) -> Tensor:
            return 2 * super().derivative(c)

    own = Own()
    before = slopes_of(own)
    own.factor = 3.0
    after = slopes_of(own)
    torch.testing.assert_close(after, 3 * before)
    twice, once = (slopes_of(s) for s in (Steeper(), Cubic()))
    assert torch.equal(twice, 2 * once)
    assert kept() == 1


def test_first_call_under_vmap_of_grad() -> None:
    batches = torch.stack([picture(), picture().flip(-1)])
    mapped = torch.func.vmap(torch.func.grad(loss))(batches)
    assert kept() == 1
    assert is_everybodys(slopes_of(Cubic()))
    torch.testing.assert_close(mapped, torch.stack([gradient(batch) for batch in batches]))


def test_first_call_in_inference_mode() -> None:
    with torch.inference_mode():
        out = fdjpeg.jpeg(picture(), 50, gradient="cubic")
    assert kept() == 1
    assert is_everybodys(slopes_of(Cubic()))
    assert gradient(picture()).shape == out.shape


def test_first_call_under_a_default_device() -> None:
    image = picture()
    with torch.device("meta"):
        out = fdjpeg.jpeg(image, 50, gradient="cubic")
        assert is_everybodys(slopes_of(Cubic(), image))
    assert torch.equal(out, fdjpeg.jpeg(image, 50))
    table = slopes_of(Cubic(), image)
    assert table.device.type == "cpu"


def test_first_call_compiled() -> None:
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaf = picture().requires_grad_()
    (actual,) = torch.autograd.grad(compiled(leaf), leaf)
    assert kept() == 0
    torch.testing.assert_close(actual, gradient(picture()))
    assert kept() == 1
    torch.compiler.reset()
    (again,) = torch.autograd.grad(compiled(leaf), leaf)
    torch.testing.assert_close(again, actual)


@pytest.mark.parametrize("strict", [False, True])
def test_first_call_exported(strict: bool) -> None:
    layer = fdjpeg.JPEG(50, gradient="cubic")
    exported = torch.export.export(layer, (picture(),), strict=strict).module()
    assert kept() == 0
    assert torch.equal(exported(picture()), layer(picture()))
    assert is_everybodys(slopes_of(Cubic()))


def test_first_call_on_fake_tensors() -> None:
    with FakeTensorMode():
        out = fdjpeg.jpeg(torch.rand(2, 3, 16, 24, requires_grad=True), 50, gradient="cubic")
        out.sum().backward()
    assert isinstance(out, FakeTensor)
    assert kept() == 0
    real = gradient(picture())
    with FakeTensorMode():  # nor are real tables mixed with fake images
        assert fdjpeg.jpeg(torch.rand(2, 3, 16, 24), 50, gradient="cubic").shape == real.shape
    assert is_everybodys(slopes_of(Cubic()))


@pytest.mark.parametrize("surrogate", [Cubic(), Tanh(3.0, floor=0.1)], ids=repr)
def test_a_layer_is_pickled_and_copied_after_use(surrogate: Surrogate) -> None:
    layer = fdjpeg.JPEG(50, gradient=surrogate)
    before = pickle.dumps(layer)
    wanted = layer(picture())
    assert len(pickle.dumps(layer)) == len(before), "the table must not be part of the layer"
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(other(picture()), wanted)
        assert other.gradient == surrogate
    assert kept() == 1
