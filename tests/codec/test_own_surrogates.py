"""A user's own soft surrogate at steps that want a gradient: every derivative is that of a built-in one it repeats.

The oracle is the sine, whose derivatives are an op's; second derivatives are finite differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import fdjpeg
from fdjpeg.surrogates import Sine


class Own:
    """The sine, of which kernels know nothing."""

    smooth = True

    def forward(self, c: Tensor) -> Tensor:
        return Sine().forward(c)

    def derivative(self, c: Tensor) -> Tensor:
        return Sine().derivative(c)


def _uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


#: What steps are made from for two images of two by three blocks, and the call's arguments then.
_GIVEN: dict[str, tuple[Tensor, Callable[[Tensor], dict[str, Any]]]] = {
    "tables": (3 + 20 * _uniform(8, 8), lambda table: {"tables": fdjpeg.QuantTables(table, 2 * table)}),
    "tables of each": (3 + 20 * _uniform(2, 8, 8), lambda table: {"tables": fdjpeg.QuantTables(table, 2 * table)}),
    "quality": (30 + 40 * _uniform(1)[0], lambda quality: {"quality": quality}),
    "qualities": (30 + 40 * _uniform(2), lambda quality: {"quality": quality}),
    "map": (30 + 40 * _uniform(2, 2, 3), lambda quality: {"quality": quality}),
}
_given = pytest.mark.parametrize("given", _GIVEN)


def _layer(given: str, surrogate: Any) -> Callable[[Tensor, Tensor], Tensor]:
    arguments = _GIVEN[given][1]
    return lambda image, of_steps: fdjpeg.jpeg(
        image, **arguments(of_steps), gradient=surrogate, arithmetic="real", soft=True
    )


def _inputs(given: str) -> tuple[Tensor, Tensor]:
    """Returns images that no clamp touches, and what their steps are made from."""
    return 0.3 + 0.4 * _uniform(2, 3, 11, 18), _GIVEN[given][0]


def _leaves(given: str) -> tuple[Tensor, Tensor]:
    image, of_steps = (one.clone().requires_grad_() for one in _inputs(given))
    return image, of_steps


def _assert_close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


class _Names(TorchDispatchMode):
    """The names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@_given
def test_gradients_are_those_of_the_built_in_one(given: str) -> None:
    gradients = []
    for surrogate in (Own(), Sine()):
        leaves = _leaves(given)
        out = _layer(given, surrogate)(*leaves)
        with _Names() as names:
            gradients.append((out.detach(), *torch.autograd.grad(out.pow(3).sum(), leaves)))
        wanted = 2 if isinstance(surrogate, Own) else 0
        assert names.called.count("scaled_backward") == wanted  # of the division and of the product
    _assert_close(*gradients)


@_given
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_narrow_types_have_gradients_of_their_own(given: str, dtype: torch.dtype) -> None:
    image, of_steps = _inputs(given)
    narrow = image.to(dtype).requires_grad_(), of_steps.float().requires_grad_()
    wide = tuple(one.detach().double().requires_grad_() for one in narrow)
    wanted, found = (torch.autograd.grad(_layer(given, Own())(*leaves).sum(), leaves) for leaves in (wide, narrow))
    for one, leaf, other in zip(found, narrow, wanted, strict=True):
        assert one.dtype == leaf.dtype
        assert (one - other).abs().max() <= 1e-3 * other.abs().max()


@_given
def test_gradcheck_twice(given: str) -> None:
    assert gradcheck(_layer(given, Own()), _leaves(given), fast_mode=True)
    assert gradgradcheck(_layer(given, Own()), _leaves(given), fast_mode=True, check_undefined_grad=False)


@_given
def test_functions_of_functions(given: str) -> None:
    """`torch.func.grad`, forward mode around it and within it, and all Jacobians."""

    def loss(surrogate: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda image, of_steps: _layer(given, surrogate)(image, of_steps).pow(3).sum()

    inputs = _inputs(given)
    tangents = tuple(torch.randn_like(one) for one in inputs)

    def derivatives(surrogate: Any) -> tuple[Tensor, ...]:
        gradients = torch.func.grad(loss(surrogate), (0, 1))
        _, tangent = torch.func.jvp(_layer(given, surrogate), inputs, tangents)
        first, second = torch.func.jvp(gradients, inputs, tangents)
        within = torch.func.grad(lambda *both: torch.func.jvp(loss(surrogate), both, tangents)[1], (0, 1))(*inputs)
        return tangent, *first, *second, *within

    _assert_close(derivatives(Own()), derivatives(Sine()))


@_given
def test_forward_mode_over_a_plain_gradient(given: str) -> None:
    """A gradient of which autograd records nothing still carries tangents."""
    inputs = _inputs(given)
    tangents = tuple(torch.randn_like(one) for one in inputs)
    found = []
    for surrogate in (Own(), Sine()):
        with torch.autograd.forward_ad.dual_level():
            leaves = [
                torch.autograd.forward_ad.make_dual(one.clone().requires_grad_(), v)
                for one, v in zip(inputs, tangents, strict=True)
            ]
            gradients = torch.autograd.grad(_layer(given, surrogate)(*leaves).pow(3).sum(), leaves)
            unpacked = [torch.autograd.forward_ad.unpack_dual(one) for one in gradients]
            found.append(tuple(part for one in unpacked for part in one))
    _assert_close(*found)


@_given
def test_batched_gradients_and_vmap(given: str) -> None:
    leaves, layer = _leaves(given), _layer(given, Own())
    out = layer(*leaves)
    grads = _uniform(3, *out.shape)
    batched = torch.autograd.grad(out, leaves, grads, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, leaves, grad, retain_graph=True) for grad in grads]
    wanted = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
    _assert_close(batched, wanted)
    by_vmap = torch.func.vmap(torch.func.vjp(layer, *_inputs(given))[1])(grads)
    _assert_close(by_vmap, wanted)


@_given
def test_compiled_in_one_graph(given: str) -> None:
    torch.compiler.reset()
    leaves, layer = _leaves(given), _layer(given, Own())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    _assert_close(*(torch.autograd.grad(function(*leaves).pow(3).sum(), leaves) for function in (compiled, layer)))
