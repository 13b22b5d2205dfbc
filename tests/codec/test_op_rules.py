"""Rules of the ops under transformations: maps along any dimension, missing gradients, second derivatives, devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import fdjpeg
from fdjpeg import QuantTables, _onnx, _slopes, ops, reference, surrogates
from fdjpeg._geometry import Sampling
from fdjpeg.ops import packed_steps, pieces, registration

#: 4:2:0, as the ops take it.
SAMPLING = Sampling(2, 2, True)


class Own:
    """A surrogate of one's own, which no single op serves."""

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return 1 / (1 + (c - c.round()) ** 2)


class Cut(torch.autograd.Function):
    """Passes a tensor on, and no gradient back, as a branch does on which nothing depends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        return None


class Calls(TorchDispatchMode):
    """Notes the calls of this package's ops: name and arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "fdjpeg":
            self.found.append((function._opname, args))
        return function(*args, **(kwargs or {}))


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def assert_mapped_is_each(function: Callable[..., Any], tensors: list[Tensor], dims: tuple[int | None, ...]) -> None:
    """Asserts that vmap along ``dims`` is one call for each entry of the tensors' first dimension."""
    turned = [one[0] if dim is None else one.movedim(0, dim) for one, dim in zip(tensors, dims, strict=True)]
    found = torch.func.vmap(function, in_dims=dims)(*turned)
    for number in range(len(tensors[0])):
        wanted = function(*(one[0 if dim is None else number] for one, dim in zip(tensors, dims, strict=True)))
        for result, expected in zip(found, wanted, strict=True):
            assert torch.equal(result[number], expected)


@pytest.mark.parametrize("dims", [(0, 0), (2, 3), (3, 1), (1, None), (None, 2)])
def test_a_round_trip_maps_along_any_dimension(dims: tuple[int | None, ...]) -> None:
    """Four maps of two images of three channels: no two of these numbers are alike."""
    tensors = [random(4, 2, 3, 8, 16).float(), (1 + 90 * random(4, 2, 3, 8, 8)).float()]
    assert_mapped_is_each(
        lambda image, tables: torch.ops.fdjpeg.round_trip(image, tables, 0.0, *SAMPLING), tensors, dims
    )


@pytest.mark.parametrize("dims", [(0, 0, 2, 0), (1, 0, 0, 2), (2, 1, 3, None)])
def test_gradients_of_a_round_trip_map_along_any_dimension(dims: tuple[int | None, ...]) -> None:
    image, tables = random(4, 2, 3, 8, 16).float(), (1 + 90 * random(4, 2, 3, 8, 8)).float()
    planes = torch.stack(
        [torch.ops.fdjpeg.round_trip(*one, 0.0, *SAMPLING)[1] for one in zip(image, tables, strict=True)]
    )
    assert_mapped_is_each(
        lambda *tensors: torch.ops.fdjpeg.round_trip_backward(*tensors, 0.0, *SAMPLING, True),
        [random(4, 2, 3, 8, 16).float() - 0.5, planes, image, tables],
        dims,
    )


@pytest.mark.parametrize("dims", [(1, 0, 0, 2), (0, 2, 1, 3), (2, 0, 1, None)])
def test_a_decoder_maps_along_any_dimension(dims: tuple[int | None, ...]) -> None:
    each = [torch.ops.fdjpeg.encode(one, None, 50.0, 2, 2) for one in random(4, 2, 3, 16, 16).float()]
    tables = torch.randint(1, 99, (4, 2, 3, 8, 8), generator=torch.Generator().manual_seed(3)).float()
    assert_mapped_is_each(
        lambda *tensors: (torch.ops.fdjpeg.decode(*tensors, 16, 16, *SAMPLING, torch.uint8),),
        [*map(torch.stack, zip(*each, strict=True)), tables],
        dims,
    )


