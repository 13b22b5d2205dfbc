"""The length of entropy-coded data: counted, against files of Pillow and libjpeg; and estimated, against the count."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from support import oracles
from support.cases import CONTENTS
from torch import Tensor

import fdjpeg
from fdjpeg import Coefficients, QuantTables, bits, rate
from fdjpeg.reference import real_idct

PILLOW_WRITES = ("4:4:4", "4:2:2", "4:2:0")


def scan_bytes(file: bytes) -> int:
    """Counts the bytes of entropy-coded data in a file with one scan, without stuffed zero bytes (T.81, B.1.1.5)."""
    place = 2  # after SOI
    while file[place + 1] != 0xDA:  # SOS
        place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    place += 2 + int.from_bytes(file[place + 2 : place + 4], "big")
    assert file.endswith(b"\xff\xd9")  # EOI
    return len(file[place:-2].replace(b"\xff\x00", b"\xff"))


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Computes Spearman's, for numbers that all differ."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def test_bits_are_the_scan_of_1000_files_that_pillow_wrote(rng: np.random.Generator) -> None:
    contents = list(CONTENTS.values())
    for case in range(1000):
        height, width = (int(side) for side in rng.integers(1, 71, 2))
        channels = 1 if rng.random() < 0.25 else 3
        quality, subsampling = int(rng.integers(1, 101)), str(rng.choice(PILLOW_WRITES))
        pixels = contents[case % len(contents)](rng, channels, height, width)
        counted = int(bits(fdjpeg.encode(torch.tensor(pixels), quality, subsampling=subsampling)))
        file = oracles.encode(pixels, quality, subsampling)
        assert -(-counted // 8) == scan_bytes(file), (case, height, width, channels, quality, subsampling)


@pytest.mark.parametrize("subsampling", ["4:4:0", "4:1:1"])
def test_bits_are_the_scan_of_files_that_libjpeg_wrote(rng: np.random.Generator, subsampling: str) -> None:
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(1, 71, 2))
        pixels = CONTENTS["noise"](rng, 3, height, width)
        tables = rng.integers(1, 60, (3, 8, 8))
        made = fdjpeg.encode(torch.from_numpy(pixels), tables=QuantTables(*tables), subsampling=subsampling)
        assert -(-int(bits(made)) // 8) == scan_bytes(oracles.encode_with_libjpeg(pixels, tables, subsampling))


def test_bits_know_every_symbol(rng: np.random.Generator) -> None:
    """Coefficients of every size after every run; images have few of them."""
    for density in (0.01, 0.05, 0.3, 1.0):
        components = []
        for blocks in ((5, 7), (3, 4), (3, 4)):
            magnitude = 2.0 ** rng.uniform(0, 10, (*blocks, 8, 8))
            sparse = magnitude * rng.choice([-1, 1], magnitude.shape) * (rng.random(magnitude.shape) < density)
            components.append(np.trunc(sparse).clip(-1023, 1023).astype(np.int16))
        made = Coefficients(
            *(torch.from_numpy(x)[None] for x in components), QuantTables.standard(75), (35, 50), "4:2:0"
        )
        stream = io.BytesIO()
        made.save(stream)
        assert -(-int(bits(made)) // 8) == scan_bytes(stream.getvalue())


def test_bits_of_a_batch_are_those_of_its_images(rng: np.random.Generator) -> None:
    made = fdjpeg.encode(torch.from_numpy(rng.integers(0, 256, (5, 3, 33, 20), dtype=np.uint8)), 60)
    counted = bits(made)
    assert counted.dtype == torch.int64
    assert counted.tolist() == [int(bits(image)) for image in made]
    assert bits(fdjpeg.encode(torch.empty(0, 3, 8, 8))).shape == (0,)


def test_bits_are_minus_one_where_no_file_can_hold_the_coefficients() -> None:
    y = torch.zeros(5, 1, 2, 8, 8, dtype=torch.int16)
    y[0, 0, 0, 0, 1], y[1, 0, 0, 0, 1] = 1023, -1024  # AC
    y[2, 0, 0, 0, 0], y[2, 0, 1, 0, 0] = -1024, 1023  # DC: a difference of 2047
    y[3, 0, 0, 0, 0], y[3, 0, 1, 0, 0] = -1024, 1024
    y[4, 0, 0, 0, 0] = -32768
    counted = bits(Coefficients(y, None, None, QuantTables.flat(1), (8, 16), "4:4:4"))
    assert (counted == -1).tolist() == [False, True, False, True, True]


def test_every_8_bit_image_can_be_coded() -> None:
    """The images that reach the largest coefficients: 0 and 255 by the sign of each basis function, at step 1."""
    basis = real_idct(torch.eye(64).unflatten(1, (8, 8)))
    extremes = torch.where(torch.cat([basis, -basis]) > 0, 255, 0).to(torch.uint8)
    made = fdjpeg.encode(extremes[:, None], tables=QuantTables.flat(1))
    assert int(made.y.abs().max()) >= 1020
    assert bool((bits(made) > 0).all())


def test_bits_are_taken_without_reading_back_and_under_vmap(rng: np.random.Generator) -> None:
    made = fdjpeg.encode(torch.from_numpy(rng.integers(0, 256, (2, 3, 17, 20), dtype=np.uint8)))
    assert torch.equal(torch.compile(bits, fullgraph=True, backend="eager")(made), bits(made))
    images = torch.from_numpy(rng.integers(0, 256, (3, 2, 1, 9, 10), dtype=np.uint8))
    mapped = torch.vmap(lambda image: bits(fdjpeg.encode(image)))(images)
    assert mapped.flatten().tolist() == bits(fdjpeg.encode(images)).tolist()


def test_bits_want_coefficients() -> None:
    with pytest.raises(TypeError, match=r"coefficients must be fdjpeg\.Coefficients, got Tensor"):
        bits(torch.zeros(1, 1, 8, 8))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------------
# Estimating


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Returns photographs to which nothing was fitted."""
    pytest.importorskip("foolbox")
    from fdjpeg.sources import photographs

    return photographs().images


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [25, 50, 75, 95])
def test_rate_is_near_to_bits_on_photographs(photographs: Tensor, quality: int, subsampling: str) -> None:
    counted = bits(fdjpeg.encode(photographs, quality, subsampling=subsampling)).double()
    with torch.no_grad():
        estimated = torch.cat([rate(part, quality, subsampling=subsampling) for part in photographs.split(5)]).double()
    error = estimated / counted - 1
    pooled, worst = float(estimated.sum() / counted.sum() - 1), float(error.abs().max())
    correlation = rank_correlation(estimated, counted)
    print(
        f"quality {quality} {subsampling}: pooled {pooled:+.2%}, worst {worst:.2%}, rank correlation {correlation:.4f}"
    )
    assert abs(pooled) <= 0.05
    assert worst <= 0.15
    assert correlation >= 0.98


