"""The augmentations against the same thing written by hand with Pillow, and their behaviour as layers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from support.gloo import in_process_group
from support.no_reading import NoReading
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fdjpeg
from fdjpeg import QuantTables, reference
from fdjpeg.augmentations import DoubleJPEG, RandomJPEG, Recompress, TableCounts
from fdjpeg.augmentations.recompress import FILTERS, resize

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
TABLES = [QuantTables.standard(30), QuantTables.flat(17), QuantTables.standard(77)]

#: A layer of each kind, with each draw that it makes on the images' device alone.
ON_DEVICE: dict[str, Callable[..., Any]] = {
    "a range": lambda **more: RandomJPEG((5, 95), **more),
    "weighted qualities": lambda **more: RandomJPEG(qualities=(10, 40, 90), weights=(1, 0, 3), **more),
    "tables": lambda **more: RandomJPEG(tables=TABLES, **more),
    "double, aligned": lambda **more: DoubleJPEG((5, 95), shift="aligned", **more),
    "double, fixed shift": lambda **more: DoubleJPEG((5, 95), shift=(3, 5), **more),
    "recompress": lambda **more: Recompress((5, 95), scale=0.6, times=2, restore=True, **more),
    "longer side": lambda **more: Recompress((5, 95), longer_side=13, restore=True, **more),
}

#: The same with draws that decide which calls are made.
ON_HOST: dict[str, Callable[..., Any]] = {
    "subsamplings": lambda **more: RandomJPEG((5, 95), subsampling=tuple(SUBSAMPLINGS), **more),
    "double": lambda **more: DoubleJPEG((5, 95), subsampling=("4:2:0", "4:4:4"), **more),
    "recompress in a range": lambda **more: Recompress((5, 95), scale=(0.4, 1.3), times=2, restore=True, **more),
}
ALL = {**ON_DEVICE, **ON_HOST}


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(6, 3, 5, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(21, 30), mode="bicubic")
    return (smooth + torch.rand(smooth.shape, generator=generator) / 8).clamp(0, 1)


def pixels(rng: np.random.Generator, count: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Byte images ``(count, H, W, C)`` with content at all frequencies."""
    coarse = rng.integers(0, 256, (count, -(-size[0] // 4), -(-size[1] // 4), channels))
    fine = rng.integers(-40, 41, (count, *size, channels))
    return np.clip(coarse.repeat(4, 1).repeat(4, 2)[:, : size[0], : size[1]] + fine, 0, 255).astype(np.uint8)


def by_pillow(image: np.ndarray, strength: int | QuantTables, subsampling: str) -> np.ndarray:
    """An image ``(H, W, C)`` through a file that Pillow writes and reads."""
    file = io.BytesIO()
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    option: dict[str, Any] = (
        {"qtables": strength.to_pillow()} if isinstance(strength, QuantTables) else {"quality": strength}
    )
    picture.save(file, "JPEG", subsampling=SUBSAMPLINGS[subsampling], **option)
    return np.asarray(Image.open(file)).reshape(image.shape)


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).movedim(-1, -3).contiguous()


# ---------------------------------------------------------------------------------------------------------------------
# Against Pillow


@pytest.mark.parametrize("kind", ["qualities", "tables"])
@pytest.mark.parametrize("channels", [3, 1])
def test_random_jpeg_is_pillows_at_the_draws_that_it_returns(
    kind: str, channels: int, rng: np.random.Generator
) -> None:
    batch = pixels(rng, 250, (17, 22), channels)
    strengths: Any = {"quality": (1, 100)} if kind == "qualities" else {"tables": TABLES, "weights": (1, 5, 2)}
    layer = RandomJPEG(p=0.8, subsampling=tuple(SUBSAMPLINGS), **strengths)
    images = as_tensor(batch)
    for given in (images, images.float() / 255):
        out, drawn = layer(given, return_parameters=True)
        out = (out * 255).round().byte() if out.is_floating_point() else out
        for i, image in enumerate(batch):
            strength = TABLES[drawn.table[i]] if kind == "tables" else int(drawn.quality[i])
            name = list(SUBSAMPLINGS)[drawn.subsampling[i]]
            expected = by_pillow(image, strength, name) if drawn.applied[i] else image
            assert torch.equal(out[i], as_tensor(expected))
        assert 0 < int((~drawn.applied).sum()) < 100


def test_double_jpeg_is_pillows_twice_with_the_image_moved_in_between(rng: np.random.Generator) -> None:
    batch = pixels(rng, 500, (18, 21))
    layer = DoubleJPEG((40, 95), p=0.9, subsampling=("4:2:0", "4:4:4"), second={"tables": TABLES})
    images = as_tensor(batch)
    for given in (images, images.float() / 255):
        out, drawn = layer(given, return_parameters=True)
        out = (out * 255).round().byte() if out.is_floating_point() else out
        for i, image in enumerate(batch):
            expected = image
            if drawn.applied[i]:
                down, right = drawn.shift[i].tolist()
                names = [layer.first.subsamplings[one.subsampling[i]] for one in (drawn.first, drawn.second)]
                extended = np.pad(image, ((down, 0), (right, 0), (0, 0)), mode="edge")
                once = by_pillow(extended, int(drawn.first.quality[i]), names[0])[down:, right:]
                expected = by_pillow(once.copy(), TABLES[drawn.second.table[i]], names[1])
            assert torch.equal(out[i], as_tensor(expected))
        assert len(set(map(tuple, drawn.shift.tolist()))) == 64


@pytest.mark.parametrize("restore", [True, False])
def test_recompress_is_pillows_resize_and_jpeg(restore: bool, rng: np.random.Generator) -> None:
    batch = pixels(rng, 250, (24, 33))
    layer = Recompress((5, 95), scale=0.7, times=2, restore=restore, subsampling=("4:2:0", "4:2:2"))
    images = as_tensor(batch)
    for given in (images, images.float() / 255):
        out, drawn = layer(given, return_parameters=True)
        out = (out * 255).round().byte() if out.is_floating_point() else out
        for i, image in enumerate(batch):
            expected = image
            for size, draws in zip(((17, 23), (12, 16)), drawn.compressions, strict=True):
                small = np.asarray(Image.fromarray(expected).resize(size[::-1], Image.Resampling.BICUBIC))
                name = layer.compress.subsamplings[draws.subsampling[i]]
                expected = by_pillow(small, int(draws.quality[i]), name).copy()
            if restore:
                expected = np.asarray(Image.fromarray(expected).resize((33, 24), Image.Resampling.BICUBIC))
            assert torch.equal(out[i], as_tensor(expected))


#: Older versions resize horizontally first, whatever the sizes.
needs_pillow_13 = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 13 chooses the order")


@needs_pillow_13
@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
def test_resizing_is_pillows(filter: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    for number in range(60):
        most = 200 if number % 10 == 0 else 60  # more than one strip
        size, wanted = (tuple(int(n) for n in rng.integers(1, most, 2)) for _ in range(2))
        batch = pixels(rng, 2, size)
        batch[1] = rng.choice([0, 255], batch[1].shape)  # overshoots everywhere
        images = as_tensor(batch)
        given = images if dtype == torch.uint8 else (images.double() / 255).to(dtype)
        out = resize(given, wanted, filter)
        assert out.dtype == dtype
        levels = out if dtype == torch.uint8 else (out.double() * 255).round().byte()
        for image, found in zip(batch, levels, strict=True):
            picture = Image.fromarray(image).resize(wanted[::-1], getattr(Image.Resampling, filter.upper()))
            assert torch.equal(as_tensor(np.asarray(picture)), found)


def test_recompress_comes_back_to_the_size_of_each_image(images: Tensor) -> None:
    layer = Recompress((90, 90), scale=(0.3, 1.4), times=2, restore=True, subsampling="4:4:4")
    out, drawn = layer(images, return_parameters=True)
    assert out.shape == images.shape
    for i, scales in enumerate(drawn.scale.tolist()):
        one = images[i : i + 1]
        for size in layer.sizes((21, 30), tuple(scales)):
            one = fdjpeg.jpeg(resize(one, size), 90, subsampling="4:4:4")
        assert torch.equal(out[i : i + 1], resize(one, (21, 30)))


# ---------------------------------------------------------------------------------------------------------------------
# Gradients


def straight(image: Tensor, quality: Tensor, subsampling: tuple[int, int] = (2, 2)) -> Tensor:
    """The codec of the reference, with straight-through roundings by autograd."""
    tables = QuantTables.standard(quality).stacked().double()
    surrogate = fdjpeg.surrogates.resolve("straight-through")
    return reference.exact_with_surrogate(image, tables, *subsampling, True, surrogate)


def gradient(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    x = images.double().requires_grad_()
    out = function(x)
    weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((out * weights).sum(), x)[0]


def test_gradients_of_a_share_are_the_composed_references(images: Tensor) -> None:
    layer = RandomJPEG((20, 80), p=0.5)
    drawn = layer.draw(images)
    mask = drawn.applied[:, None, None, None]
    expected = gradient(lambda x: torch.where(mask, straight(x, drawn.quality), x), images)
    torch.testing.assert_close(gradient(lambda x: layer(x, drawn), images), expected)


def test_gradients_of_double_jpeg_are_the_composed_references(images: Tensor) -> None:
    layer = DoubleJPEG((20, 80), shift=(3, 6))
    drawn = layer.draw(images)

    def composed(x: Tensor) -> Tensor:
        rows, columns = (torch.arange(-n, size).clamp(0) for n, size in ((3, x.size(2)), (6, x.size(3))))
        once = straight(x[:, :, rows][:, :, :, columns], drawn.first.quality)[:, :, 3:, 6:]
        return straight(once, drawn.second.quality)

    torch.testing.assert_close(gradient(lambda x: layer(x, drawn), images), gradient(composed, images))


def weights_of_pillow(size: int, wanted: int) -> Tensor:
    """The matrix by which Pillow's bicubic filter resizes a line: a = −0.5, wider where it shrinks (Keys 1981)."""
    scale = size / wanted
    wide = max(scale, 1.0)
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    d = ((torch.arange(size) + 0.5)[None] - centres[:, None]).abs() / wide
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    kernel = torch.where(d < 1, near, torch.where(d < 2, far, 0))
    return (kernel / kernel.sum(1, keepdim=True) * 2**22).round() / 2**22


def test_gradients_of_recompress_are_the_composed_references(images: Tensor) -> None:
    layer = Recompress((60, 90), scale=0.6)
    drawn = layer.draw(images)
    rows, columns = weights_of_pillow(21, 13), weights_of_pillow(30, 18)

    def limited(x: Tensor) -> Tensor:
        clamped = x.clamp(0, 255)
        return clamped + ((clamped + 0.5).floor() - clamped).detach()

    def composed(x: Tensor) -> Tensor:
        levels = 255 * x
        levels = levels + (levels.round() - levels).detach()
        small = limited(rows @ limited(levels @ columns.T))
        return straight(small / 255, drawn.compressions[0].quality)

    torch.testing.assert_close(gradient(lambda x: layer(x, drawn), images), gradient(composed, images))


@pytest.mark.parametrize("kind", list(ALL))
def test_a_gradient_flows_and_bytes_have_none(kind: str, images: Tensor) -> None:
    x = images.clone().requires_grad_()
    ALL[kind]()(x).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.flatten(1).any(1).all())
    assert not ALL[kind]()((images * 255).byte()).requires_grad


# ---------------------------------------------------------------------------------------------------------------------
# As layers


@pytest.mark.parametrize("kind", list(ALL))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 3, 21, 30), (3, 21, 30), (2, 3, 1, 21, 30), (1, 1, 21, 30), (0, 3, 21, 30)])
def test_each_takes_any_batch_and_keeps_what_it_is(
    kind: str, dtype: torch.dtype, shape: tuple[int, ...], images: Tensor
) -> None:
    samples = images.flatten().repeat(2)[: int(np.prod(shape))].reshape(shape)
    given = (samples * 255).byte() if dtype == torch.uint8 else samples.to(dtype)
    before = given.clone()
    out = ALL[kind]()(given)
    assert (out.shape, out.dtype) == (given.shape, dtype)
    assert torch.equal(given, before)
    if given.numel() > 0:
        assert not torch.equal(out, given)
    never, drawn = ALL[kind](p=0)(given, return_parameters=True)
    assert torch.equal(never, given)
    assert not bool(drawn.applied.any())