@pytest.mark.parametrize(("c", "slope"), [(True, True), (True, False), (False, True), (False, False)])
def test_gradients_of_rounding_map_with_and_without_a_slope(c: bool, slope: bool) -> None:
    given = (True, True, c, slope)

    def gradients(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        left = list(tensors)
        return torch.ops.fdjpeg.rounded_backward(*(left.pop(0) if one else None for one in given))

    dims = [dim for one, dim in zip(given, (0, 1, 2, 0), strict=True) if one]
    assert_mapped_is_each(gradients, [random(4, 2, 6, 8, 8) for _ in dims], tuple(dims))


@pytest.mark.parametrize("name", ["jpeg", "block_dct"])
def test_a_map_passes_the_gradient_of_a_tensor_outside_of_it(name: str) -> None:
    """Inside of the map the tensor does not say that it requires a gradient."""
    function: Callable[[Tensor], Tensor] = {"jpeg": lambda x: fdjpeg.jpeg(x, 50), "block_dct": fdjpeg.block_dct}[name]
    images = random(2, 3, 8, 8)

    def mapped(x: Tensor) -> Tensor:
        return torch.func.vmap(function)(x).square().sum()

    leaf = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(function(leaf).square().sum(), leaf)
    assert torch.equal(torch.func.grad(mapped)(images), wanted)
    assert torch.equal(torch.autograd.grad(mapped(leaf), leaf)[0], wanted)
    assert bool(wanted.any())


_WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "identity": {"gradient": "identity"},
    "surrogate": {"gradient": "sine"},
    "real": {"arithmetic": "real"},
    "map": {"quality": torch.full((1, 2, 2), 50)},
}


@pytest.mark.parametrize("way", _WAYS)
def test_an_image_on_which_nothing_depends_gets_no_gradient(way: str) -> None:
    """Neither zeros, which cost memory, nor an error."""
    image, tables = random(1, 3, 16, 16).requires_grad_(), torch.full((3, 8, 8), 9.0, requires_grad=True)
    settings = _WAYS[way] if way == "map" else {"tables": QuantTables(*tables), **_WAYS[way]}
    out = Cut.apply(fdjpeg.jpeg(image, **settings))
    assert torch.autograd.grad(out.sum(), (image, tables), allow_unused=True) == (None, None)


def test_coefficients_on_which_nothing_depends_get_no_gradient() -> None:
    blocks, image = random(1, 6, 8, 8).requires_grad_(), torch.empty(1, 3, 16, 16)
    out = Cut.apply(ops.blocks_image(blocks, image, SAMPLING))
    assert torch.autograd.grad(out.sum(), blocks, allow_unused=True) == (None,)


@pytest.mark.parametrize("way", _WAYS)
def test_no_gradient_of_tables_is_computed_where_none_is_wanted(way: str) -> None:
    image = random(1, 3, 16, 16).requires_grad_()
    out = fdjpeg.jpeg(image, **{"quality": 50, **_WAYS[way]})
    with Calls() as calls:
        out.sum().backward()
    assert [arguments[-2 if way == "surrogate" else -1] for _, arguments in calls.found] == [False] * (
        way != "identity"
    )


def test_an_images_second_gradient_does_not_need_that_of_tables() -> None:
    image, tables = random(1, 3, 16, 16).requires_grad_(), torch.full((3, 8, 8), 9.0, requires_grad=True)
    incoming = random(1, 3, 16, 16).requires_grad_()
    found = []
    for given in (tables, tables.detach()):
        out = fdjpeg.jpeg(image, tables=QuantTables(*given))
        (of_image,) = torch.autograd.grad(out, image, incoming, create_graph=True)
        found += torch.autograd.grad(of_image.square().sum(), incoming)
    assert torch.equal(*found)
    assert bool(found[0].any())


_SOFT: dict[str, Any] = {"gradient": "sine", "arithmetic": "real", "soft": True}