def unlike_tables() -> dict[str, QuantTables]:
    """Returns tables unlike the standard ones: flat, steeper, and falling where those rise."""
    frequency = torch.arange(8)[:, None] + torch.arange(8)
    return {
        "flat 8": QuantTables.flat(8),
        "flat 30": QuantTables.flat(30),
        "flat 100": QuantTables.flat(100),
        "steep": QuantTables(4 + 10 * frequency, 8 + 16 * frequency, 2 + 6 * frequency),
        "falling": QuantTables(150 - 10 * frequency, 120 - 8 * frequency),
    }


@pytest.mark.parametrize("name", unlike_tables())
def test_rate_is_near_to_bits_under_tables_unlike_the_standard_ones(photographs: Tensor, name: str) -> None:
    tables = unlike_tables()[name]
    counted = bits(fdjpeg.encode(photographs, tables=tables)).double()
    with torch.no_grad():
        estimated = torch.cat([rate(part, tables=tables) for part in photographs.split(5)]).double()
    pooled, worst = float(estimated.sum() / counted.sum() - 1), float((estimated / counted - 1).abs().max())
    print(f"{name}: pooled {pooled:+.2%}, worst {worst:.2%}")
    assert abs(pooled) <= 0.05
    assert worst <= 0.15


def test_rates_gradient_by_a_step_is_what_bits_change_by(photographs: Tensor) -> None:
    """Against the count when one step of a flat table is multiplied and divided by 1.15."""
    flat = torch.full((8, 8), 40)
    logs = flat.log().requires_grad_()
    for part in photographs.split(5):
        rate(part, tables=QuantTables(logs.exp(), flat)).sum().backward()
    for place in [(0, 0), (0, 1), (2, 2), (0, 7), (4, 4)]:
        counted, used = [], []
        for factor in (1 / 1.15, 1.15):
            luma = flat.clone()
            luma[place] = round(40 * factor)
            counted.append(int(bits(fdjpeg.encode(photographs, tables=QuantTables(luma, flat))).sum()))
            used.append(math.log(int(luma[place])))
        change = (counted[1] - counted[0]) / (used[1] - used[0])
        print(f"{place}: bits {change:.0f}, rate {float(logs.grad[place]):.0f} for a factor e")
        assert float(logs.grad[place]) == pytest.approx(change, rel=0.1)


