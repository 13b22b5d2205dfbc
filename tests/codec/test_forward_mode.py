"""Forward-mode tangents: the right one or an error, never a silent zero, by every way in which torch makes them.

The oracles are finite differences of the soft map, the reference pipeline without rounding, and reverse mode, which
other files test: ⟨Jv, g⟩ = ⟨v, Jᵀg⟩.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fdjpeg
from fdjpeg import reference
from fdjpeg.surrogates import Noise


class Own:
    """A user's surrogate, of which kernels know nothing."""

    def forward(self, c: Tensor) -> Tensor:
        return c.round()

    def derivative(self, c: Tensor) -> Tensor:
        return 1 / (1 + (c - c.round()) ** 2)


_HARD = ("straight-through", "identity", "sine", "tanh", "zero", Own())
_SOFT = ("cubic", "sine", "fourier", "tanh", "softmax")
_SETTINGS: list[dict[str, Any]] = [
    *({"gradient": one} for one in _HARD),
    *({"gradient": one, "arithmetic": "real"} for one in _HARD),
    *({"gradient": one, "arithmetic": "real", "soft": True} for one in _SOFT),
]
#: Those whose derivative can be differentiated again.
_TWICE = [one for one in _SETTINGS if one.get("soft") or one["gradient"] in ("straight-through", "identity")]
_ONCE = [one for one in _SETTINGS if one not in _TWICE]


def _ids(settings: Any) -> str:
    return "-".join(type(one).__name__ if isinstance(one, Own) else str(one) for one in settings.values())


def _settings(of: list[dict[str, Any]]) -> Any:
    return pytest.mark.parametrize("settings", of, ids=_ids)


def _inputs(channels: int = 3) -> tuple[Tensor, Tensor]:
    """Returns images, some of whose samples are clamped, and a table for each."""
    torch.manual_seed(0)
    return 1.4 * torch.rand(2, channels, 11, 18, dtype=torch.float64) - 0.2, 2 + 20 * torch.rand(
        2, 8, 8, dtype=torch.float64
    )


