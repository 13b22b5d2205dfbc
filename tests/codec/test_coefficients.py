"""The container of coefficients: shapes, devices, images, trees. `encode` and `decode` have tests elsewhere."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle
import re

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree

from fdjpeg.coefficients import Coefficients
from fdjpeg.tables import QuantTables

# Blocks (rows, columns) of luma and of chroma for images of 17×40 samples, counted by hand from T.81, A.1.1: a
# component has ⌈17 / vertical⌉ × ⌈40 / horizontal⌉ samples.
BLOCKS = {
    "4:4:4": ((3, 5), (3, 5)),
    "4:2:2": ((3, 5), (3, 3)),  # 17 × 20
    "4:2:0": ((3, 5), (2, 3)),  # 9 × 20
    "4:4:0": ((3, 5), (2, 5)),  # 9 × 40
    "4:1:1": ((3, 5), (3, 2)),  # 17 × 10
}


def component(images: int, blocks: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1024, 1024, (images, *blocks, 8, 8), generator=generator, dtype=torch.int16)


def coefficients(subsampling: str = "4:2:0", images: int = 2, grey: bool = False, **changes: object) -> Coefficients:
    luma, chroma = BLOCKS[subsampling]
    fields = {
        "y": component(images, luma, 1),
        "cb": None if grey else component(images, chroma, 2),
        "cr": None if grey else component(images, chroma, 3),
        "tables": QuantTables.standard(75),
        "size": (17, 40),
        "subsampling": subsampling,
    }
    return Coefficients(**(fields | changes))


def same(a: Coefficients, b: Coefficients) -> bool:
    components = [(a.y, b.y)] if a.cb is None and b.cb is None else [(a.y, b.y), (a.cb, b.cb), (a.cr, b.cr)]
    return (
        all(torch.equal(one, other) for one, other in components)
        and a.tables == b.tables
        and (a.size, a.subsampling) == (b.size, b.subsampling)
    )


@pytest.mark.parametrize("subsampling", BLOCKS)
def test_shapes_that_follow_from_size_and_subsampling(subsampling: str) -> None:
    for images in (0, 1, 3):
        made = coefficients(subsampling, images)
        assert len(made) == images
        assert (made.geometry.luma.rows, made.geometry.luma.columns) == BLOCKS[subsampling][0]
        assert (made.geometry.chroma.rows, made.geometry.chroma.columns) == BLOCKS[subsampling][1]
    assert coefficients(subsampling, grey=True).cb is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subsampling": "4:2:1"}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1, got '4:2:1'"),
        ({"size": (0, 40)}, "size must be a tuple (H, W) of integers of at least 1, got (0, 40)"),
        ({"size": (17,)}, "size must be a tuple (H, W) of integers of at least 1, got (17,)"),
        ({"size": (17.0, 40)}, "size must be a tuple (H, W) of integers of at least 1, got (17.0, 40)"),
        ({"size": ("17", 40)}, "size must be a tuple (H, W) of integers of at least 1, got ('17', 40)"),
        ({"subsampling": ["4:2:0"]}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1, got ['4:2:0']"),
        ({"size": 17}, "size must be a tuple (H, W) of integers of at least 1, got 17"),
        ({"size": (40, 17)}, "y must have shape (N, 5, 3, 8, 8) at this size and subsampling, got (2, 3, 5, 8, 8)"),
        (
            {"subsampling": "4:4:4"},
            "cb must have shape (2, 3, 5, 8, 8) at this size and subsampling, got (2, 2, 3, 8, 8)",
        ),
        (
            {"cr": component(1, (2, 3))},
            "cr must have shape (2, 2, 3, 8, 8) at this size and subsampling, got (1, 2, 3, 8, 8)",
        ),
        (
            {"y": component(2, (3, 5))[0]},
            "y must have shape (N, 3, 5, 8, 8) at this size and subsampling, got (3, 5, 8, 8)",
        ),
        (
            {"y": torch.tensor(1, dtype=torch.int16)},
            "y must have shape (N, 3, 5, 8, 8) at this size and subsampling, got ()",
        ),
        ({"cb": None}, "cb must be a tensor as cr is, or both None for grey images, got None"),
        ({"cr": None}, "cr must be a tensor as cb is, or both None for grey images, got None"),
        (
            {"tables": QuantTables.flat(torch.ones(3))},
            "tables must be (8, 8) or one for each of the 2 images, got 3",
        ),
        ({"tables": QuantTables.flat(1).to("meta")}, "tables must be on cpu as y is, got meta"),
    ],
)
def test_wrong_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        dataclasses.replace(coefficients(), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": component(2, (3, 5)).int()}, "y must be an int16 tensor, got torch.int32"),
        ({"y": None}, "y must be an int16 tensor, got NoneType"),
        ({"cb": [1, 2]}, "cb must be an int16 tensor, got list"),
        ({"tables": torch.ones(1, 3, 8, 8)}, "tables must be fdjpeg.QuantTables, got Tensor"),
    ],
)
def test_wrong_types(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match="^" + re.escape(message) + "$"):
        coefficients(**changes)


def test_components_on_different_devices() -> None:
    with FakeTensorMode():
        y = torch.empty(2, 3, 5, 8, 8, dtype=torch.int16)
        chroma = torch.empty(2, 3, 5, 8, 8, dtype=torch.int16, device="cuda")
        tables = QuantTables(torch.ones(8, 8), torch.ones(8, 8))
        with pytest.raises(ValueError, match="cb must be on cpu as y is, got cuda:0"):
            Coefficients(y, chroma, chroma, tables, (17, 40), "4:4:4")


def test_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        coefficients().size = (8, 8)


@pytest.mark.parametrize("grey", [False, True])
def test_one_image_at_a_time(grey: bool) -> None:
    tables = QuantTables.standard(torch.tensor([20, 80]))
    batch = coefficients(grey=grey, tables=tables)
    for index, image in enumerate(batch):
        assert same(image, batch[index])
        assert same(image, batch[index - 2])
        assert len(image) == 1
        assert torch.equal(image.y[0], batch.y[index])
        assert image.cb is None if grey else torch.equal(image.cb[0], batch.cb[index])
        assert image.cr is None if grey else torch.equal(image.cr[0], batch.cr[index])
        assert image.tables == tables[index]
    with pytest.raises(IndexError):
        batch[2]
    with pytest.raises(TypeError, match="index must be an integer, got slice"):
        batch[0:1]  # type: ignore[index]


@pytest.mark.parametrize("quality", [75, torch.tensor([75])])
def test_one_image_with_tables_that_serve_all(quality: int | Tensor) -> None:
    assert coefficients(tables=QuantTables.standard(quality))[1].tables == QuantTables.standard(75)


@pytest.mark.parametrize("grey", [False, True])
def test_to_moves_everything(grey: bool) -> None:
    moved = coefficients(grey=grey).to("meta")
    assert moved.device.type == moved.tables.device.type == "meta"
    assert all(x.device.type == "meta" for x in (moved.y, moved.cb, moved.cr) if x is not None)
    assert (moved.size, moved.subsampling) == ((17, 40), "4:2:0")
    assert (moved.cb is None) == grey


@pytest.mark.parametrize("grey", [False, True])
def test_pytree(grey: bool) -> None:
    made = coefficients(grey=grey)
    leaves, spec = _pytree.tree_flatten(made)
    assert len(leaves) == (3 if grey else 5)
    assert same(_pytree.tree_unflatten(leaves, spec), made)
    assert _pytree.treespec_loads(_pytree.treespec_dumps(spec)) == spec
    names = [_pytree.keystr(path) for path, _ in _pytree.tree_flatten_with_path(made)[0]]
    assert names == ([".y", ".tables.y", ".tables.cb"] if grey else [".y", ".cb", ".cr", ".tables.y", ".tables.cb"])
    assert _pytree.tree_map(lambda leaf: leaf.dim(), made).y == 5  # no checks on the way


class Negated(torch.nn.Module):
    def forward(self, coefficients: Coefficients) -> Coefficients:
        return _pytree.tree_map(lambda leaf: -leaf, coefficients)


@pytest.mark.parametrize("grey", [False, True])
def test_compile_and_export(grey: bool) -> None:
    made = coefficients(grey=grey)
    torch._dynamo.reset()
    assert same(torch.compile(Negated(), fullgraph=True, backend="aot_eager")(made), Negated()(made))
    stream = io.BytesIO()
    torch.export.save(torch.export.export(Negated(), (made,)), stream)
    stream.seek(0)
    assert same(torch.export.load(stream).module()(made), Negated()(made))


@pytest.mark.parametrize("grey", [False, True])
def test_made_inside_a_compiled_function(grey: bool) -> None:
    made = coefficients(grey=grey)

    def again(y: Tensor, cb: Tensor | None, cr: Tensor | None, tables: QuantTables) -> Coefficients:
        return Coefficients(y, cb, cr, tables, (17, 40), "4:2:0")

    torch._dynamo.reset()
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    assert same(compiled(made.y, made.cb, made.cr, made.tables), made)


def test_pickle_copy_and_torch_load() -> None:
    made = coefficients()
    assert same(pickle.loads(pickle.dumps(made)), made)
    assert same(copy.deepcopy(made), made)
    stream = io.BytesIO()
    torch.save(made, stream)
    stream.seek(0)
    assert same(torch.load(stream, weights_only=True), made)


def test_repr() -> None:
    lines = repr(coefficients()).splitlines()
    assert lines[:6] == [
        "Coefficients(",
        "    y=int16 (2, 3, 5, 8, 8),",
        "    cb=int16 (2, 2, 3, 8, 8),",
        "    cr=int16 (2, 2, 3, 8, 8),",
        "    size=(17, 40),",
        "    subsampling='4:2:0',",
    ]
    assert lines[6] == "    tables=QuantTables("
    assert "    cb=None," in repr(coefficients(grey=True)).splitlines()


def test_coefficients_move_at_once_unless_asked_otherwise() -> None:
    assert inspect.signature(Coefficients.to).parameters["non_blocking"].default is False