@pytest.mark.parametrize(
    ("by_block", "settings"),
    [(True, _SOFT), (False, _SOFT), (True, {"arithmetic": "real"})],
    ids=["soft-map", "soft-tables", "straight-map"],
)
@pytest.mark.parametrize("of", ["image", "steps", "both"])
def test_second_derivatives_in_forward_mode_are_those_in_reverse_mode(
    by_block: bool, settings: dict[str, Any], of: str
) -> None:
    """The derivative of a gradient along a direction of the image alone, of the steps alone, and of both."""
    image, direction = 0.2 + 0.6 * random(1, 1, 8, 8), (random(1, 1, 8, 8) - 0.5, random(1, 1, 1) - 0.5)
    steps = torch.full((1, 1, 1), 40.0, dtype=torch.float64)
    if not by_block:
        steps, direction = 5 + 9 * random(1, 8, 8), (direction[0], random(1, 8, 8) - 0.5)

    def loss(image: Tensor, steps: Tensor) -> Tensor:
        if by_block:
            return fdjpeg.jpeg(image, steps, **settings).pow(3).sum()
        return fdjpeg.jpeg(image, tables=QuantTables(steps, steps), **settings).pow(3).sum()

    def gradient(*given: Tensor) -> tuple[Tensor, ...]:
        return torch.func.grad(loss, (0, 1))(*given)

    inputs = (image, steps)
    if of == "both":
        _, found = torch.func.jvp(gradient, inputs, direction)
    elif of == "image":
        _, found = torch.func.jvp(lambda x: gradient(x, steps), inputs[:1], direction[:1])
    else:
        _, found = torch.func.jvp(lambda x: gradient(image, x), inputs[1:], direction[1:])
    moved = tuple(v if of in ("both", name) else v * 0 for v, name in zip(direction, ("image", "steps"), strict=True))
    leaves = tuple(one.clone().requires_grad_() for one in inputs)
    first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    wanted = torch.autograd.grad(first, leaves, moved)
    for result, expected in zip(found, wanted, strict=True):
        assert float(expected.abs().max()) > 1e-6
        torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-10)


class OwnSine:
    """A surrogate of one's own in rounding's place, with the numbers of the built-in one."""

    smooth = True

    def forward(self, c: Tensor) -> Tensor:
        return c - torch.sin(2 * torch.pi * c) / (2 * torch.pi)

    def derivative(self, c: Tensor) -> Tensor:
        return 1 - torch.cos(2 * torch.pi * c)


def test_gradients_by_blocks_and_steps_are_one_launch_each() -> None:
    """Of the quotient and of the product around a soft surrogate of one's own; autograd's own rules take more."""
    image, steps = random(1, 1, 8, 8).requires_grad_(), 5 + 9 * random(1, 8, 8)
    for wanted in (True, False):
        tables = QuantTables(steps.clone().requires_grad_(wanted), steps)
        out = fdjpeg.jpeg(image, tables=tables, gradient=OwnSine(), arithmetic="real", soft=True)
        with Calls() as calls:
            out.sum().backward()
        assert [name for name, _ in calls.found].count("scaled_backward") == 2 * wanted


