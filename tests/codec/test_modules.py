"""The layers: their parameters, their results, and how they learn."""

from __future__ import annotations

import copy
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.gloo import in_process_group
from torch import Tensor

import fdjpeg
from fdjpeg import JPEG, FeatureDistillation, LearnableJPEG, QuantTables, RandomJPEG, StochasticJPEG
from fdjpeg.surrogates import Cubic, Tanh


@pytest.fixture
def image() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(4, 3, 24, 40, generator=generator)


def smooth_images(count: int, size: int) -> Tensor:
    """Returns low-pass noise, in which high frequencies are cheap to give up."""
    generator = torch.Generator().manual_seed(11)
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# JPEG


@pytest.mark.parametrize("quality", [1, 50, 100, torch.tensor(30.0), torch.tensor([10, 40, 70, 100])])
def test_jpeg_layer_equals_the_function(image: Tensor, quality: float | Tensor) -> None:
    layer = JPEG(quality, subsampling="4:2:2", upsampling="nearest")
    assert torch.equal(layer(image), fdjpeg.jpeg(image, quality, subsampling="4:2:2", upsampling="nearest"))


def test_jpeg_layer_has_no_parameters_and_moves_its_tables() -> None:
    layer = JPEG(tables=QuantTables.flat(9))
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"y", "cb", "cr"}
    assert layer.to("meta").tables is not None
    assert layer.tables.y.device.type == "meta"


def test_jpeg_layer_survives_a_state_dict(image: Tensor) -> None:
    layer = JPEG(tables=QuantTables.flat(9))
    other = JPEG(tables=QuantTables.flat(50))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(image), other(image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 0}, "quality must be in 1…100, got 0"),
        ({"quality": float("nan")}, "quality must be in 1…100, got nan"),
        ({"quality": torch.ones(2, 2)}, r"quality must be .* \(N, rows, columns\), got shape \(2, 2\)"),
        ({"subsampling": "4:2:1"}, "subsampling must be one of .* got '4:2:1'"),
        ({"upsampling": "cubic"}, "upsampling must be one of .* got 'cubic'"),
        ({"gradient": "straight"}, "gradient must be one of .* got 'straight'"),
        ({"arithmetic": "float"}, "arithmetic must be one of .* got 'float'"),
        ({"soft": True}, "soft=True needs arithmetic='real'"),
        ({"soft": True, "arithmetic": "real"}, "soft=True needs a gradient with a smooth forward"),
    ],
)
def test_jpeg_layer_refuses_bad_arguments_when_it_is_made(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JPEG(**arguments)  # type: ignore[arg-type]


def test_jpeg_layer_says_what_it_is() -> None:
    assert "quality=30" in repr(JPEG(30))
    assert "4:2:0" in repr(JPEG(30))
    assert "tables=" in repr(JPEG(tables=QuantTables.flat(3)))


@pytest.mark.parametrize(
    ("gradient", "written"),
    [
        ("straight-through", "'straight-through'"),
        (Tanh(), "'tanh'"),
        (Tanh(alpha=3.0), "Tanh(floor=0.0, alpha=3.0)"),
        (Cubic(floor=0.1), "Cubic(floor=0.1)"),
    ],
)
def test_layers_write_a_gradient_as_their_user_would(gradient: Any, written: str) -> None:
    layers = (JPEG, RandomJPEG, StochasticJPEG, FeatureDistillation, partial(LearnableJPEG, QuantTables.flat(3)))
    for make in layers:
        assert f"gradient={written}" in repr(make(gradient=gradient))


# ---------------------------------------------------------------------------------------------------------------------
# RandomJPEG


def test_random_qualities_cover_the_range_with_both_ends() -> None:
    picture = smooth_images(1, 16).expand(200, -1, -1, -1)
    layer = RandomJPEG((10, 12), generator=torch.Generator().manual_seed(0))
    out = layer(picture)
    at = [fdjpeg.jpeg(picture[:1], quality)[0] for quality in (10, 11, 12)]
    counts = [sum(torch.equal(one, wanted) for one in out) for wanted in at]
    assert sum(counts) == 200
    assert min(counts) > 30  # 66 expected of each: seven standard deviations away


def test_random_jpeg_is_repeated_by_its_generator(image: Tensor) -> None:
    first = RandomJPEG(generator=torch.Generator().manual_seed(5))(image)
    again = RandomJPEG(generator=torch.Generator().manual_seed(5))(image)
    assert torch.equal(first, again)


def test_random_jpeg_leaves_a_share_of_the_images_alone() -> None:
    pictures = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    out = RandomJPEG((5, 5), p=0.25, generator=torch.Generator().manual_seed(2))(pictures)
    changed = (out != pictures).flatten(1).any(1).sum().item()
    assert 20 < changed < 85  # 50 expected
    assert torch.equal(RandomJPEG(p=0.0)(pictures), pictures)


@pytest.mark.parametrize("quality", [(0, 50), (50, 101), (60, 40), (30.0, 95.0), 50, (1, 2, 3)])
def test_random_jpeg_refuses_a_bad_range(quality: object) -> None:
    with pytest.raises(ValueError, match="quality must be two integers"):
        RandomJPEG(quality)  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [-0.1, 1.5, "often", True])
