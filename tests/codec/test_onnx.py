"""ONNX: the functions that stand in for the ops, and exported graphs in onnxruntime."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from support.oracles import FACTORS
from torch import Tensor, nn

import fdjpeg
from fdjpeg import _onnx, reference

SIZES = ((1, 1), (1, 7), (3, 5), (9, 3), (4, 4), (16, 16), (17, 15), (40, 53))
DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _image(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Samples that reach beyond [0, 1], where the type can."""
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype)
    return (1.2 * torch.rand(shape) - 0.1).to(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Standard operators instead of ops


@pytest.mark.parametrize("fancy", [True, False], ids=["fancy", "nearest"])
@pytest.mark.parametrize("subsampling", FACTORS)
def test_standard_operators_give_the_exact_bytes(subsampling: str, fancy: bool, rng: np.random.Generator) -> None:
    setting = (*FACTORS[subsampling], fancy)
    for size in SIZES:
        for channels, dtype in ((1, torch.float32), *((3, dtype) for dtype in DTYPES)):
            image = _image((2, channels, *size), dtype)
            tables = 1 + 260 * torch.rand(2, 3, 8, 8)
            qualities = torch.randint(1, 101, (2, -(-size[0] // 8), -(-size[1] // 8)), dtype=torch.uint8)
            for ours, op in (
                (
                    _onnx.round_trip(image, None, 75.0, *setting),
                    torch.ops.fdjpeg.round_trip(image, None, 75.0, *setting),
                ),
                (
                    _onnx.round_trip(image, tables, 0.0, *setting),
                    torch.ops.fdjpeg.round_trip(image, tables, 0.0, *setting),
                ),
                (
                    _onnx.round_trip_by_block(image, qualities, *setting),
                    torch.ops.fdjpeg.round_trip_by_block(image, qualities, *setting),
                ),
            ):
                assert ours[0].dtype == dtype
                assert ours[1].shape == (0,)  # a graph has no backward
                assert torch.equal(ours[0], op[0]), (size, channels, dtype)


def test_standard_operators_take_nan_and_infinity_as_the_op_does() -> None:
    image = torch.rand(1, 3, 8, 8)
    image[0, :, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    setting = (None, 50.0, 2, 2, True)
    assert torch.equal(_onnx.round_trip(image, *setting)[0], torch.ops.fdjpeg.round_trip(image, *setting)[0])


@pytest.mark.parametrize("subsampling", FACTORS)
def test_standard_operators_in_real_numbers(subsampling: str, rng: np.random.Generator) -> None:
    for size in SIZES:
        for channels in (1, 3):
            for rounding in (("straight-through", 0.0, 0.0, False), ("sine", 0.0, 0.0, True), ("tanh", 3.0, 0.0, True)):
                image = _image((2, channels, *size), torch.float64)
                arguments = (image, None, 60.0, *FACTORS[subsampling], True, *rounding)
                expected, _ = reference.real_round_trip(*arguments)
                torch.testing.assert_close(_onnx.real_round_trip(*arguments)[0], expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Exported


class Graph:
    """A model exported to ONNX, run by onnxruntime on the CPU."""

    def __init__(self, model: Any, *inputs: Tensor, dynamic_shapes: Any = None) -> None:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, of deprecations and of training mode
            program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=dynamic_shapes, verbose=False)
        assert program is not None
        self.proto = program.model_proto
        self.session = runtime.InferenceSession(self.proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, image: Tensor) -> Tensor:
        (argument,) = self.session.get_inputs()
        return torch.from_numpy(self.session.run(None, {argument.name: image.numpy()})[0])

    def assert_standard(self) -> None:
        """One graph, of operators that every runtime has."""
        assert not self.proto.functions
        assert {node.domain for node in self.proto.graph.node} == {""}
        assert not any(attribute.HasField("g") for node in self.proto.graph.node for attribute in node.attribute)


FREE = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}


def test_libjpeg_bit_for_bit_with_batch_height_and_width_free(rng: np.random.Generator) -> None:
    layer = fdjpeg.JPEG(50, gradient="cubic")
    graph = Graph(layer, torch.rand(2, 3, 24, 40), dynamic_shapes=(FREE,))
    graph.assert_standard()
    for shape in ((2, 3, 24, 40), (1, 3, 1, 1), (3, 3, 2, 7), (1, 3, 9, 3), (1, 3, 4, 4), (5, 3, 65, 70), (0, 3, 8, 8)):
        image = 1.2 * torch.rand(shape) - 0.1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samples above 1
            expected = layer(image)
        assert torch.equal(graph(image), expected), shape


def test_real_numbers_within_a_hundred_thousandth_with_sizes_free(rng: np.random.Generator) -> None:
    """Soft, since a coefficient midway between two steps may be rounded either way."""
    layer = fdjpeg.JPEG(30, subsampling="4:2:2", arithmetic="real", gradient="sine", soft=True)
    graph = Graph(layer, torch.rand(2, 3, 24, 40), dynamic_shapes=(FREE,))
    graph.assert_standard()
    for shape in ((2, 3, 24, 40), (1, 3, 1, 1), (1, 3, 9, 3), (3, 3, 33, 70)):
        image = torch.rand(shape)
        torch.testing.assert_close(graph(image), layer(image), rtol=0, atol=1e-5)


def test_hard_real_numbers_within_a_hundred_thousandth_away_from_ties(rng: np.random.Generator) -> None:
    """At 4:4:4 a block is alone, so only a block with a coefficient near a tie may differ."""
    image = torch.rand(2, 3, 32, 48)
    layer = fdjpeg.JPEG(60, subsampling="4:4:4", arithmetic="real")
    actual, expected = Graph(layer, image)(image), layer(image)
    tables = fdjpeg.QuantTables.standard(60).stacked().double()[:, :, None, None]
    levels = fdjpeg.block_dct(255 * fdjpeg.rgb_to_ycbcr(image.double()) - 128) / tables
    tied = ((levels - levels.floor() - 0.5).abs() < 1e-4).any(-1).any(-1).any(1)
    allowed = tied.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    assert tied.float().mean() < 0.1, "most of the image must count"
    assert ((actual - expected).abs() <= 1e-5).logical_or(allowed).all()


def test_tables_of_the_model_are_constants_of_the_graph(rng: np.random.Generator) -> None:
    """Learned ones, a quality for each image, and grey half-precision images."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.learned = fdjpeg.LearnableJPEG(fdjpeg.QuantTables.standard(60), subsampling="4:4:0")
            self.by_image = fdjpeg.JPEG(torch.tensor([20.0, 70.0]), upsampling="nearest")

        def forward(self, image: Tensor) -> Tensor:
            return self.by_image(self.learned(image)[:, :1])

    model = Model()
    image = torch.rand(2, 3, 17, 30).half()
    graph = Graph(model, image)
    graph.assert_standard()
    assert torch.equal(graph(image), model(image))


def test_bytes_with_chroma_of_a_quarter(rng: np.random.Generator) -> None:
    layer = fdjpeg.JPEG(70, subsampling="4:1:1")
    image = torch.randint(0, 256, (2, 3, 19, 34), dtype=torch.uint8)
    assert torch.equal(Graph(layer, image)(image), layer(image))


def test_nothing_is_exported_outside_of_an_export() -> None:
    assert not _onnx.exporting()