@pytest.mark.parametrize("of_tables", [True, False])
def test_a_soft_surrogate_of_ones_own_has_all_derivatives_of_a_built_in_one(of_tables: bool) -> None:
    inputs = (0.2 + 0.6 * random(2, 1, 8, 8), 5 + 9 * random(1, 8, 8))[: 1 + of_tables]
    direction = (random(2, 1, 8, 8) - 0.5, random(1, 8, 8) - 0.5)[: 1 + of_tables]
    found: list[list[Tensor]] = []
    for surrogate in (OwnSine(), surrogates.Sine(floor=0)):

        def compressed(image: Tensor, steps: Tensor, surrogate: Any = surrogate) -> Tensor:
            tables = QuantTables(steps, steps)
            return fdjpeg.jpeg(image, tables=tables, gradient=surrogate, arithmetic="real", soft=True)

        fixed = () if of_tables else (5 + 9 * random(1, 8, 8),)
        leaves = tuple(one.clone().requires_grad_() for one in inputs)
        out = compressed(*leaves, *fixed)
        first = torch.autograd.grad(out.pow(3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(first, leaves, direction)
        tangent = torch.func.jvp(lambda *x: compressed(*x, *fixed), inputs, direction)[1]  # noqa: B023
        found.append([out, *first, *second, tangent])
    for own, built_in in zip(*found, strict=True):
        torch.testing.assert_close(own, built_in, rtol=1e-8, atol=1e-10)


def test_gradients_of_ones_own_surrogate_are_not_differentiated_in_forward_mode() -> None:
    image, quality = random(1, 1, 8, 8), torch.full((1, 1, 1), 50.0)
    gradient = torch.func.grad(lambda x: fdjpeg.jpeg(x, quality, gradient=Own(), arithmetic="real").sum())
    with pytest.raises(RuntimeError, match=r"^a surrogate's gradient under a forward that rounds cannot be"):
        torch.func.jvp(gradient, (image,), (image,))


def test_an_op_passes_gradients_through_the_codec_unless_they_are_to_pass_by() -> None:
    """Through chroma's averages a gradient is spread over the samples."""
    image, incoming = random(1, 3, 16, 16).requires_grad_(), random(1, 3, 16, 16)
    qualities = torch.full((1, 2, 2), 50, dtype=torch.uint8)
    formula, setting = _slopes.Formula("straight-through", 0.0, 0.0), registration.Setting(50.0, *SAMPLING)
    for options, expected in (({}, [False] * 3), ({"identity": True}, [True] * 3)):
        results = [
            ops.round_trip(image, None, setting, **options)[0],
            ops.round_trip_by_block(image, qualities, SAMPLING, **options)[0],
            ops.real_round_trip(image, None, setting, formula, False, **options),
        ]
        gradients = [torch.autograd.grad(out, image, incoming)[0] for out in results]
        assert [torch.equal(gradient, incoming) for gradient in gradients] == expected


def test_a_gradient_is_linear_in_the_incoming_one_in_forward_mode_too() -> None:
    """Of a surrogate under rounding, whose gradient by the image itself cannot be had."""
    image, tables, incoming = random(1, 1, 8, 8), QuantTables.standard(50), (random(1, 1, 8, 8), random(1, 1, 8, 8) - 1)

    def compressed(x: Tensor) -> Tensor:
        return fdjpeg.jpeg(x, tables=tables, gradient="sine", arithmetic="real")

    backward = torch.func.vjp(compressed, image)[1]
    _, found = torch.func.jvp(lambda g: backward(g)[0], incoming[:1], incoming[1:])
    assert torch.equal(found, backward(incoming[1])[0])
    with pytest.raises(RuntimeError, match=r"^a surrogate's gradient under a forward that rounds cannot be"):
        torch.func.jvp(torch.func.grad(lambda x: compressed(x).sum()), (image,), incoming[1:])


def test_forward_mode_has_no_tangent_of_a_sample_that_is_nan_where_the_codec_is_exact() -> None:
    """As in reverse mode: ⟨Jv, g⟩ = ⟨v, Jᵀg⟩."""
    image, v, g = (random(1, 1, 8, size) for size in (16, 17, 18))
    v, g = v[..., :16], g[..., :16]
    image[..., 3, 4] = float("nan")
    function = lambda x: fdjpeg.jpeg(x, 50, gradient=Own())  # noqa: E731
    leaf = image.clone().requires_grad_()
    (backward,) = torch.autograd.grad(function(leaf), leaf, g)
    assert float(backward[..., 3, 4]) == 0
    _, forward = torch.func.jvp(function, (image,), (v,))
    torch.testing.assert_close((forward * g).sum(), (backward * v).sum())
    assert float((backward * v).sum()) != 0


def test_coefficients_of_an_image_with_nan_have_one_derivative_in_both_modes() -> None:
    """In real numbers a sample that is NaN has a derivative, and by the exact codec's planes it has none."""
    image, v = random(1, 1, 8, 8), random(1, 1, 8, 8)
    image[..., 3, 4] = float("nan")
    g = random(1, 1, 8, 8) - 0.5
    _, forward = torch.func.jvp(lambda x: ops.image_blocks(x, SAMPLING), (image,), (v,))
    for planes in (None, torch.empty(1, 0, dtype=torch.uint8)):
        of_blocks = g.clone().requires_grad_()
        backward = pieces.image_blocks_backward(of_blocks, image, planes, SAMPLING)
        assert bool(backward[..., 3, 4]) == (planes is None)
        # The gradient is linear in g: its own derivative, transposed, takes v to the coefficients' change.
        (again,) = torch.autograd.grad(backward, of_blocks, v)
        torch.testing.assert_close((again * g).sum(), (backward * v).sum())
        if planes is None:
            torch.testing.assert_close(again, forward)


@pytest.mark.parametrize("quality", [50, torch.full((1, 1, 1), 50)], ids=["number", "map"])
def test_the_floor_of_a_surrogate_holds_under_rounding_alone(quality: Any) -> None:
    """Of a grey image all coefficients are 0, where sine's derivative is 0; with a floor of a half it is that."""
    image = torch.full((1, 1, 8, 8), 128 / 255, dtype=torch.float64, requires_grad=True)
    incoming = random(1, 1, 8, 8)
    for soft, expected in ((False, 0.5), (True, 0.0)):
        out = fdjpeg.jpeg(image, quality, gradient=surrogates.Sine(floor=0.5), arithmetic="real", soft=soft)
        (found,) = torch.autograd.grad(out, image, incoming)
        torch.testing.assert_close(found, expected * incoming)


def test_noise_moves_a_coefficient_by_half_a_step_at_most() -> None:
    blocks, steps = 100 * random(3, 2, 8, 8), 5 + 20 * random(1, 2, 8, 8)
    noise = surrogates.Noise(torch.Generator().manual_seed(3))
    moved = (ops.rounded(blocks, steps, noise, True) - blocks) / steps
    assert 0.4 < float(moved.abs().max()) <= 0.5
    assert abs(float(moved.mean())) < 0.05


def test_no_gradient_of_steps_is_computed_where_none_is_wanted() -> None:
    image, quality = random(1, 1, 8, 8).requires_grad_(), torch.full((1, 1, 1), 50.0, requires_grad=True)
    for one, wanted in ((quality, ["rounded_backward"]), (quality.detach(), [])):
        out = fdjpeg.jpeg(image, one, **_SOFT)
        with Calls() as calls:
            out.sum().backward()
        assert [name for name, _ in calls.found if name == "rounded_backward"] == wanted


def test_images_of_one_block_keep_a_gradient_for_each_map() -> None:
    images, qualities = random(2, 1, 8, 8), torch.tensor([30.0, 60.0], dtype=torch.float64).view(2, 1, 1)
    both = qualities.clone().requires_grad_()
    (found,) = torch.autograd.grad(fdjpeg.jpeg(images, both, **_SOFT).square().sum(), both)
    for number in range(2):
        one = qualities[number : number + 1].clone().requires_grad_()
        out = fdjpeg.jpeg(images[number : number + 1], one, **_SOFT)
        torch.testing.assert_close(found[number], torch.autograd.grad(out.square().sum(), one)[0][0])


def test_the_default_device_does_not_matter() -> None:
    image, qualities = random(1, 3, 16, 16).requires_grad_(), 1 + 99 * random(1, 150)
    wanted = fdjpeg.jpeg(image, 50)
    with torch.device("meta"):
        assert torch.equal(fdjpeg.jpeg(image, 50, gradient=Own()), wanted)
        found = packed_steps._looked_up_steps(qualities, 90, True, False)
    torch.testing.assert_close(found, reference.standard_steps(qualities, 90, True, False), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_that_are_looked_up_have_the_dtype_of_steps(dtype: torch.dtype) -> None:
    assert packed_steps._looked_up_steps(torch.full((2, 60), 50, dtype=dtype), 40, True, False).dtype == dtype
    whole = torch.full((2, 60), 50, dtype=torch.uint8)
    assert packed_steps._looked_up_steps(whole, 40, True, False).dtype == torch.float32


def test_a_quality_between_two_whole_ones_has_its_own_steps() -> None:
    image = random(1, 3, 16, 16).requires_grad_()
    found = [fdjpeg.jpeg(image, quality, gradient=Own()) for quality in (50.4, 50)]
    assert torch.equal(found[0], fdjpeg.jpeg(image.detach(), 50.4))
    assert not torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_steps_without_values_have_the_dtype_of_steps(dtype: torch.dtype) -> None:
    made, empty = (
        torch.ops.fdjpeg.standard_steps(torch.full((1, 3), 50, dtype=dtype, device=device), 1, True, False)
        for device in ("cpu", "meta")
    )
    assert (empty.dtype, empty.shape) == (made.dtype, made.shape)
    assert made.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_results_without_values_have_the_shapes_of_those_with_values() -> None:
    """Of the ops that serve maps of qualities, surrogates, one's own too, and noise."""
    shapes: list[list[tuple[int, ...]]] = []
    for device in ("cpu", "meta"):
        image, steps = torch.rand(2, 3, 16, 24).to(device), torch.ones(1, 10, 8, 8, device=device)
        blocks, slopes = torch.ones(2, 10, 8, 8, device=device), torch.ones(8193, device=device)
        qualities = torch.full((2, 2, 3), 50, dtype=torch.uint8, device=device)
        out, planes = torch.ops.fdjpeg.round_trip_by_block(image, qualities, *SAMPLING)
        results = [
            out,
            planes,
            *torch.ops.fdjpeg.surrogate_backward(image, planes, image, None, 50.0, *SAMPLING, True, slopes),
            *torch.ops.fdjpeg.surrogate_backward(image, planes, image, None, 50.0, *SAMPLING, False, slopes),
            *torch.ops.fdjpeg.round_trip_by_steps(image, steps, None, *SAMPLING),
            *torch.ops.fdjpeg.round_trip_by_steps(image, steps, slopes, *SAMPLING),
            *torch.ops.fdjpeg.rounded_backward(blocks, blocks, blocks, blocks),
            *torch.ops.fdjpeg.rounded_backward(blocks, blocks, blocks, None),
            *torch.ops.fdjpeg.scaled_backward(blocks, blocks, blocks, True),
            *torch.ops.fdjpeg.surrogate(blocks, "sine", 0.0, 0.0, True),
        ]
        assert {one.device.type for one in results} == {device}
        shapes.append([tuple(one.shape) for one in results])
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_gradients_of_tables_are_in_the_dtype_of_computations(dtype: torch.dtype) -> None:
    """With values and without: of the exact codec float32, of real numbers that of the computation."""
    for device in ("cpu", "meta"):
        image, tables = torch.rand(2, 3, 8, 8).to(device, dtype), torch.full((1, 3, 8, 8), 9.0, device=device)
        _, planes = torch.ops.fdjpeg.round_trip(image, tables, 0.0, *SAMPLING)
        exact = torch.ops.fdjpeg.round_trip_backward(image, planes, image, tables, 0.0, *SAMPLING, True)
        setting = (0.0, *SAMPLING, "straight-through", 0.0, 0.0, False)
        _, mask = torch.ops.fdjpeg.real_round_trip(image, tables.to(reference.real_dtype(image)), *setting)
        real = torch.ops.fdjpeg.real_round_trip_backward(
            image, mask, image, tables.to(reference.real_dtype(image)), *setting, True
        )
        assert [one.shape for one in (exact[1], real[1])] == [(2, 3, 8, 8)] * 2
        assert [one.dtype for one in (exact[1], real[1])] == [torch.float32, reference.real_dtype(image)]


def test_one_set_of_tables_gets_the_sum_of_all_images_gradients() -> None:
    of_each = random(2, 3, 8, 8)
    torch.testing.assert_close(registration.of_given_tables(of_each, torch.ones(1, 3, 8, 8)), of_each[:1] + of_each[1:])
    assert registration.of_given_tables(of_each, torch.ones(2, 3, 8, 8)) is of_each


def test_a_derivative_that_depends_on_the_image_is_not_differentiated_by_it() -> None:
    image, tables = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    for given in ((image,), (tables, image)):
        out = registration.once_differentiable(image * tables, *given)
        (gradient,) = torch.autograd.grad(out.sum(), image, create_graph=True)
        for one in given:
            with pytest.raises(RuntimeError, match=r"^a surrogate's gradient under a forward that rounds cannot be"):
                torch.autograd.grad(gradient.sum(), one, retain_graph=True)


@pytest.mark.parametrize("way", ["exact", "real", "map"])
def test_a_graph_for_onnx_computes_the_same_image(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "exporting", lambda: False)
    image = random(1, 3, 16, 16)
    settings = _WAYS[way] if way == "map" else {"tables": QuantTables.standard(50), **_WAYS[way]}
    wanted = fdjpeg.jpeg(image, **settings)
    monkeypatch.setattr(_onnx, "exporting", lambda: True)
    with Calls() as calls:
        torch.testing.assert_close(fdjpeg.jpeg(image, **settings), wanted, rtol=0, atol=1e-9)
    assert calls.found == []  # ONNX has no translation for an op of this package