@pytest.mark.parametrize("kind", list(ALL))
def test_bytes_and_floats_come_out_alike(kind: str, images: Tensor) -> None:
    layer = ALL[kind](p=0.7)
    given = (images * 255).round().byte()
    drawn = layer.draw(given)
    as_floats = layer(given.float() / 255, drawn)
    assert torch.equal(layer(given, drawn), (as_floats * 255).round().byte())


@pytest.mark.parametrize("kind", list(ALL))
def test_a_generator_or_the_seed_repeats_the_draws(kind: str, images: Tensor) -> None:
    private = [ALL[kind](p=0.7, generator=torch.Generator().manual_seed(5))(images) for _ in range(2)]
    seeded = []
    for _ in range(2):
        torch.manual_seed(9)
        seeded.append(ALL[kind](p=0.7)(images))
    for first, again in (private, seeded):
        assert torch.equal(first, again)
    assert not torch.equal(private[0], seeded[0])


@pytest.mark.parametrize("kind", list(ALL))
def test_returned_parameters_make_the_same_again_and_cost_no_draw(kind: str, images: Tensor) -> None:
    layer = ALL[kind](p=0.7)
    torch.manual_seed(1)
    out, drawn = layer(images, return_parameters=True)
    torch.manual_seed(1)
    assert torch.equal(layer(images), out)
    state = torch.get_rng_state()
    assert torch.equal(layer(images, drawn), out)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(out[~drawn.applied], images[~drawn.applied])