def test_rate_is_the_expectation_of_bits_over_independent_sizes() -> None:
    """Against the sum over every combination of sizes, by the formula of the chances and by `bits`."""
    places = [(0, 0), (1, 1), (2, 5), (7, 7)]  # in zigzag order DC, 4, 33 (so that there is a ZRL) and 63
    c = torch.tensor([3.2, -0.7, 1.4, 0.6], dtype=torch.float64)
    block = torch.zeros(8, 8, dtype=torch.float64)
    block[tuple(zip(*places, strict=True))] = c
    image = (real_idct(block) + 128)[None, None] / 255
    estimated = float(rate(image, tables=QuantTables.flat(1), soft=True))

    thresholds = 1.03 * (2.0 ** torch.arange(11, dtype=torch.float64) - 0.5)
    reached = c[:, None] ** 8 / (c[:, None] ** 8 + thresholds**8)
    reached[1:, 10] = 0  # no AC coefficient is of size 11
    chances = torch.cat([torch.ones(4, 1), reached], 1) - torch.cat([reached, torch.zeros(4, 1)], 1)
    sizes = torch.tensor(list(itertools.product(range(12), *[range(11)] * 3)))
    y = torch.zeros(len(sizes), 1, 1, 8, 8, dtype=torch.int16)
    for number, (row, column) in enumerate(places):
        y[:, 0, 0, row, column] = torch.where(sizes[:, number] > 0, 2 ** (sizes[:, number] - 1).clamp(min=0), 0)
    counted = bits(Coefficients(y, None, None, QuantTables.flat(1), (8, 8), "4:4:4"))
    weights = chances.gather(1, sizes.T).prod(0)
    assert float(weights.sum()) == pytest.approx(1)
    assert estimated == pytest.approx(float((weights * counted).sum()), rel=1e-9)