def _compressed(settings: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    def compressed(image: Tensor, table: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, tables=fdjpeg.QuantTables(table, 2 * table), **settings)

    return compressed


def _dual(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """Returns the tangent of a result by ``forward_ad``."""
    with forward_ad.dual_level():
        out = function(*(forward_ad.make_dual(one, v) for one, v in zip(inputs, tangents, strict=True)))
        tangent: Tensor = forward_ad.unpack_dual(out).tangent
        assert tangent is not None, "a silent zero"
        return tangent


@pytest.mark.filterwarnings("ignore:image must lie")
@_settings(_SETTINGS)
def test_is_the_adjoint_of_reverse_mode(settings: dict[str, Any]) -> None:
    function, inputs = _compressed(settings), _inputs()
    tangents = tuple(torch.randn_like(one) for one in inputs)
    leaves = tuple(one.clone().requires_grad_() for one in inputs)
    g = torch.randn_like(inputs[0])
    of_image, of_table = torch.autograd.grad(function(*leaves), leaves, g)
    wanted = (of_image * tangents[0]).sum(), (of_table * tangents[1]).sum()
    # The slope tables of kernels and reference hold float32.
    close = {"rtol": 1e-5, "atol": 1e-5}
    for tangent in (torch.func.jvp(function, inputs, tangents)[1], _dual(function, inputs, tangents)):
        torch.testing.assert_close((tangent * g).sum(), sum(wanted), **close)
    with torch.no_grad():
        of_each = (
            _dual(lambda image: function(image, inputs[1]), inputs[:1], tangents[:1]),
            _dual(lambda table: function(inputs[0], table), inputs[1:], tangents[1:]),
        )
    for tangent, one in zip(of_each, wanted, strict=True):
        torch.testing.assert_close((tangent * g).sum(), one, **close)


@_settings([one for one in _SETTINGS if one.get("soft")])
def test_equals_finite_differences(settings: dict[str, Any]) -> None:
    function, (image, table) = _compressed(settings), _inputs()
    image = image.clamp(0.2, 0.8)
    v, w, step = torch.randn_like(image), torch.randn_like(table), 1e-8
    after, before = (function(image + h * v, table + h * w) for h in (step, -step))
    _, tangent = torch.func.jvp(function, (image, table), (v, w))
    torch.testing.assert_close(tangent, (after - before) / (2 * step), rtol=1e-5, atol=1e-5)


def test_straight_through_is_the_pipeline_without_rounding() -> None:
    """By finite differences, which are exact for a linear map; the image is far from every clamp."""
    image = 0.4 + 0.2 * torch.rand(2, 3, 11, 18, dtype=torch.float64)
    v = torch.randn_like(image)
    steps = torch.full((1, 3, 8, 8), 4.0, dtype=torch.float64)
    setting = (2, 2, True, lambda c: c)
    difference = reference.real_pipeline(image + 1e-3 * v, steps, *setting) - reference.real_pipeline(
        image, steps, *setting
    )
    for arithmetic in ("libjpeg", "real"):
        _, tangent = torch.func.jvp(lambda x: fdjpeg.jpeg(x, 90, arithmetic=arithmetic), (image,), (v,))  # noqa: B023
        torch.testing.assert_close(tangent, difference / 1e-3, rtol=1e-6, atol=1e-9)


@_settings([_SETTINGS[i] for i in (0, 3, 5, 7, 9, -2)])
def test_every_way_to_a_jacobian(settings: dict[str, Any]) -> None:
    """jacfwd maps ``jvp`` by vmap; the vectorized strategy has tangents that are batched, of images that are not."""
    image = torch.rand(1, 3, 4, dtype=torch.float64)

    def function(image: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, 60, **settings)

    wanted = torch.func.jacrev(function)(image)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(torch.func.jacfwd(function)(image), wanted, **close)
    jacobian = torch.autograd.functional.jacobian(function, image, strategy="forward-mode", vectorize=True)
    torch.testing.assert_close(jacobian, wanted, **close)
    images, tangents = image.expand(2, -1, -1, -1), torch.rand(2, *image.shape, dtype=torch.float64)
    mapped = torch.func.vmap(lambda x, v: torch.func.jvp(function, (x,), (v,))[1])(images, tangents)
    for one, v in zip(mapped, tangents, strict=True):
        torch.testing.assert_close(one, torch.func.jvp(function, (image,), (v,))[1])


_QUALITY = torch.tensor(60.0, dtype=torch.float64)

_MAPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": lambda x: fdjpeg.jpeg(x, 60),
    "surrogate": lambda x: fdjpeg.jpeg(x, 60, gradient="sine"),
    "real": lambda x: fdjpeg.jpeg(x, 60, arithmetic="real"),
    "soft": lambda x: fdjpeg.jpeg(x, 60, gradient="cubic", arithmetic="real", soft=True),
    "own": lambda x: fdjpeg.jpeg(x, 60, gradient=Own()),
    "quality": lambda x: fdjpeg.jpeg(x, _QUALITY + x.mean()),
    "map": lambda x: fdjpeg.jpeg(x, (_QUALITY + x.mean()).expand(1, 2, 2)),
    "soft map": lambda x: fdjpeg.jpeg(x, (_QUALITY + x.mean()).expand(1, 2, 2), gradient="cubic", arithmetic="real"),
    "rate": fdjpeg.rate,
    "blocks": lambda x: fdjpeg.block_dct(x[..., :8, :8]),
    "channels": fdjpeg.FeatureDistillation("code"),
    "learnable": fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(60)),
}


@pytest.mark.parametrize("function", _MAPPED.values(), ids=list(_MAPPED))
def test_vmap_within_forward_mode(function: Callable[[Tensor], Tensor]) -> None:
    """As in `torch.func.hessian`. torch counts a tuple's entries as arguments there (see `_tangents._Whole`)."""
    images = torch.rand(2, 1, 3, 11, 13, dtype=torch.float64)
    tangents = torch.randn_like(images)
    _, mapped = torch.func.jvp(torch.func.vmap(function), (images,), (tangents,))
    for image, tangent, one in zip(images, tangents, mapped, strict=True):
        torch.testing.assert_close(one, torch.func.jvp(function, (image,), (tangent,))[1])


# ---------------------------------------------------------------------------------------------------------------------
# Second derivatives


