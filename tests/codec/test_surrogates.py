"""Each surrogate: its formula at points computed by hand, its derivative against autograd, its errors."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import fdjpeg
from fdjpeg import _slopes, ops, reference, surrogates
from fdjpeg.surrogates import (
    Cubic,
    Fourier,
    Identity,
    Noise,
    Sine,
    Softmax,
    StraightThrough,
    Surrogate,
    Tanh,
    Zero,
    hard_rounding,
    resolve,
)

NAMES = {
    "straight-through": StraightThrough,
    "identity": Identity,
    "cubic": Cubic,
    "sine": Sine,
    "fourier": Fourier,
    "tanh": Tanh,
    "softmax": Softmax,
    "zero": Zero,
}
SMOOTH = [
    Cubic(),
    Sine(),
    Fourier(),
    Fourier(1),
    Fourier(4),
    Tanh(),
    Tanh(0.3),
    Tanh(20),
    Softmax(),
    Softmax(0.7),
    Softmax(30),
]
HARD = [StraightThrough(), Identity(), Zero()]
every_smooth = pytest.mark.parametrize("surrogate", SMOOTH, ids=repr)


def value(function: Any, c: float) -> float:
    return float(function(torch.tensor(c, dtype=torch.float64)))


def grid() -> Tensor:
    """Returns coefficients in -3…3, none of them on a tie or on a whole number."""
    return torch.linspace(-3, 3, 601, dtype=torch.float64) + 0.00371


def softmax_mean(c: float, alpha: float, wholes: range) -> float:
    weights = {j: math.exp(-alpha * (c - j) ** 2) for j in wholes}
    return sum(j * w for j, w in weights.items()) / sum(weights.values())


@pytest.mark.parametrize(
    ("surrogate", "c", "forward", "derivative"),
    [
        (StraightThrough(), 1.3, 1, 1),
        (Identity(), -1.7, -2, 1),
        (Zero(), 1.3, 1, 0),
        (Cubic(), 2.0, 2, 0),
        (Cubic(), 2.25, 2 + 1 / 64, 3 / 16),
        (Cubic(), -1.75, -2 + 1 / 64, 3 / 16),
        (Sine(), 3.0, 3, 0),
        (Sine(), 0.25, 0.25 - 1 / (2 * math.pi), 1),
        (Sine(), -1.5, -1.5, 2),
        (Fourier(1), 0.25, 0.25 - 1 / math.pi, 1),
        (Fourier(2), 0.25, 0.25 - 1 / math.pi, -1),
        (Fourier(3), 0.25, 0.25 - 2 / (3 * math.pi), -1),
        (Fourier(2), 7.0, 7, 1),
        (Fourier(3), 7.0, 7, -1),
        (Fourier(10), 0.5, 0.5, 21),
        (Tanh(4), 5.0, 5, 2 * (1 - math.tanh(2) ** 2) / math.tanh(2)),
        (Tanh(4), -0.5, -0.5, 2 / math.tanh(2)),
        (Tanh(2), 0.75, 0.5 + 0.5 * math.tanh(0.5) / math.tanh(1), (1 - math.tanh(0.5) ** 2) / math.tanh(1)),
        (Softmax(4), 2.0, 2, 8 * (2 * math.exp(-4) + 8 * math.exp(-16)) / (1 + 2 * math.exp(-4) + 2 * math.exp(-16))),
        (Softmax(1.5), -6.8, softmax_mean(-6.8, 1.5, range(-9, -4)), None),
        (Softmax(0.5), 3.4, softmax_mean(3.4, 0.5, range(1, 6)), None),
        (Noise(), 1.3, None, 1),
    ],
    ids=repr,
)
def test_values(surrogate: Surrogate, c: float, forward: float | None, derivative: float | None) -> None:
    if forward is not None:
        assert value(surrogate.forward, c) == pytest.approx(forward, rel=1e-12, abs=1e-12)
    if derivative is not None:
        assert value(surrogate.derivative, c) == pytest.approx(derivative, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("surrogate", HARD, ids=repr)
def test_hard_ones_round_half_to_even(surrogate: Surrogate) -> None:
    ties = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert surrogate.forward(ties).tolist() == [-2, -2, 0, 0, 2, 2]


@every_smooth
def test_derivative_is_that_of_forward(surrogate: Surrogate) -> None:
    c = grid().requires_grad_()
    (slope,) = torch.autograd.grad(surrogate.forward(c).sum(), c)
    torch.testing.assert_close(surrogate.derivative(c.detach()), slope, rtol=1e-9, atol=1e-9)


@every_smooth
def test_forward_is_twice_differentiable(surrogate: Surrogate) -> None:
    c = (grid()[::60]).requires_grad_()
    assert torch.autograd.gradcheck(surrogate.forward, c)
    assert torch.autograd.gradgradcheck(surrogate.forward, c)


@every_smooth
def test_forward_repeats_at_every_step_and_is_odd(surrogate: Surrogate) -> None:
    c = grid()
    torch.testing.assert_close(surrogate.forward(c + 5), surrogate.forward(c) + 5)
    torch.testing.assert_close(surrogate.forward(-c), -surrogate.forward(c))
    torch.testing.assert_close(surrogate.derivative(c + 5), surrogate.derivative(c))


@pytest.mark.parametrize("surrogate", [Tanh(40), Softmax(40), Fourier(400)], ids=repr)
def test_limits_are_rounding(surrogate: Surrogate) -> None:
    c = torch.tensor([-1.7, -0.2, 0.3, 0.8, 4.4], dtype=torch.float64)
    torch.testing.assert_close(surrogate.forward(c), c.round(), rtol=0, atol=5e-3)


@pytest.mark.parametrize("surrogate", [*SMOOTH, *HARD, Noise()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_dtypes_and_inputs_kept(surrogate: Surrogate, dtype: torch.dtype) -> None:
    for shape in [(), (0,), (2, 3, 8, 8)]:
        c = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
        kept = c.clone()
        for out in (surrogate.forward(c), surrogate.derivative(c)):
            assert out.shape == c.shape
            assert out.dtype == dtype
        assert torch.equal(c, kept)


@every_smooth
def test_large_coefficients_stay_accurate_in_float32(surrogate: Surrogate) -> None:
    c = torch.tensor([1000.25, -1023.75, 2047.5 - 0.125])
    torch.testing.assert_close(surrogate.derivative(c).double(), surrogate.derivative(c.double()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [Cubic, Sine, Fourier, Tanh, Softmax])
def test_floor_lifts_the_derivative_and_leaves_forward(kind: Any) -> None:
    c = grid()
    plain, floored = kind(), kind(floor=0.1)
    expected = torch.maximum(plain.derivative(c), torch.tensor(0.1, dtype=torch.float64))
    assert torch.equal(floored.derivative(c), expected)
    assert torch.equal(floored.forward(c), plain.forward(c))
    assert not torch.equal(kind(floor=0.5).derivative(c), plain.derivative(c))


def test_noise() -> None:
    c = grid()
    first, again = (Noise(torch.Generator().manual_seed(3)).forward(c) for _ in range(2))
    assert torch.equal(first, again)
    generator = torch.Generator().manual_seed(3)
    noise = Noise(generator)
    assert torch.equal(noise.forward(c), first)
    assert not torch.equal(noise.forward(c), first)
    spread = Noise(generator).forward(torch.zeros(100_000, dtype=torch.float64))
    assert spread.min() >= -0.5
    assert spread.max() < 0.5
    assert abs(spread.mean()) < 0.01
    assert spread.var().item() == pytest.approx(1 / 12, rel=0.02)


def test_which_may_be_soft() -> None:
    assert all(surrogate.smooth for surrogate in [*SMOOTH, Noise()])
    assert not any(surrogate.smooth for surrogate in HARD)
    assert Noise().only_soft
    assert not any(getattr(surrogate, "only_soft", False) for surrogate in [*SMOOTH, *HARD])


@pytest.mark.parametrize("surrogate", [*SMOOTH, *HARD, Cubic(floor=0.2)], ids=repr)
def test_frozen_comparable_and_picklable(surrogate: Any) -> None:
    with pytest.raises(AttributeError):
        surrogate.anything = 1
    copied = pickle.loads(pickle.dumps(surrogate))
    assert copied == surrogate
    assert hash(copied) == hash(surrogate)
    assert type(surrogate).__name__ in repr(surrogate)


def test_resolve_names() -> None:
    for name, kind in NAMES.items():
        surrogate = resolve(name)
        assert type(surrogate) is kind
        assert surrogate == kind()
        assert surrogate.name == name


def test_resolve_objects() -> None:
    class Own:
        def forward(self, c: Tensor) -> Tensor:
            return c

        def derivative(self, c: Tensor) -> Tensor:
            return torch.ones_like(c)

    for surrogate in (Own(), Tanh(2), Noise()):
        assert resolve(surrogate) is surrogate


def test_resolve_unknown_names() -> None:
    for name in ("Cubic", "ste", "", "noise"):
        with pytest.raises(
            ValueError, match="gradient must be one of 'straight-through', 'identity', 'cubic'"
        ) as error:
            resolve(name)
        assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    "gradient",
    [None, 3, torch.round, [Cubic()], torch.nn.Identity()],
    ids=["None", "number", "function", "list", "module"],
)
def test_resolve_other_things(gradient: Any) -> None:
    with pytest.raises(TypeError, match=r"gradient must be .* methods forward\(c\) and derivative\(c\); got"):
        resolve(gradient)


def test_resolve_says_that_a_class_is_no_object() -> None:
    with pytest.raises(TypeError, match="got the class Cubic, of which an object must be made first"):
        resolve(Cubic)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        (Cubic, {"floor": -0.1}, ValueError, "floor must be a finite number of at least 0, got -0.1"),
        (Sine, {"floor": math.nan}, ValueError, "floor must be .* got nan"),
        (Tanh, {"floor": "low"}, TypeError, "floor must be .* got 'low'"),
        (Tanh, {"alpha": 0}, ValueError, "alpha must be a positive finite number, got 0"),
        (Tanh, {"alpha": math.inf}, ValueError, "alpha must be .* got inf"),
        (Softmax, {"alpha": -2.0}, ValueError, "alpha must be .* got -2.0"),
        (Softmax, {"alpha": None}, TypeError, "alpha must be .* got None"),
        (Softmax, {"alpha": True}, TypeError, "alpha must be .* got True"),
        (Fourier, {"terms": 0}, ValueError, "terms must be at least 1, got 0"),
        (Fourier, {"terms": 2.0}, TypeError, "terms must be an int, got 2.0"),
        (Noise, {"generator": 42}, TypeError, "generator must be a torch.Generator or None, got 42"),
    ],
)
def test_bad_parameters(kind: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kind(**arguments)


@pytest.mark.parametrize("surrogate", [Cubic(), Tanh(), StraightThrough(), Zero()], ids=repr)
def test_hard_rounding(surrogate: Surrogate) -> None:
    c = grid().requires_grad_()
    out = hard_rounding(surrogate)(c)
    assert torch.equal(out, c.round())
    (slope,) = torch.autograd.grad(out.sum(), c)
    assert torch.equal(slope, surrogate.derivative(c.detach()))


def test_everything_public_is_documented() -> None:
    for name in surrogates.__all__:
        assert getattr(surrogates, name).__doc__


@pytest.mark.parametrize("name", ["cubic", "sine", "fourier", "tanh", "softmax", "zero"])
@pytest.mark.parametrize("sampling", [(1, 1), (2, 2), (4, 1)])
def test_surrogate_op_equals_autograd_through_the_explicit_formula(name: str, sampling: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(21)
    image = torch.rand(2, 3, 21, 35, generator=generator, dtype=torch.float64).requires_grad_()
    tables = (torch.rand(2, 3, 8, 8, generator=generator) * 40 + 2).requires_grad_()
    grad = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    surrogate = surrogates.resolve(name)
    slopes = _slopes.slope_table(surrogate, image.device)
    out, _ = ops.round_trip(image, tables, ops.Setting(0.0, *sampling, True), slopes)
    wanted = reference.exact_with_surrogate(image, tables, *sampling, True, surrogate)
    assert torch.equal(out, wanted)
    got = torch.autograd.grad(out, (image, tables), grad)
    explicit = torch.autograd.grad(wanted, (image, tables), grad)
    for a, b in zip(got, explicit, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("name", ["cubic", "sine", "fourier", "tanh", "softmax", "zero"])
def test_interpolated_slopes_equal_the_derivative(name: str) -> None:
    surrogate = surrogates.resolve(name)
    slopes = _slopes.slope_table(surrogate, torch.device("cpu"))
    assert slopes is not None
    c = torch.rand(10_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 60 - 30
    wanted = surrogate.derivative(c)
    error = (_slopes.interpolate_slopes(slopes, c - c.round()) - wanted).abs().max()
    assert error <= 1e-5 * max(1.0, wanted.abs().max().item())


def test_a_surrogate_that_is_not_periodic_has_no_slope_table() -> None:
    assert _slopes.slope_table(surrogates.StraightThrough(), torch.device("cpu")) is None


def test_surrogates_under_the_exact_forward_are_once_differentiable() -> None:
    class Own:
        def forward(self, c: torch.Tensor) -> torch.Tensor:
            return c.round()

        def derivative(self, c: torch.Tensor) -> torch.Tensor:
            return 1 / (1 + c.abs())

    for gradient in ("cubic", Own()):
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss = fdjpeg.jpeg(image, 50, gradient=gradient).square().sum()
        (first,) = torch.autograd.grad(loss, image, create_graph=True)
        assert first.isfinite().all()
        with pytest.raises(RuntimeError, match="cannot be differentiated again"):
            torch.autograd.grad(first.sum(), image)


@pytest.mark.parametrize("alpha", [1e-3, 1e3])
@pytest.mark.parametrize("kind", [Tanh, Softmax])
def test_the_ends_of_alpha_give_numbers(kind: type[Tanh | Softmax], alpha: float) -> None:
    surrogate = kind(alpha)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for settings in ({}, {"arithmetic": "real"}, {"arithmetic": "real", "soft": True}):
        points = image.clone().requires_grad_()
        out = fdjpeg.jpeg(points, 50, gradient=surrogate, **settings)
        (gradient,) = torch.autograd.grad(out.sum(), points)
        assert not out.isnan().any()
        assert not gradient.isnan().any()
    c = torch.linspace(-3, 3, 201)
    for dtype in (torch.float32, torch.float64):
        assert not surrogate.forward(c.to(dtype)).isnan().any()
        assert not surrogate.derivative(c.to(dtype)).isnan().any()
