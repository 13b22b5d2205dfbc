"""The registration of ops: what torch gets of each, which backend serves a device, and what serves the others."""

from __future__ import annotations

import runpy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fdjpeg import _library, ops, reference
from fdjpeg.ops import packed_steps, pieces, registration

_HAS_KERNEL = torch._C._dispatch_has_kernel_for_dispatch_key


def test_each_op_has_a_fallback_a_fake_kernel_and_a_map() -> None:
    """Of all ops in the namespace that take a tensor; the library's others only tell about themselves."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fdjpeg::")]
    taking = [name for name in names if "(Tensor" in str(torch._C._get_schema(name, ""))]
    assert sorted(name.removeprefix("fdjpeg::") for name in taking) == sorted(ops.SCHEMAS)
    for name in taking:
        for key in ("CompositeExplicitAutograd", "Meta", "FuncTorchBatched"):
            assert _HAS_KERNEL(name, key), (name, key)


class Registered:
    """Takes torch's place while an op is registered, and notes what it gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, compiled: bool = False) -> None:
        self.found: dict[str, Any] = {}
        monkeypatch.setattr(registration, "SCHEMAS", {})
        for name in ("_definitions", "_fallbacks"):
            monkeypatch.setattr(registration, name, SimpleNamespace(define=self.note("schema"), impl=self.note(name)))
        library = SimpleNamespace(impl=self.note("triton"))
        monkeypatch.setattr(registration, "_by_triton", {"cuda": library})
        monkeypatch.setattr(torch.library, "register_fake", self.note("fake"))
        monkeypatch.setattr(torch.library, "register_vmap", self.note("vmap"))
        self.asked: list[tuple[str, str]] = []
        monkeypatch.setattr(
            torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *key: (self.asked.append(key), compiled)[1]
        )

    def note(self, name: str) -> Any:
        return lambda *arguments, **options: self.found.update({name: (*arguments, *options.items())})


def fake(*_: Any) -> Any:
    return "fake"


def vmap(*arguments: Any) -> Any:
    return arguments


def test_an_op_is_registered_with_its_fallback_fake_kernel_and_map(monkeypatch: pytest.MonkeyPatch) -> None:
    torchs = Registered(monkeypatch)
    monkeypatch.setitem(_library.SERVED, "cuda", _library.Served("cuda", "it is there"))
    registration.register("block_dct", "(Tensor samples) -> Tensor", fake=fake, vmap=vmap)
    assert registration.SCHEMAS == {"block_dct": "(Tensor samples) -> Tensor"}
    assert "schema" not in torchs.found  # there is one of this name
    assert torchs.found["_fallbacks"] == ("block_dct", reference.block_dct)
    assert torchs.found["fake"] == ("fdjpeg::block_dct", fake)
    name, rule = torchs.found["vmap"]
    assert (name, rule("info", (0,), "x")) == (
        "fdjpeg::block_dct",
        (torch.ops.fdjpeg.block_dct, "info", (0,), "x"),
    )
    assert torchs.asked == [("fdjpeg::block_dct", "CUDA")]
    registration.register("block_dct", "(Tensor samples) -> Tensor", fake=fake, vmap=vmap, fallback=len)
    assert torchs.found["_fallbacks"] == ("block_dct", len)


def test_an_op_that_the_library_lacks_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    torchs = Registered(monkeypatch)
    monkeypatch.setattr(torch.ops, "fdjpeg", SimpleNamespace())
    monkeypatch.setattr(registration, "_definitions", SimpleNamespace(define=define_in(torchs)))
    registration.register("later", "(Tensor x) -> Tensor", fake=fake, vmap=vmap, fallback=len)
    assert torchs.found["schema"] == "later(Tensor x) -> Tensor"


def define_in(torchs: Registered) -> Any:
    """Returns a definition of an op, which is there from then on."""

    def define(schema: str) -> None:
        torchs.found["schema"] = schema
        setattr(torch.ops.fdjpeg, schema.partition("(")[0], len)

    return define


