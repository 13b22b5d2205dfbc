"""How fdjpeg looks to the tracers that know neither its ops nor its autograd functions: torch.fx and TorchScript."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn
from torch.fx import Proxy

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Layer = TypeVar("_Layer", bound=nn.Module)


def traced_function(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a function of a module: `torch.fx.symbolic_trace` sees its call as one node."""

    @functools.wraps(function)
    def decorated(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Proxy):
                return argument.tracer.create_proxy("call_function", decorated, args, kwargs)
        return function(*args, **kwargs)

    return decorated


def traced_layer(layer: type[_Layer]) -> type[_Layer]:
    """Decorates a layer of one image: `torch.fx.symbolic_trace` sees its call as one node, and scripting is refused.

    The node calls the layer that was traced, so a traced model computes what the model computes, draws included.
    """
    forward: Callable[..., Any] = layer.forward

    @functools.wraps(forward)
    def decorated(self: nn.Module, image: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(image, Proxy):
            if getattr(image.tracer, "root", None) is self:  # which has no name in itself
                return image.tracer.create_proxy("call_function", _alone(self, forward), (image,), {})
            return image.tracer.create_proxy("call_function", call_layer, (self, image, *args), kwargs)
        return forward(self, image, *args, **kwargs)

    layer.forward = decorated
    layer.__prepare_scriptable__ = _refuse_scripting  # type: ignore[attr-defined]
    return layer


def _alone(layer: nn.Module, forward: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """Returns the function of an image that a layer is: the target of its node where the layer itself is traced."""

    def call_traced_layer(image: Tensor) -> Any:
        return forward(layer, image)

    return call_traced_layer


def call_layer(layer: nn.Module, image: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer: the target of its node."""
    return layer(image, *args, **kwargs)


def _refuse_scripting(layer: nn.Module) -> None:
    """What `torch.jit.script` calls first, for a layer and for each layer in a model."""
    raise NotImplementedError(
        f"torch.jit.script cannot compile {type(layer).__name__}: use torch.jit.trace, torch.export or torch.compile"
    )