def test_a_number_and_a_tensor_of_it_are_the_same_quality_to_float64(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.uniform(0, 1, (1, 3, 24, 24)))
    for quality in (37.3, 71.9):
        wanted = rate(image, torch.tensor(quality, dtype=torch.float64), soft=True)
        torch.testing.assert_close(rate(image, quality, soft=True), wanted, rtol=1e-13, atol=0)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_rate_passes_gradcheck_where_soft(rng: np.random.Generator, subsampling: str) -> None:
    image = torch.from_numpy(rng.uniform(0, 1, (2, 3, 9, 17))).requires_grad_()
    quality = torch.tensor([30.5, 80.2], dtype=torch.float64, requires_grad=True)
    table = torch.from_numpy(rng.uniform(2, 40, (8, 8))).requires_grad_()

    def by_quality(image: Tensor, quality: Tensor) -> Tensor:
        return rate(image, quality, subsampling=subsampling, soft=True)

    def by_tables(image: Tensor, table: Tensor) -> Tensor:
        return rate(image, tables=QuantTables(table, 2 * table), subsampling=subsampling, soft=True)

    assert torch.autograd.gradcheck(by_quality, (image, quality), fast_mode=True)
    assert torch.autograd.gradcheck(by_tables, (image, table), fast_mode=True)
    assert torch.autograd.gradgradcheck(by_tables, (image, table), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rate_has_gradients_of_image_tables_and_quality(rng: np.random.Generator, dtype: torch.dtype) -> None:
    image = torch.from_numpy(rng.uniform(0, 1, (2, 3, 20, 30))).to(dtype).requires_grad_()
    quality = torch.tensor([40.0, 90.0], requires_grad=True)
    table = (QuantTables.standard(60).y + 0.3).requires_grad_()
    for estimated in (rate(image, quality), rate(image, tables=QuantTables(table, table))):
        assert estimated.shape == (2,)
        assert estimated.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        estimated.sum().backward()
    for leaf in (image, quality, table):
        assert leaf.grad is not None
        assert bool(leaf.grad.isfinite().all())
        assert bool((leaf.grad != 0).any())
    assert bool((quality.grad > 0).all())  # more quality, more bits
    assert bool((table.grad < 0).all())  # larger steps, fewer bits


def test_flat_images_and_hostile_steps_have_finite_gradients() -> None:
    for value in (0.0, 128 / 255, 1.0):
        image = torch.full((1, 3, 16, 16), value, requires_grad=True)
        rate(image).sum().backward()
        assert bool(image.grad.isfinite().all())
    steps = torch.full((8, 8), 9.0)
    steps[0] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0, -3, 300, 1.5, 2.5])
    steps.requires_grad_()
    image = torch.linspace(0, 1, 256).reshape(1, 1, 16, 16)
    tables = QuantTables(steps, steps)
    estimated = rate(image, tables=tables)
    assert torch.equal(estimated, rate(image, tables=tables.integer()))
    estimated.sum().backward()
    assert bool(steps.grad.isfinite().all())


def test_a_step_against_the_gradient_saves_bits_and_one_along_it_costs_some(photographs: Tensor) -> None:
    image = photographs[:4].clone().requires_grad_()
    rate(image, 75).sum().backward()
    before, less, more = (
        bits(fdjpeg.encode((image + step / 255 * image.grad.sign()).detach().clamp(0, 1), 75)) for step in (0, -2, 2)
    )
    print(before.tolist(), less.tolist(), more.tolist())
    assert bool((less < 0.96 * before).all())
    assert bool((more > 1.05 * before).all())


def test_rate_of_grey_bytes_and_of_batches_of_any_shape(rng: np.random.Generator) -> None:
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 3, 1, 24, 31), dtype=np.uint8))
    whole = rate(pixels, 50)
    assert whole.shape == (6,)
    torch.testing.assert_close(whole, rate(pixels.double() / 255, 50).float())
    torch.testing.assert_close(rate(pixels[1, 2], 50), whole[-1:])
    torch.testing.assert_close(torch.vmap(lambda image: rate(image, 50))(pixels).flatten(), whole)
    assert rate(pixels[:0], 50).shape == (0,)


def test_rate_under_compile_and_func_grad(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.uniform(0, 1, (2, 3, 16, 24))).float()
    compiled = torch.compile(lambda image: rate(image, 75), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(image), rate(image, 75))
    leaf = image.clone().requires_grad_()
    rate(leaf, 75).sum().backward()
    torch.testing.assert_close(torch.func.grad(lambda image: rate(image, 75).sum())(image), leaf.grad)


def test_rate_says_what_is_wrong() -> None:
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(TypeError, match="soft must be True or False, got 1"):
        rate(image, soft=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="subsampling must be one of"):
        rate(image, subsampling="4:2:1")
    with pytest.raises(ValueError, match=r"quality must be in 1…100, got 0"):
        rate(image, 0)
    with pytest.raises(ValueError, match="image must have shape"):
        rate(torch.zeros(1, 2, 8, 8))