@pytest.mark.parametrize(
    ("backend", "compiled", "served"),
    [("triton", False, True), ("triton", True, True), ("cuda", False, True), ("cuda", True, False)],
)
def test_triton_serves_its_devices_and_what_cudas_library_lacks(
    backend: str, compiled: bool, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel of Triton's takes the place of a compiled one."""
    torchs = Registered(monkeypatch, compiled)
    monkeypatch.setitem(_library.SERVED, "cuda", _library.Served(backend, "it is there"))
    registration.register("block_dct", "(Tensor samples) -> Tensor", fake=fake, vmap=vmap)
    assert ("triton" in torchs.found) == served
    if served:
        name, function, option = torchs.found["triton"]
        assert (name, option) == ("block_dct", ("allow_override", True))
        assert callable(function)


@pytest.mark.parametrize(
    ("backend", "triton", "expected"),
    [("triton", True, True), ("cuda", True, True), ("cuda", False, False), ("reference", True, False)],
)
def test_triton_may_serve_where_it_is_chosen_or_helps_cuda(
    backend: str, triton: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.library, "Library", lambda *arguments: arguments)
    monkeypatch.setattr(_library, "HAS_TRITON", triton)
    monkeypatch.setattr(_library, "SERVED", {"cuda": _library.Served(backend, "it is there")})
    found = runpy.run_path(registration.__file__)
    assert found["_by_triton"] == ({"cuda": ("fdjpeg", "IMPL", "CUDA")} if expected else {})
    assert found["_fallbacks"] == ("fdjpeg", "IMPL", "CompositeExplicitAutograd")


class Calls(TorchDispatchMode):
    """Notes the names of this package's ops that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "fdjpeg":
            self.found.append(function._opname)
        return function(*args, **(kwargs or {}))


def fallbacks(module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Returns the fallbacks with which a module registers its ops, by their names."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(registration, "register", lambda name, _, **options: found.update({name: options}))
    runpy.run_path(module.__file__)
    return {name: options["fallback"] for name, options in found.items() if "fallback" in options}


def test_fallbacks_use_the_transforms_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """These have kernels where the rest of an op has none. The numbers are the reference's."""
    image, blocks = torch.rand(1, 1, 16, 16, dtype=torch.float64), torch.rand(1, 4, 8, 8, dtype=torch.float64)
    mask = torch.ones(1, 16, 16, dtype=torch.uint8)
    calls: dict[str, tuple[str, tuple[Any, ...]]] = {
        "image_blocks": ("block_dct", (image, 1, 1)),
        "image_blocks_backward": ("block_idct", (blocks, image, None, 1, 1)),
        "blocks_image": ("block_idct", (blocks, image, 1, 1, False)),
        "blocks_image_backward": ("block_dct", (image, mask, image, 1, 1, False)),
    }
    found = fallbacks(pieces, monkeypatch)
    assert sorted(found) == sorted(calls)
    for name, (transform, arguments) in calls.items():
        with Calls() as called:
            result = found[name](*arguments)
        assert called.found == [transform]
        expected = getattr(reference, name)(*arguments)
        for one, wanted in zip(*((x,) if isinstance(x, Tensor) else x for x in (result, expected)), strict=True):
            torch.testing.assert_close(one, wanted)


def test_many_steps_are_looked_up_where_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    function = fallbacks(packed_steps, monkeypatch)["standard_steps"]
    made: list[int] = []
    computed = reference.standard_steps
    monkeypatch.setattr(
        reference, "standard_steps", lambda of, *rest: (made.append(of.size(1)), computed(of, *rest))[1]
    )
    qualities = torch.full((1, 1000), 50)
    assert torch.equal(function(qualities, 600, True, False), computed(qualities, 600, True, False))
    assert made == [200]