@pytest.mark.parametrize("kind", list(ON_DEVICE))
def test_draws_on_the_device_read_no_tensor(kind: str, images: Tensor) -> None:
    layer = ON_DEVICE[kind](p=0.7).to("meta")
    x = images.to("meta").requires_grad_()
    with NoReading():
        layer(x).sum().backward()
        layer((images * 255).byte().to("meta"))
    assert x.grad is not None


@pytest.mark.parametrize("kind", list(ON_DEVICE))
def test_draws_on_the_device_compile_without_a_break(kind: str, images: Tensor) -> None:
    torch.compiler.reset()
    layer = ON_DEVICE[kind](p=0.7)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    drawn = layer.draw(images)
    assert torch.equal(compiled(images, drawn), layer(images, drawn))
    torch.manual_seed(4)
    out, labels = compiled(images, return_parameters=True)
    assert torch.equal(layer(images, labels), out)
    assert torch.equal(out[~labels.applied], images[~labels.applied])


@pytest.mark.parametrize("kind", list(ON_HOST))
def test_draws_on_the_host_break_the_graph_and_nothing_else(kind: str, images: Tensor) -> None:
    torch.compiler.reset()
    layer = ON_HOST[kind](p=0.7)
    compiled = torch.compile(layer, backend="aot_eager")
    drawn = layer.draw(images)
    assert torch.equal(compiled(images, drawn), layer(images, drawn))
    with pytest.raises(Exception, match=r"in_groups|tolist|disable"):
        torch.compile(layer, fullgraph=True, backend="aot_eager")(images)