def test_random_jpeg_refuses_a_bad_probability(p: object) -> None:
    with pytest.raises(ValueError, match="p must be a probability"):
        RandomJPEG(p=p)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [RandomJPEG, StochasticJPEG])
def test_layers_that_draw_refuse_what_is_no_generator_or_image(layer: type[RandomJPEG | StochasticJPEG]) -> None:
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None, got 7"):
        layer(generator=7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"image must be a torch\.Tensor, got int"):
        layer()(7)


# ---------------------------------------------------------------------------------------------------------------------
# LearnableJPEG


@pytest.mark.parametrize(("share", "count"), [("all", 1), ("chroma", 2), ("none", 3)])
def test_learnable_tables_are_the_only_parameters(share: str, count: int) -> None:
    layer = LearnableJPEG(QuantTables.standard(75), share=share)
    assert len(list(layer.parameters())) == count
    (group,) = layer.parameter_groups()
    assert group["weight_decay"] == 0
    assert len(group["params"]) == count


def test_learnable_forward_is_what_a_file_with_its_tables_decodes_to() -> None:
    layer = LearnableJPEG(QuantTables.standard(60), share="none")
    with torch.no_grad():
        for logs in layer.log_steps:
            logs.add_(torch.rand(8, 8, generator=torch.Generator().manual_seed(3)))
    pixels = (smooth_images(1, 40) * 255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(
        file, "JPEG", qtables=layer.tables.to_pillow(), subsampling=2
    )
    decoded = torch.frombuffer(bytearray(Image.open(file).tobytes()), dtype=torch.uint8).reshape(40, 40, 3)
    out = layer(pixels.float() / 255)
    assert torch.equal((out[0] * 255).round().to(torch.uint8).permute(1, 2, 0), decoded)


def test_learnable_starts_at_the_tables_it_was_given() -> None:
    tables = QuantTables.standard(torch.tensor([20, 80]))
    assert LearnableJPEG(tables, share="none").tables == tables.integer()


@pytest.mark.parametrize("bound", [0.0, math.log(255)])
def test_learnable_steps_leave_a_bound_but_do_not_cross_it(bound: float) -> None:
    layer = LearnableJPEG(QuantTables.flat(round(math.exp(bound))), share="all")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    inward = 1 if bound == 0 else -1
    for direction, moves in ((-inward, False), (inward, True)):
        optimizer.zero_grad()
        (-direction * layer.steps().y.log().sum()).backward()
        optimizer.step()
        moved = not torch.allclose(layer.log_steps[0], torch.tensor(bound))
        assert moved == moves


def test_learning_reduces_the_error_at_fixed_mean_step() -> None:
    images = smooth_images(8, 32)
    layer = LearnableJPEG(QuantTables.flat(40), share="all", subsampling="4:4:4", gradient="straight-through")
    optimizer = torch.optim.Adam(layer.parameter_groups(), lr=0.05)

    def loss() -> Tensor:
        spread = layer.steps().y.log().mean() - math.log(40)
        return (layer(images) - images).square().mean() * 1e3 + spread.square() * 10

    before = loss().item()
    for _ in range(40):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert loss().item() < 0.5 * before


def test_learnable_survives_copies_and_state_dicts(image: Tensor) -> None:
    layer = LearnableJPEG(QuantTables.standard(50))
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.log_steps[0].add_(1)
    assert not torch.equal(layer(image), twin(image))
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(layer(image), twin(image))


def test_learnable_works_with_an_exponential_moving_average(image: Tensor) -> None:
    layer = LearnableJPEG(QuantTables.standard(50))
    average = torch.optim.swa_utils.AveragedModel(layer)
    average.update_parameters(layer)
    assert torch.equal(average(image), layer(image))


def test_an_average_of_layers_has_the_geometric_mean_of_their_steps() -> None:
    layer = LearnableJPEG(QuantTables.flat(8))
    average = torch.optim.swa_utils.AveragedModel(layer)
    for step in (10, 40):
        with torch.no_grad():
            for logs in layer.log_steps:
                logs.fill_(math.log(step))
        average.update_parameters(layer)
    assert average.module.tables == QuantTables.flat(20).integer()


def test_weight_decay_leaves_the_tables_of_parameter_groups_alone() -> None:
    for groups, moves in ((LearnableJPEG.parameter_groups, False), (LearnableJPEG.parameters, True)):
        layer = LearnableJPEG(QuantTables.flat(20))
        optimizer = torch.optim.AdamW(groups(layer), lr=0.5, weight_decay=0.5)
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert (layer.tables != QuantTables.flat(20).integer()) == moves


@pytest.mark.parametrize("whole", [True, False])
def test_learnable_is_saved_and_loaded(image: Tensor, whole: bool) -> None:
    layer = LearnableJPEG(QuantTables.standard(33), share="none", subsampling="4:2:2", gradient="cubic")
    stream = io.BytesIO()
    torch.save(layer if whole else layer.state_dict(), stream)
    stream.seek(0)
    if whole:
        again = torch.load(stream, weights_only=False)
    else:
        again = LearnableJPEG(QuantTables.flat(1), share="none", subsampling="4:2:2")
        again.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(again(image), layer(image))


def test_autocast_leaves_learnable_alone_and_a_half_layer_moves_a_step_by_one_at_most(image: Tensor) -> None:
    layer = LearnableJPEG(QuantTables.standard(20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(image)
    assert torch.equal(inside, layer(image))
    half = copy.deepcopy(layer).half()
    out = half(image.half())
    assert out.dtype == torch.float16
    assert int((half.tables.stacked() - layer.tables.stacked()).abs().max()) <= 1
    out.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in half.parameters())


def test_each_image_learns_tables_of_its_own(image: Tensor) -> None:
    starts = QuantTables.standard(torch.tensor([20, 40, 60, 80]))
    layer = LearnableJPEG(starts)
    assert torch.equal(layer(image), torch.cat([fdjpeg.jpeg(image[i : i + 1], tables=starts[i]) for i in range(4)]))
    layer(image)[2].square().sum().backward()
    for logs in layer.log_steps:
        assert logs.grad is not None
        assert logs.grad.flatten(1).abs().sum(1).bool().tolist() == [False, False, True, False]


def gradient_of_one_process(rank: int, place: str, out: str) -> None:
    torch.set_num_threads(1)
    in_process_group(_write_gradient, rank, out, store=place, rank=rank, size=2)


def _write_gradient(rank: int, out: str) -> None:
    layer = LearnableJPEG(QuantTables.standard(50), share="none", subsampling="4:4:4")
    parallel = torch.nn.parallel.DistributedDataParallel(layer)
    parallel(smooth_images(4, 16)[rank::2]).square().mean().backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in layer.parameters()], out)


