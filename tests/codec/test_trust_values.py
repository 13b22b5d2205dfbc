"""Values are read only where they exist, and judged as they act: tracers, modes, rounding, NaN, shapes of one."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.slow import slow_unless
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fdjpeg
from fdjpeg import LearnableJPEG, QuantTables
from fdjpeg._numbers import shown, values_can_be_read

IMAGE = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))

# ---------------------------------------------------------------------------------------------------------------------
# Tracers and modes

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "jpeg": lambda x: fdjpeg.jpeg(x, 50),
    "cubic": lambda x: fdjpeg.jpeg(x, 50, gradient="cubic"),
    "real": lambda x: fdjpeg.jpeg(x, 50, arithmetic="real"),
    "map": lambda x: fdjpeg.jpeg(x, torch.full((2, 2, 3), 50)),
    "flat tables": lambda x: fdjpeg.jpeg(x, tables=QuantTables.flat(9)),
    "rate": lambda x: fdjpeg.rate(x, 50),
    "encode": lambda x: fdjpeg.encode(x, 50).y,
    "check": lambda x: fdjpeg.check(x, 50) or x,
    "check of a tensor": lambda x: fdjpeg.check(x, x.new_tensor([50.0, 60.0])) or x,
    "blocks": lambda x: fdjpeg.StochasticJPEG()(x),
    "distillation": lambda x: fdjpeg.FeatureDistillation("code")(x),
    "learnable": lambda x: LearnableJPEG(QuantTables.standard(50))(x),
}


class LoggedOps(TorchDispatchMode):
    """Notes each op, as a debugger or a tracer does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class LoggedFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


#: Tracing thousands of operations with symbolic sizes takes a minute.
MODES = itertools.product(CALLS, ("real", "fake", "symbolic"))


@pytest.mark.parametrize("traced", slow_unless(lambda traced: traced != ("rate", "symbolic"), MODES), ids="-".join)
def test_make_fx(traced: tuple[str, str]) -> None:
    name, mode = traced
    call = CALLS[name]
    bright = 2 * IMAGE  # which would draw a warning
    torch.manual_seed(0)
    graph = make_fx(call, tracing_mode=mode)(bright)
    if name == "blocks":
        torch.manual_seed(0)
        out = graph(IMAGE)
        torch.manual_seed(0)
        assert torch.equal(out, call(IMAGE))
    else:
        assert torch.equal(graph(IMAGE), call(IMAGE))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_fake_tensors(call: Callable[[Tensor], Any]) -> None:
    bright = 2 * IMAGE
    with FakeTensorMode() as mode:
        out = call(mode.from_tensor(bright))
    assert out.shape[0] == 2


@pytest.mark.parametrize("mode", [LoggedOps, LoggedFunctions, lambda: FlopCounterMode(display=False)])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_other_modes_see_no_value_read(call: Callable[[Tensor], Any], mode: Any) -> None:
    with warnings.catch_warnings(), mode() as active:
        warnings.simplefilter("error", UserWarning)
        call(2 * IMAGE)
    reads = {"aten._local_scalar_dense.default", "aten.is_nonzero.default", "item", "__bool__", "tolist"}
    assert not reads & set(getattr(active, "names", []))


@pytest.mark.parametrize("name", ["jpeg", "cubic", "check", "check of a tensor"])
def test_transformations(name: str) -> None:
    call = CALLS[name]
    bright = 2 * IMAGE
    assert torch.vmap(lambda x: call(x))(torch.stack([bright, bright])).shape == (2, *IMAGE.shape)
    torch.func.grad(lambda x: call(x).sum())(bright)
    # The image itself is not wrapped here, but somebody is mapping.
    torch.vmap(lambda factor: factor * call(bright).sum())(torch.ones(2))


def test_meta_tensors_are_checked_by_shape_alone() -> None:
    fdjpeg.check(IMAGE.to("meta"), torch.empty(2, device="meta"))
    fdjpeg.check(IMAGE.to("meta"), tables=QuantTables(*torch.empty(2, 8, 8, device="meta")))
    with pytest.raises(ValueError, match="quality must be a number"):
        fdjpeg.check(IMAGE.to("meta"), torch.empty(3, device="meta"))