class Between(nn.Module):
    """A layer between two that have a derivative of their own, so that another draw gives another gradient."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.layer = layer

    def forward(self, x: Tensor, parameters: Any = None) -> Tensor:
        out: Tensor = self.layer(self.first(x).sigmoid(), parameters).square()
        return out


@pytest.mark.parametrize("kind", list(ALL))
@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_draws_the_same(kind: str, reentrant: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    stages = [Between(ALL[kind](p=0.6)) for _ in range(2)]
    found = []
    for recomputed in (False, True):
        torch.manual_seed(2)
        x = images.clone().requires_grad_()
        out = x
        for stage in stages:
            out = checkpoint(stage, out, use_reentrant=reentrant) if recomputed else stage(out)
        parameters = [parameter for stage in stages for parameter in stage.parameters()]
        out.sum().backward()
        found.append([x.grad, *(parameter.grad.clone() for parameter in parameters)])
        for parameter in parameters:
            parameter.grad = None
    for once, twice in zip(*found, strict=True):
        assert torch.equal(once, twice)


@pytest.mark.parametrize("kind", ["a range", "double"])
def test_recomputation_with_a_private_generator_takes_the_draws_from_outside(kind: str, images: Tensor) -> None:
    stage = Between(ALL[kind](generator=torch.Generator().manual_seed(1)))
    drawn = stage.layer.draw(images)
    expected = torch.autograd.grad(stage(images, drawn).sum(), stage.first.weight)[0]
    again = torch.autograd.grad(checkpoint(stage, images, drawn, use_reentrant=False).sum(), stage.first.weight)[0]
    assert torch.equal(again, expected)
    with pytest.raises(RuntimeError, match=r"parameters must be given where activation checkpointing"):
        checkpoint(stage, images, use_reentrant=False).sum().backward()


def test_replicas_of_a_parallel_layer_have_nothing_to_exchange(images: Tensor, tmp_path: Path) -> None:
    layers = [make() for make in ALL.values()]
    for layer in layers:
        assert list(layer.parameters()) == []
        assert layer.state_dict() == {}
    model = nn.Sequential(*layers, nn.Conv2d(3, 2, 3))

    def gradients_of_a_replica() -> list[Tensor | None]:
        parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
        torch.manual_seed(3)
        parallel(images).sum().backward()
        return [parameter.grad for parameter in parallel.module.parameters()]

    theirs = in_process_group(gradients_of_a_replica, store=tmp_path / "store")
    torch.manual_seed(3)
    model(images).sum().backward()
    for mine, other in zip(model.parameters(), theirs, strict=True):
        assert torch.equal(mine.grad, other)


def test_weights_decide_how_often_a_choice_is_drawn() -> None:
    pictures = torch.zeros(4000, 1, 1, 1)
    torch.manual_seed(0)
    drawn = RandomJPEG(qualities=(10, 40, 90), weights=(1, 0, 3)).draw(pictures)
    counts = [int((drawn.quality == quality).sum()) for quality in (10, 40, 90)]
    assert counts[1] == 0
    assert abs(counts[0] - 1000) < 5 * (4000 * 3 / 16) ** 0.5
    uniform = RandomJPEG(tables=TABLES).draw(pictures).table.bincount()
    assert int((uniform - 4000 / 3).abs().max()) < 5 * (4000 * 2 / 9) ** 0.5


def test_a_layer_made_on_the_meta_device_draws_the_same() -> None:
    choices = ({"tables": TABLES, "weights": (1, 2, 3)}, {"qualities": np.array([20, 60, 90])}, {"quality": (40, 60)})
    for options in choices:
        with torch.device("meta"):
            layer = RandomJPEG(**options)
        layer.to_empty(device="cpu")
        pictures = torch.rand(6, 3, 16, 16)
        results = []
        for one in (layer, RandomJPEG(**options)):
            torch.manual_seed(1)
            results.append(one(pictures))
        assert torch.equal(*results)
        assert not layer.state_dict()


def test_a_layer_makes_an_attackers_gradient_its_own() -> None:
    for make in ALL.values():
        gradients = [part.gradient for part in make(gradient="cubic").modules() if hasattr(part, "gradient")]
        assert gradients
        assert all(one == fdjpeg.surrogates.resolve("cubic") for one in gradients)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomJPEG((5, 9), qualities=[4]), "qualities take the place of quality: give one of them"),
        (lambda: RandomJPEG(qualities=[4], tables=TABLES), "qualities and tables take the place of quality"),
        (lambda: RandomJPEG(qualities=[0]), r"qualities must be one or more integers in 1…100, got \[0\]"),
        (lambda: RandomJPEG(weights=[1]), r"weights must come with qualities or tables, got \[1\] alone"),
        (lambda: RandomJPEG(qualities=[4], weights=[1, 2]), "weights must be 1 numbers, one for each choice, got 2"),
        (lambda: RandomJPEG(qualities=[4], weights=[-1]), r"weights must be finite, at least 0 .* got \[-1\]"),
        (lambda: RandomJPEG(qualities=[4], weights=[float("nan")]), "weights must be finite"),
        (lambda: RandomJPEG(tables=[]), "tables must be one or more sets, got none"),
        (lambda: RandomJPEG(tables=QuantTables.flat(3)), "tables must be a list of fdjpeg.QuantTables"),
        (lambda: RandomJPEG(tables=[QuantTables.flat(300)]), r"tables.y\[0, 0\] must be in 1…255, got 300"),
        (
            lambda: RandomJPEG(tables=[QuantTables.standard(torch.tensor([3, 4]))]),
            "tables must be single sets, got a batch",
        ),
        (lambda: RandomJPEG(tables="nowhere.json"), "tables must name a file of fdjpeg tables harvest, got 'nowhere"),
        (lambda: RandomJPEG(subsampling=[]), "subsampling must be a name or one or more of them, got none"),
        (lambda: RandomJPEG(subsampling=["4:2:0", "4:2:1"]), "subsampling must be one of .* got '4:2:1'"),
        (lambda: DoubleJPEG(shift=(8, 0)), r'shift must be "random", "aligned" or two integers in 0…7, got \(8, 0\)'),
        (lambda: DoubleJPEG(shift="some"), "shift must be .* got 'some'"),
        (lambda: DoubleJPEG(second={"strength": 3}), "second must hold arguments among .* got 'strength'"),
        (lambda: DoubleJPEG(p=2), "p must be a probability"),
        (lambda: Recompress(), "scale or longer_side must be given, and only one, got None and None"),
        (lambda: Recompress(scale=0.5, longer_side=9), "scale or longer_side must be given, and only one"),
        (lambda: Recompress(scale=0), "scale must be a number above 0, or the least and the greatest, got 0"),
        (lambda: Recompress(scale=(0.9, 0.5)), "scale must be a number above 0"),
        (lambda: Recompress(longer_side=0), "longer_side must be an integer of at least 1, got 0"),
        (lambda: Recompress(scale=0.5, times=0), "times must be an integer of at least 1, got 0"),
        (lambda: Recompress(scale=0.5, filter="box"), "filter must be one of 'bicubic', 'bilinear', got 'box'"),
        (lambda: Recompress(scale=0.5, p=0.5), "restore must be True where a batch would hold several sizes"),
        (lambda: Recompress(scale=(0.5, 0.9)), "restore must be True where a batch would hold several sizes"),
        (lambda: Recompress(scale=0.5, restore=1), "restore must be True or False, got 1"),
    ],
)
def test_bad_arguments_are_refused_with_a_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_a_layer_says_what_it_draws() -> None:
    assert "qualities=(10, 40)" in repr(RandomJPEG(qualities=[10, 40]))
    assert "tables=3 sets" in repr(RandomJPEG(tables=TABLES))
    assert "shift='random'" in repr(DoubleJPEG())
    assert "scale=(0.5, 0.5)" in repr(Recompress(scale=0.5))
    assert "longer_side=640" in repr(Recompress(longer_side=640))


def test_counted_tables_are_drawn_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "tables.json"
    TableCounts(TABLES, [1, 5, 2]).save(file)
    layer = RandomJPEG(tables=file)
    assert layer.weights == (1, 5, 2)
    assert layer.steps == RandomJPEG(tables=TABLES).steps
    with pytest.raises(ValueError, match="weights must be None where tables are a file"):
        RandomJPEG(tables=file, weights=[1, 2, 3])
    for text in ("[]", '{"format": "fdjpeg-table-counts/1"}', '{"format": "fdjpeg-table-counts/1", "sets": []}'):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"tables must name a file .*tables\.json"):
            RandomJPEG(tables=file)