def _loss(settings: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    function = _compressed(settings)
    return lambda image, table: function(image, table).pow(3).sum()


@_settings([one for one in _TWICE if one["gradient"] not in ("cubic", "fourier", "softmax")])
def test_hessians_agree(settings: dict[str, Any]) -> None:
    """Forward over reverse and reverse over forward give what reverse over reverse gives."""
    loss = _loss(settings)
    inputs = (torch.rand(1, 3, 3, 4, dtype=torch.float64), _inputs()[1][:1])
    tangents = tuple(torch.randn_like(one) for one in inputs)
    gradients = torch.func.grad(loss, (0, 1))
    leaves = tuple(one.clone().requires_grad_() for one in inputs)
    first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    wanted = torch.autograd.grad(first, leaves, tangents)
    forward_over_reverse = torch.func.jvp(gradients, inputs, tangents)[1]
    reverse_over_forward = torch.func.grad(lambda *both: torch.func.jvp(loss, both, tangents)[1], (0, 1))(*inputs)
    rows = torch.func.hessian(loss, (0, 1))(*inputs)  # vmap within forward mode
    contracted = [sum((h * v).flatten(-v.ndim).sum(-1) for h, v in zip(row, tangents, strict=True)) for row in rows]
    for found in (forward_over_reverse, reverse_over_forward, contracted):
        for one, expected in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)


@_settings(_ONCE)
def test_other_second_derivatives_raise(settings: dict[str, Any]) -> None:
    loss, inputs = _loss(settings), _inputs()
    tangents = tuple(torch.randn_like(one) for one in inputs)
    once = pytest.raises(RuntimeError, match="cannot be differentiated again")
    with once:
        torch.func.jvp(torch.func.grad(loss, (0, 1)), inputs, tangents)
    with once:
        torch.func.grad(lambda *both: torch.func.jvp(loss, both, tangents)[1], (0, 1))(*inputs)
    with once:
        torch.func.jvp(lambda *both: torch.func.jvp(loss, both, tangents)[1], inputs, tangents)