def test_traced_by_jit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes
        traced = torch.jit.trace(lambda x: fdjpeg.jpeg(x, 50), 2 * IMAGE, check_trace=False)
    assert torch.equal(traced(IMAGE), fdjpeg.jpeg(IMAGE, 50))


def test_outside_of_all_that_values_are_read() -> None:
    assert values_can_be_read(IMAGE, torch.nn.Parameter(IMAGE))
    with torch.device("cpu"), torch.no_grad(), torch.inference_mode(), torch.autocast("cpu"):
        assert values_can_be_read(IMAGE)
        with pytest.warns(UserWarning, match="got values up to"):
            fdjpeg.jpeg(2 * IMAGE)


# ---------------------------------------------------------------------------------------------------------------------
# Rounding errors


def test_an_excess_that_rounds_to_no_other_byte_passes() -> None:
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    white = torch.cat([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)], dim=-1)
    there = (white - mean[:, None, None]) / deviation[:, None, None]
    again = there * deviation[:, None, None] + mean[:, None, None]
    for image in (again, torch.full((1, 2, 2), 1.0000001), torch.full((1, 2, 2), -1e-7), torch.full((1, 1, 1), 1.0019)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fdjpeg.check(image)
            fdjpeg.jpeg(image)
    half = torch.tensor(1.0, dtype=torch.bfloat16).nextafter(torch.tensor(2.0, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=re.escape("image must lie in [0, 1], got values from 1.00781 to 1.00781")):
        fdjpeg.check(half.expand(1, 8, 8))


@pytest.mark.parametrize("over", [1.00197, 1.002, 256 / 255])
def test_an_excess_that_would_be_another_byte_is_shown(over: float) -> None:
    image = torch.zeros(1, 8, 8, dtype=torch.float64)
    image[0, 0, 0] = over
    with pytest.raises(ValueError, match=re.escape(f"image must lie in [0, 1], got values from 0 to {over:g}")):
        fdjpeg.check(image)
    with pytest.warns(UserWarning, match=re.escape(f"got values up to {over:g}")):
        fdjpeg.jpeg(image)
    with pytest.raises(ValueError, match=re.escape(f"got values from {1 - over:g} to 0")):
        fdjpeg.check(torch.where(image > 0, 1 - over, 0.0))


def refusal(*arguments: Any, **named: Any) -> str | None:
    """Returns the message of `fdjpeg.check`, or None if the arguments pass."""
    try:
        fdjpeg.check(*arguments, **named)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_every_byte_as_a_sample_passes(dtype: torch.dtype) -> None:
    assert refusal((torch.arange(256).reshape(1, 16, 16) / 255).to(dtype)) is None


def test_a_quality_beyond_its_range_shows_by_how_much() -> None:
    for value, text in ((100.00001, "100.000008"), (0.9999999, "0.999999881"), (101.0, "101")):
        with pytest.raises(ValueError, match=re.escape(f"quality must be in 1…100, got {text}")):
            fdjpeg.check(IMAGE, torch.tensor([50.0, value]))
    with pytest.raises(ValueError, match=re.escape("quality must be in 1…100, got 100.00000000000001")):
        fdjpeg.check(IMAGE, torch.tensor(100 + 2e-14, dtype=torch.float64))


@pytest.mark.parametrize("step", [255.00002, 254.9, 255.49, 0.999999, 0.51])
def test_a_step_that_rounds_to_one_of_a_file_passes(step: float) -> None:
    table = torch.full((8, 8), step)
    tables = QuantTables(table, table)
    fdjpeg.check(IMAGE, tables=tables)
    assert QuantTables.from_pillow(tables.to_pillow()) == tables.integer()


def test_learned_steps_at_their_bound_pass() -> None:
    layer = LearnableJPEG(QuantTables.flat(255))
    with torch.no_grad():
        layer.log_steps[0].fill_(100.0)
    assert refusal(IMAGE, tables=layer.steps()) is None
    assert max(layer.tables.to_pillow()[0]) == 255


def test_numbers_are_shown_with_the_digits_that_matter() -> None:
    def right(value: float) -> bool:
        return 0 <= value <= 1

    wanted = {0.5: "0.5", 1.5: "1.5", 1.0000001: "1.0000001", 1 + 2**-50: repr(1 + 2**-50), -1e-9: "-1e-09"}
    assert {value: shown(value, right) for value in wanted} == wanted
    assert shown(math.nan, right) == "nan"


# ---------------------------------------------------------------------------------------------------------------------
# NaN is named where values are checked


def test_nan_is_named() -> None:
    nan = math.nan
    table = torch.ones(8, 8)
    table[3, 4] = nan
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: fdjpeg.check(torch.full((1, 8, 8), nan)), "image must lie in [0, 1], got values from nan to nan"),
        (lambda: fdjpeg.check(IMAGE, nan), "quality must be in 1…100, got nan"),
        (lambda: fdjpeg.check(IMAGE, torch.tensor([50.0, nan])), "quality must be in 1…100, got nan"),
        (lambda: fdjpeg.check(IMAGE, torch.full((2, 2, 3), nan)), "quality must be in 1…100, got nan"),
        (lambda: fdjpeg.check(IMAGE, tables=QuantTables(table, table)), "tables.y[3, 4] must be in 1…255, got nan"),
        (lambda: LearnableJPEG(QuantTables(table, table)), "tables.y[3, 4] must be in 1…255, got nan"),
        (lambda: QuantTables(table, table).to_pillow(), "tables.y[3, 4] must be in 1…255, got nan"),
        (lambda: fdjpeg.jpeg(IMAGE, np.float32(nan)), "quality must be in 1…100, got np.float32(nan)"),
        (lambda: fdjpeg.surrogates.Tanh(nan), "alpha must be a positive finite number, got nan"),
        (lambda: fdjpeg.surrogates.Cubic(floor=nan), "floor must be a finite number of at least 0, got nan"),
        (lambda: QuantTables.flat(nan), "step must be above 0 and finite, got nan"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


# ---------------------------------------------------------------------------------------------------------------------
# Shapes of one


@pytest.mark.parametrize("arithmetic", ["libjpeg", "real"])
@pytest.mark.parametrize("leading", [(2,), (1,), (0,), (2, 3), ()], ids=str)
def test_one_quality_in_any_shape_serves_all_images(leading: tuple[int, ...], arithmetic: str) -> None:
    images = torch.rand(*leading, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    expected = fdjpeg.jpeg(images, 50, arithmetic=arithmetic)
    one = QuantTables(*(table[None] for table in (QuantTables.standard(50).y, QuantTables.standard(50).cb)))
    for arguments in (
        {"quality": torch.tensor(50)},
        {"quality": torch.tensor([50])},
        {"quality": torch.full((1, 2, 3), 50)},
        {"tables": QuantTables.standard(torch.tensor([50]))},
        {"tables": one},
        {"tables": QuantTables(one.y, QuantTables.standard(50).cb)},
    ):
        # Maps in real numbers are served by the reference pieces, whose sums have another order.
        tolerance = 1e-5 if arithmetic == "real" else 0.0
        layer = fdjpeg.JPEG(arithmetic=arithmetic, **arguments)
        for out in (fdjpeg.jpeg(images, arithmetic=arithmetic, **arguments), layer(images)):
            torch.testing.assert_close(out, expected, rtol=0, atol=tolerance)
        fdjpeg.check(images, **arguments)


def test_one_quality_serves_all_images_of_encode_and_rate() -> None:
    one = torch.tensor([50.0], requires_grad=True)
    made, expected = fdjpeg.encode(IMAGE, one), fdjpeg.encode(IMAGE, 50)
    assert torch.equal(made.y, expected.y)
    assert torch.equal(fdjpeg.decode(made), fdjpeg.decode(expected))
    assert made[1].tables == expected.tables
    torch.testing.assert_close(fdjpeg.rate(IMAGE, one), fdjpeg.rate(IMAGE, 50))
    with pytest.raises(ValueError, match="got shape"):
        fdjpeg.encode(IMAGE, torch.full((1, 2, 3), 50))


@pytest.mark.parametrize("shape", [(), (1,), (1, 2, 3)], ids=str)
def test_its_gradient_is_the_sum_over_the_images(shape: tuple[int, ...]) -> None:
    one = torch.full(shape, 50.0, dtype=torch.float64, requires_grad=True)
    images = IMAGE.double()
    fdjpeg.jpeg(images, one).square().sum().backward()
    each = torch.full((2, *shape[1:]), 50.0, dtype=torch.float64, requires_grad=True)
    fdjpeg.jpeg(images, each).square().sum().backward()
    assert one.grad is not None
    assert each.grad is not None
    torch.testing.assert_close(one.grad.reshape(shape[1:]), each.grad.sum(0))


def test_tables_of_one_and_of_many_go_together() -> None:
    many, one = torch.tensor([5, 9]).reshape(2, 1, 1).expand(2, 8, 8), torch.full((1, 8, 8), 7)
    for tables in (QuantTables(many, one), QuantTables(many, one, one), QuantTables(many, one[0])):
        assert tables.batch_size == len(tables) == 2
        assert tables == QuantTables(many, one.expand(2, 8, 8))
        assert tables[1] == QuantTables(many[1], one[0])
    assert QuantTables(one, many).batch_size == 2
    expected = fdjpeg.jpeg(IMAGE, tables=QuantTables(many, one[0]))
    assert torch.equal(fdjpeg.jpeg(IMAGE, tables=QuantTables(many, one)), expected)
    with pytest.raises(ValueError, match="tables must be for the same number of images, got y: 2, cr: 3"):
        QuantTables(many, one, one.expand(3, 8, 8))


# ---------------------------------------------------------------------------------------------------------------------
# Tables and qualities for another number of images

FOUR = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("count", [0, 2, 3, 5, 8])
@pytest.mark.parametrize("name", ["jpeg", "encode", "rate", "check", "real", "JPEG", "LearnableJPEG"])
def test_too_few_and_too_many_are_refused_by_the_check_itself(name: str, count: int) -> None:
    """By a ValueError that names both numbers, and not by an op."""
    tables = QuantTables.standard(torch.full((count,), 50))
    calls: dict[str, Callable[..., Any]] = {
        "real": lambda image, **k: fdjpeg.jpeg(image, arithmetic="real", **k),
        "JPEG": lambda image, **k: fdjpeg.JPEG(**k)(image),
        "LearnableJPEG": lambda image, tables: LearnableJPEG(tables)(image),
    }
    call = calls.get(name) or getattr(fdjpeg, name)
    wanted = f"tables must be (8, 8) or one for each of the 4 images, got {count}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        call(FOUR, tables=tables)
    if name != "LearnableJPEG":
        wanted = f"quality must be a number, a 0-dim tensor or one of shape (1,) or (4,), got shape ({count},)"
        with pytest.raises(ValueError, match=re.escape(wanted)):
            call(FOUR, quality=torch.full((count,), 50))


@pytest.mark.parametrize("count", [0, 2, 3, 5])
def test_so_are_those_of_coefficients(count: int) -> None:
    made = fdjpeg.encode(FOUR)
    tables = QuantTables.standard(torch.full((count,), 50))
    with pytest.raises(ValueError, match=re.escape(f"one for each of the 4 images, got {count}")):
        fdjpeg.Coefficients(made.y, made.cb, made.cr, tables, made.size, made.subsampling)


@pytest.mark.parametrize("shape", [(3, 2, 3), (2, 2, 3), (4, 2, 2), (4, 1, 3), (1, 3, 3), (0, 2, 3)], ids=str)
def test_maps_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = f"quality, a map, must have a value for each block, (4, 2, 3), got shape {shape}"
    for call in (fdjpeg.jpeg, fdjpeg.check):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(FOUR, torch.full(shape, 50))


def test_a_map_is_for_one_image_or_for_each() -> None:
    """Not for as many as there are rows of blocks."""
    with pytest.raises(ValueError, match=r"^quality, a map, must have a value for each block, \(3, 2, 3\), got shape"):
        fdjpeg.jpeg(torch.rand(3, 3, 16, 24), torch.full((2, 2, 3), 50))


def test_values_of_meta_tensors_and_subclasses_cannot_be_read() -> None:
    class Own(Tensor):
        """A user's kind of tensor."""

    assert values_can_be_read(torch.zeros(2), torch.nn.Parameter(torch.zeros(2)))
    assert not values_can_be_read(torch.zeros(2), torch.zeros(2, device="meta"))
    assert not values_can_be_read(torch.zeros(2).as_subclass(Own))


def test_numbers_are_shown_with_six_digits_where_that_is_enough() -> None:
    assert shown(0.123456789, lambda value: value < 1) == "0.123457"
    assert shown(1.00000012, lambda value: value <= 1) == "1.00000012"
    assert shown(1 + 1e-12, lambda value: value <= 1) == "1.000000000001"