def test_two_processes_learn_from_the_mean_of_their_gradients(tmp_path: Path) -> None:
    out = tmp_path / "gradients.pt"
    torch.multiprocessing.spawn(gradient_of_one_process, (str(tmp_path / "meeting"), str(out)), nprocs=2)
    layer = LearnableJPEG(QuantTables.standard(50), share="none", subsampling="4:4:4")
    layer(smooth_images(4, 16)).square().mean().backward()
    for together, alone in zip(torch.load(out, weights_only=True), layer.parameters(), strict=True):
        torch.testing.assert_close(together, alone.grad)


def test_learnable_refuses_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"share must be one of 'all', 'chroma', 'none', got 'luma'"):
        LearnableJPEG(QuantTables.flat(3), share="luma")
    with pytest.raises(ValueError, match=r"share must be one of 'all', 'chroma', 'none', got \['all'\]"):
        LearnableJPEG(QuantTables.flat(3), share=["all"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tables must be fdjpeg\.QuantTables, got int"):
        LearnableJPEG(50)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1…255"):
        LearnableJPEG(QuantTables.flat(300))


# ---------------------------------------------------------------------------------------------------------------------
# FeatureDistillation


def code_preset_by_scipy(image: Tensor) -> Tensor:
    """Computes the release's layer with SciPy's DCT, for sizes of whole blocks."""
    import numpy as np
    from scipy.fft import dctn, idctn

    steps = np.full((8, 8), 30.0)
    steps[:4, :4] = 25
    n, c, h, w = image.shape
    blocks = (image.double().numpy() * 255).reshape(n, c, h // 8, 8, w // 8, 8).swapaxes(3, 4)
    quantized = np.round(dctn(blocks, axes=(-2, -1), norm="ortho") / steps) * steps
    pixels = idctn(quantized, axes=(-2, -1), norm="ortho").swapaxes(3, 4).reshape(n, c, h, w)
    return torch.from_numpy((pixels / 255).clip(0, 1))


def test_feature_distillation_code_is_the_released_layer() -> None:
    image = torch.rand(2, 3, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    out = fdjpeg.FeatureDistillation("code")(image)
    assert torch.allclose(out, code_preset_by_scipy(image), atol=1e-12)


@pytest.mark.parametrize(("preset", "low", "high"), [("paper", 1, 40), ("uniform(30)", 30, 30)])
def test_feature_distillation_presets_are_libjpeg_at_444(image: Tensor, preset: str, low: int, high: int) -> None:
    steps = [[low if i + j <= 4 else high for j in range(8)] for i in range(8)]
    wanted = fdjpeg.jpeg(image, tables=QuantTables(steps, steps), subsampling="4:4:4")
    assert torch.equal(fdjpeg.FeatureDistillation(preset)(image), wanted)


@pytest.mark.parametrize("preset", ["paper", "code", "uniform(25)"])
def test_two_passes_are_one_after_the_other(image: Tensor, preset: str) -> None:
    once = fdjpeg.FeatureDistillation(preset)
    assert torch.equal(fdjpeg.FeatureDistillation(preset, passes=2)(image), once(once(image)))


def test_a_second_pass_removes_a_change_below_half_a_step() -> None:
    layer = fdjpeg.FeatureDistillation("code")
    on_lattice = layer(smooth_images(2, 32) * 0.5 + 0.25)
    change = torch.rand(on_lattice.shape, generator=torch.Generator().manual_seed(9)) - 0.5
    change *= 10 / 255 / 8  # every coefficient of it is below 12.5, in units of 0…255
    assert torch.allclose(layer(on_lattice + change), on_lattice, atol=1e-5)


@pytest.mark.parametrize("preset", ["paper", "code"])
@pytest.mark.parametrize("gradient", ["straight-through", "identity", "cubic"])
def test_feature_distillation_has_a_gradient(preset: str, gradient: str) -> None:
    image = (torch.rand(1, 3, 11, 13, generator=torch.Generator().manual_seed(2)) / 2 + 0.25).requires_grad_()
    fdjpeg.FeatureDistillation(preset, gradient=gradient)(image).square().sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flat",), "preset must be 'paper', 'code' or 'uniform"),
        (("uniform(0)",), "preset's step must be in 1…255"),
        (("paper", 0), "passes must be an integer of at least 1, got 0"),
    ],
)
def test_feature_distillation_refuses_bad_arguments(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fdjpeg.FeatureDistillation(*arguments)  # type: ignore[arg-type]