@pytest.mark.parametrize("of", ["image", "quality", "both"])
def test_second_derivatives_by_block_in_real_numbers_raise(of: str) -> None:
    """They were zeros without a word."""
    image = torch.rand(1, 3, 16, 16, requires_grad=of != "quality")
    quality = torch.full((1, 2, 2), 60.0, requires_grad=of != "image")
    leaves = [one for one in (image, quality) if one.requires_grad]
    out = fdjpeg.jpeg(image, quality, gradient="sine", arithmetic="real")
    gradients = torch.autograd.grad(out.sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        sum(one.sum() for one in gradients).backward()


def test_second_derivatives_by_tables_raise_for_a_surrogate_of_ones_own() -> None:
    table = torch.full((8, 8), 9.0, requires_grad=True)
    tables = fdjpeg.QuantTables(table, table)
    out = fdjpeg.jpeg(torch.rand(1, 3, 16, 16), tables=tables, gradient=Own(), arithmetic="real")
    (gradient,) = torch.autograd.grad(out.sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.sum().backward()


# ---------------------------------------------------------------------------------------------------------------------
# Other inputs, other functions, other layers


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("shape", [(), (2,), (2, 2, 3)], ids=str)
def test_quality(shape: tuple[int, ...], arithmetic: str) -> None:
    image, quality = _inputs()[0].clamp(0, 1), 40 + 20 * torch.rand(shape, dtype=torch.float64)
    v, g = torch.randn_like(quality), torch.randn_like(image)

    def function(quality: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, quality, arithmetic=arithmetic)

    leaf = quality.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, g)
    wanted = (gradient * v).sum()
    for tangent in (torch.func.jvp(function, (quality,), (v,))[1], _dual(function, (quality,), (v,))):
        torch.testing.assert_close((tangent * g).sum(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic"])
@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
def test_images_by_block(gradient: str, arithmetic: str) -> None:
    image, quality = _inputs()[0].clamp(0, 1), torch.tensor([[[20, 90, 40], [80, 30, 60]]])
    v, g = torch.randn_like(image), torch.randn_like(image)

    def function(image: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, quality, gradient=gradient, arithmetic=arithmetic)

    leaf = image.clone().requires_grad_()
    (of_image,) = torch.autograd.grad(function(leaf), leaf, g)
    for tangent in (torch.func.jvp(function, (image,), (v,))[1], _dual(function, (image,), (v,))):
        torch.testing.assert_close((tangent * g).sum(), (of_image * v).sum(), rtol=1e-5, atol=1e-6)


_SAMPLES = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "block_dct": fdjpeg.block_dct,
    "block_idct": lambda x: fdjpeg.block_idct(x.reshape(1, 4, 3, 8, 8)),
    "rgb_to_ycbcr": fdjpeg.rgb_to_ycbcr,
    "ycbcr_to_rgb": fdjpeg.ycbcr_to_rgb,
    "quantize": lambda x: fdjpeg.quantize(20 * fdjpeg.block_dct(x), torch.full((8, 8), 2.0), "tanh"),
    "quantize_channels": lambda x: fdjpeg.stages.quantize_channels(x, torch.full((8, 8), 9.0)),
    "rate": fdjpeg.rate,
    "FeatureDistillation": fdjpeg.FeatureDistillation("code"),
    "Recompress": fdjpeg.augmentations.Recompress((75, 75), scale=0.5),
    "Noise": lambda x: fdjpeg.jpeg(
        x, gradient=Noise(torch.Generator().manual_seed(2)), arithmetic="real", soft=True, subsampling="4:4:4"
    ),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_functions_and_layers(name: str) -> None:
    function = _FUNCTIONS[name]
    leaf, v = _SAMPLES.clone().requires_grad_(), torch.randn_like(_SAMPLES)
    torch.manual_seed(3)
    out = function(leaf)
    g = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, leaf, g)
    wanted = (gradient * v).sum()
    torch.manual_seed(3)
    torch.testing.assert_close((_dual(function, (_SAMPLES,), (v,)) * g).sum(), wanted, rtol=1e-5, atol=1e-6)
    torch.manual_seed(3)
    _, tangent = torch.func.jvp(function, (_SAMPLES,), (v,))
    torch.testing.assert_close((tangent * g).sum(), wanted, rtol=1e-5, atol=1e-6)


def test_bounds_of_learned_steps_raise() -> None:
    """At a bound their derivative depends on the incoming gradient, so it is not a map of tangents."""
    layer = fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(50))
    parameters = dict(layer.named_parameters())
    tangents = {name: torch.ones_like(one) for name, one in parameters.items()}

    def function(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (torch.rand(1, 3, 8, 8),))

    with pytest.raises(RuntimeError, match="steps of LearnableJPEG have no forward-mode derivative"):
        torch.func.jvp(function, (parameters,), (tangents,))


def test_bytes_refuse_a_tangent_of_the_quality() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with forward_ad.dual_level(), pytest.raises(TypeError, match="image must be floating where quality"):
        fdjpeg.jpeg(image, forward_ad.make_dual(torch.tensor(50.0), torch.tensor(1.0)))


# ---------------------------------------------------------------------------------------------------------------------
# torch.compile


def test_compiled_code_gives_way_to_eager_torch() -> None:
    torch._dynamo.reset()
    image = torch.rand(1, 3, 9, 9)
    v = torch.randn_like(image)

    def function(image: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, 60)

    def inside(image: Tensor) -> Tensor:
        tangent: Tensor = torch.func.jvp(function, (image,), (v,))[1]
        return tangent

    wanted = inside(image)
    torch.testing.assert_close(torch.compile(inside, backend="aot_eager")(image), wanted)
    compiled = torch.compile(function, backend="aot_eager")
    torch.testing.assert_close(compiled(image), function(image))  # compiled before there is a tangent
    torch.testing.assert_close(_dual(compiled, (image,), (v,)), wanted)
    torch.testing.assert_close(torch.func.jvp(compiled, (image,), (v,))[1], wanted)
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        torch.compile(inside, backend="aot_eager", fullgraph=True)(image)


@pytest.mark.parametrize("size", [(8, 8), (16, 16)])
def test_a_jacobian_of_whole_blocks(size: tuple[int, int]) -> None:
    """Nothing is cut off where an image fills its blocks, and the vectorized strategy cannot batch an alias."""
    image = torch.rand(3, *size, dtype=torch.float64) if size == (8, 8) else torch.rand(1, *size, dtype=torch.float64)

    def function(image: Tensor) -> Tensor:
        return fdjpeg.jpeg(image, 60, arithmetic="real", gradient="sine", soft=True)[0, :2]

    jacobian = torch.autograd.functional.jacobian(function, image, strategy="forward-mode", vectorize=True)
    torch.testing.assert_close(jacobian, torch.func.jacrev(function)(image))
