"""Quantization tables as an object: their arguments, their place in PyTorch, and their checks."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from support.table_cases import random_table, three_tables, two_tables
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree

from fdjpeg.tables import QuantTables, check_tables


class TestConstructor:
    def test_two_tables(self) -> None:
        luma, chroma = random_table(1), random_table(2)
        tables = QuantTables(luma, chroma)
        assert tables.y is tables.luma is luma
        assert tables.cb is tables.cr is tables.chroma is chroma
        assert tables.batch_size is None
        assert tables.stacked().shape == (1, 3, 8, 8)

    def test_three_tables_keep_their_order_and_orientation(self) -> None:
        y, cb, cr = (random_table(seed) for seed in (1, 2, 3))
        assert torch.equal(QuantTables(y, cb, cr).stacked(), torch.stack([y, cb, cr])[None].float())

    def test_lists_and_arrays_are_copied(self) -> None:
        array = np.full((8, 8), 7, dtype=np.uint16)
        tables = QuantTables(array, [[9] * 8] * 8)
        array[:] = 1
        assert tables.y.unique().tolist() == [7]
        assert tables.cb.unique().tolist() == [9]
        assert tables.stacked().dtype == torch.float32

    def test_one_table_may_be_shared_by_a_batch(self) -> None:
        tables = QuantTables(torch.ones(3, 8, 8), torch.full((8, 8), 2))
        assert tables.batch_size == len(tables) == 3
        assert tables.stacked()[:, 0].unique().tolist() == [1]
        assert tables.stacked()[:, 1:].unique().tolist() == [2]
        assert tables[2] == QuantTables(torch.ones(8, 8), torch.full((8, 8), 2))

    def test_gradients_are_kept(self) -> None:
        y = torch.full((8, 8), 3.0, requires_grad=True)
        chroma = torch.full((2, 8, 8), 4.0, dtype=torch.float16, requires_grad=True)
        QuantTables(y, chroma).stacked().sum().backward()
        assert y.grad.unique().tolist() == [2]  # two images
        assert chroma.grad.unique().tolist() == [2]  # Cb and Cr

    @pytest.mark.parametrize(
        ("dtype", "stacked"), [(torch.float16, torch.float32), (torch.int32, torch.float32), (torch.float64,) * 2]
    )
    def test_dtype_of_stacked(self, dtype: torch.dtype, stacked: torch.dtype) -> None:
        assert QuantTables(torch.ones(8, 8, dtype=dtype), torch.ones(8, 8)).stacked().dtype == stacked

    @pytest.mark.parametrize("shape", [(64,), (8,), (8, 7), (1, 3, 8, 8), (8, 8, 1), ()])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        message = f"cb must have shape (8, 8) or (N, 8, 8), got {shape}"
        with pytest.raises(ValueError) as caught:
            QuantTables(torch.ones(8, 8), torch.ones(shape))
        assert str(caught.value) == message

    def test_ragged_lists(self) -> None:
        with pytest.raises(ValueError, match="y must be a tensor, an array or nested lists of numbers, got list"):
            QuantTables([[1] * 8] * 7 + [[1] * 7], torch.ones(8, 8))

    @pytest.mark.parametrize("table", [None, object(), {}])
    def test_things_that_are_no_table(self, table: object) -> None:
        with pytest.raises(TypeError, match=f"cb must be a tensor, an array or nested .*, got {type(table).__name__}"):
            QuantTables(torch.ones(8, 8), table)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.complex64])
    def test_dtype(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=f"y must have an integer or floating dtype, got {dtype}"):
            QuantTables(torch.ones(8, 8, dtype=dtype), torch.ones(8, 8))

    def test_batches_that_differ(self) -> None:
        with pytest.raises(ValueError, match="tables must be for the same number of images, got y: 2, cr: 3"):
            QuantTables(torch.ones(2, 8, 8), torch.ones(8, 8), torch.ones(3, 8, 8))

    def test_devices_that_differ(self) -> None:
        with FakeTensorMode(), pytest.raises(ValueError, match="must be on one device, got y: cpu, cb: cuda:0"):
            QuantTables(torch.ones(8, 8), torch.ones(8, 8, device="cuda"))


class TestContainer:
    def test_integer(self) -> None:
        table = torch.ones(8, 8)
        table[0] = torch.tensor([-4, 0.4, 0.5, 1.5, 2.5, 254.6, 300, math.nan])
        table[1, :2] = torch.tensor([math.inf, -math.inf])
        integer = QuantTables(table, table).integer()
        assert integer.y.dtype == torch.int64
        assert integer.y[0].tolist() == [1, 1, 1, 2, 2, 255, 255, 1]
        assert integer.y[1, :2].tolist() == [255, 1]

    def test_cannot_be_changed(self) -> None:
        tables = two_tables()
        for name in ("y", "luma", "_tables", "new"):
            with pytest.raises(AttributeError, match=f"QuantTables cannot be changed: .*setting '{name}'"):
                setattr(tables, name, torch.ones(8, 8))
        with pytest.raises(AttributeError, match=r"QuantTables cannot be changed: .*deleting '_tables'"):
            del tables._tables

    def test_indexing_and_iteration(self) -> None:
        tables = QuantTables.standard(torch.tensor([10, 20, 30]))
        assert len(tables) == tables.batch_size == 3
        assert [one == QuantTables.standard(quality) for one, quality in zip(tables, (10, 20, 30), strict=True)] == (
            [True] * 3
        )
        assert tables[-1] == QuantTables.standard(30)
        assert tables[1:] == QuantTables.standard(torch.tensor([20, 30]))
        with pytest.raises(IndexError):
            tables[3]

    def test_one_set_has_no_length(self) -> None:
        for use in (len, iter, lambda tables: tables[0]):
            with pytest.raises(TypeError, match="tables must be a batch to be counted or indexed, got one set"):
                use(two_tables())
        assert two_tables()
        assert QuantTables.standard(torch.empty(0))

    def test_nearness_is_to_tables(self) -> None:
        with pytest.raises(TypeError, match=r"other must be fdjpeg\.QuantTables, got int"):
            two_tables().allclose(3)  # type: ignore[arg-type]

    def test_equality(self) -> None:
        y, cb = random_table(1), random_table(2)
        assert QuantTables(y, cb) == QuantTables(y.float(), cb.double(), cb.clone())
        assert QuantTables(y, cb) != QuantTables(y, cb + 1)
        assert QuantTables(y, cb) != QuantTables(y, cb, cb + 1)
        assert QuantTables(y, cb) != QuantTables(y[None], cb)
        assert QuantTables(y, cb) != 7
        with pytest.raises(TypeError, match="unhashable"):
            hash(QuantTables(y, cb))

    def test_allclose(self) -> None:
        tables = three_tables()
        near = tables.to(torch.float64)
        near = QuantTables(near.y + 1e-4, near.cb, near.cr)
        assert not tables.allclose(near)
        assert tables.allclose(near, atol=1e-3)
        assert not tables.allclose(QuantTables(near.y[None], near.cb))

    def test_to(self) -> None:
        tables = three_tables().to(torch.float16)
        assert {table.dtype for table in (tables.y, tables.cb, tables.cr)} == {torch.float16}
        assert two_tables().to("meta").device.type == "meta"

    def test_repr_shows_the_steps(self) -> None:
        text = repr(QuantTables.standard(50))
        assert text.startswith("QuantTables(\n    luma=tensor([[ 16,  11,  10,  16,  24,  40,  51,  61],\n")
        assert "    chroma=tensor([[17, 18, 24, 47, 99, 99, 99, 99],\n" in text
        assert [line.strip()[:3] for line in repr(three_tables()).splitlines() if "=" in line] == ["y=t", "cb=", "cr="]

    def test_pytree(self) -> None:
        for tables, leaves in ((two_tables(), 2), (three_tables(), 3)):
            flat, spec = _pytree.tree_flatten(tables)
            assert len(flat) == leaves
            assert _pytree.tree_unflatten(flat, spec) == tables
            names = [str(path[0]) for path, _ in _pytree.tree_flatten_with_path(tables)[0]]
            assert names == [".y", ".cb", ".cr"][:leaves]
        shapes = _pytree.tree_map(lambda table: tuple(table.shape), two_tables())  # no checks on the way
        assert shapes.y == (8, 8)

    def test_pickle_and_copy(self) -> None:
        tables = three_tables()
        assert pickle.loads(pickle.dumps(tables)) == copy.deepcopy(tables) == copy.copy(tables) == tables

    def test_torch_load_needs_no_trust(self) -> None:
        stream = io.BytesIO()
        torch.save({"tables": three_tables()}, stream)
        stream.seek(0)
        assert torch.load(stream, weights_only=True)["tables"] == three_tables()


class TestCheckTables:
    @pytest.mark.parametrize("step", [1, 1.0, 2.5, 255])
    def test_good_steps(self, step: float) -> None:
        check_tables(QuantTables.flat(step))
        check_tables(QuantTables.flat(torch.tensor([1.0, step])))

    @pytest.mark.parametrize("step", [0, 0.5, -1, 255.5, 256, math.nan, math.inf])
    def test_bad_steps(self, step: float) -> None:
        cr = torch.full((8, 8), 9.0)
        cr[5, 2] = step
        with pytest.raises(ValueError, match=rf"tables.cr\[5, 2\] must be in 1…255, got {step}"):
            check_tables(QuantTables(torch.ones(8, 8), torch.ones(8, 8), cr))

    def test_batches_name_the_image(self) -> None:
        with pytest.raises(ValueError, match=r"tables.y\[1, 0, 0\] must be in 1…255, got 256"):
            check_tables(QuantTables.flat(torch.tensor([255, 256])))

    def test_real_arithmetic(self) -> None:
        check_tables(QuantTables.flat(1000.5), "real")
        check_tables(QuantTables.flat(0.5), "real")
        for step in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"tables.y\[0, 0\] must be above 0 and finite, got {step:g}"):
                check_tables(QuantTables.flat(torch.tensor(step)), "real")

    def test_arguments(self) -> None:
        with pytest.raises(TypeError, match=r"tables must be fdjpeg.QuantTables, got Tensor"):
            check_tables(torch.ones(1, 3, 8, 8))
        with pytest.raises(ValueError, match='arithmetic must be "libjpeg" or "real", got \'float\''):
            check_tables(two_tables(), "float")


class ScaledTables(torch.nn.Module):
    """A layer with every use of tables: takes, makes, scales, returns."""

    def forward(self, tables: QuantTables, quality: Tensor) -> tuple[QuantTables, Tensor]:
        standard = QuantTables.standard(quality)
        numbers = QuantTables.standard(80).stacked() + QuantTables.flat(3).stacked()
        return tables.to(torch.float32).integer(), tables.stacked() * standard.stacked() + numbers


class TestTracing:
    @pytest.mark.parametrize("tables", [two_tables(), three_tables(), QuantTables.standard(torch.tensor([10.0, 90]))])
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compile(self, tables: QuantTables, dynamic: bool) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(ScaledTables(), fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for qualities in ([30.0, 75.0], [1.0, 100.0]):
            got, expected = (module(tables, torch.tensor(qualities)) for module in (compiled, ScaledTables()))
            assert got[0] == expected[0]
            assert torch.equal(got[1], expected[1])

    def test_inductor_floors_as_libjpeg_does(self) -> None:
        torch._dynamo.reset()
        steps = torch.compile(lambda quality: QuantTables.standard(quality).stacked(), fullgraph=True)
        quality = torch.arange(1.0, 101.0, requires_grad=True)
        assert torch.equal(steps(quality), QuantTables.standard(torch.arange(1, 101)).stacked())
        (gradient,) = torch.autograd.grad(steps(quality).sum(), quality)
        (expected,) = torch.autograd.grad(QuantTables.standard(quality).stacked().sum(), quality)
        torch.testing.assert_close(gradient, expected)

    @pytest.mark.parametrize("strict", [False, True])
    def test_export(self, strict: bool) -> None:
        arguments = (three_tables(), torch.tensor([30.0, 75.0]))
        stream = io.BytesIO()
        torch.export.save(torch.export.export(ScaledTables(), arguments, strict=strict), stream)
        stream.seek(0)
        got, expected = torch.export.load(stream).module()(*arguments), ScaledTables()(*arguments)
        assert got[0] == expected[0]
        assert torch.equal(got[1], expected[1])

    def test_vmap_over_tables_and_quality(self) -> None:
        tables = QuantTables.standard(torch.tensor([10.0, 50.0, 90.0]))
        assert torch.equal(torch.vmap(lambda one: one.stacked()[0])(tables), tables.stacked())
        assert torch.vmap(QuantTables.standard)(torch.tensor([10.0, 50.0, 90.0])) == tables

    def test_grad_with_respect_to_tables(self) -> None:
        gradient = torch.func.grad(lambda tables: (tables.stacked() ** 2).sum())(two_tables().to(torch.float32))
        assert torch.equal(gradient.y, 2 * two_tables().y)
        assert torch.equal(gradient.chroma, 4 * two_tables().cb)  # Cb and Cr share it
