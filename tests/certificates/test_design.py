"""Steps that certify by design."""

from __future__ import annotations

import pytest
import torch
from support.classifiers import SEED, Tiny

import fdjpeg
from fdjpeg import QuantTables
from fdjpeg._lattice import levels_of, offset_by_band, reach_by_band
from fdjpeg.attacks.codec import codecs_of
from fdjpeg.certificates import certify
from fdjpeg.certificates.reach import reach_of
from fdjpeg.defenses.defended import layer_defense
from fdjpeg.reference.exact import fdct, rgb_to_ycbcr, ycbcr_to_rgb


def test_components_survive_colours_of_bytes() -> None:
    """All components Y, Cb, Cr whose colour is not limited."""
    byte = torch.arange(256, dtype=torch.int32)
    greatest = 0
    for start in range(0, 256, 64):
        y, cb, cr = torch.meshgrid(byte[start : start + 64], byte, byte, indexing="ij")
        components = [part.reshape(1, -1, 256) for part in (y, cb, cr)]
        rgb = ycbcr_to_rgb(components)
        inside = ((rgb >= 0) & (rgb <= 255)).all(dim=1)
        for before, after in zip(components, rgb_to_ycbcr(rgb), strict=True):
            greatest = max(greatest, int((after - before).abs()[inside].max()))
    assert greatest == 0


@pytest.mark.parametrize("levels", [1, 2])
def test_reach_bounds_every_change(levels: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    colours = torch.randint(levels, 256 - levels, (400, 3, 8, 8), generator=generator, dtype=torch.int32)
    signs = fdjpeg.block_idct(torch.eye(64).view(64, 1, 1, 8, 8)).sign().to(torch.int32)[:, None]
    random = torch.randint(-levels, levels + 1, (336, 1, 8, 8), generator=generator, dtype=torch.int32)
    change = torch.cat([levels * signs, random]).expand(-1, 3, -1, -1)
    pairs = zip(rgb_to_ycbcr(colours), rgb_to_ycbcr(colours + change), strict=True)
    greatest = torch.stack([(fdct(b - 128) - fdct(a - 128)).abs().amax(dim=0) for a, b in pairs]).amax(dim=0) / 8
    assert bool((greatest <= reach_by_band(levels)).all())
    assert float((greatest / reach_by_band(levels)).mean()) > 0.8


@pytest.mark.parametrize("levels", [1, 2])
def test_no_coefficient_changes_where_the_first_pass_limited_nothing(levels: int) -> None:
    layer = fdjpeg.JPEG(tables=QuantTables.certifying(levels / 255), subsampling="4:4:4")
    generator = torch.Generator().manual_seed(SEED)
    x = 0.4 + 0.2 * torch.rand(64, 3, 16, 16, generator=generator)
    entered = layer(x)
    assert 0 < float(entered.min()) < float(entered.max()) < 1  # nothing was limited
    (codec,) = codecs_of(layer, entered, torch.arange(64), 0, "test")
    assert not bool(reach_of(codec, entered, levels / 255, False).changeable.any())
    assert len(entered.flatten(1).unique(dim=0)) > 60
    network = Tiny().eval()
    defended = layer_defense("certifying", layer, ("straight-through",), first=layer)
    with torch.no_grad():
        y = defended.deployed(network)(entered).argmax(dim=1)
    assert certify(defended, network, x, y, levels / 255).count("constant") == 64


def test_steps_grow_with_the_radius_until_there_are_none() -> None:
    assert [levels_of(eps / 255) for eps in (0.4, 0.5, 1, 1.4, 1.5, 8)] == [0, 1, 1, 1, 2, 8]
    one, two = (QuantTables.certifying(levels / 255).y for levels in (1, 2))
    assert bool((one < two).all())
    assert int(one[0, 0]) == int(one.max())
    assert bool((offset_by_band() > 0).all())
    with pytest.raises(ValueError, match=r"eps must be small enough for steps up to 255, got 0.07"):
        QuantTables.certifying(0.07)
    with pytest.raises(ValueError, match="eps must be positive and finite, got 0"):
        QuantTables.certifying(0)
