"""The networks that the defences are made of: layers, sizes and ranges, as their sources and docstrings give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.defense_data import SEED, patterns
from torch import Tensor, nn

from fdjpeg import defenses
from fdjpeg.defenses import (
    s2snet,
)
from fdjpeg.defenses.defensive_distillation import Centred, DistillationNet, Tempered
from fdjpeg.defenses.purifier import ConvAutoencoder
from fdjpeg.defenses.s2snet import ARCHITECTURES, SegNetAutoencoder

#: Weights and draws without a seed of their own follow from the name of the test.
pytestmark = pytest.mark.usefixtures("rng")

IMAGES, LABELS = patterns(6, SEED)


def test_the_purifiers_autoencoder_has_a_bottleneck_of_a_quarter() -> None:
    net = ConvAutoencoder(3, (4, 6, 8))
    sizes = []
    x = torch.rand(2, 3, 16, 24)
    for part in (*net.encoder, *net.decoder):
        x = part(x)
        sizes.append(tuple(x.shape[1:]))
    assert sizes[1::2] == [(4, 16, 24), (6, 8, 12), (8, 4, 6), (6, 8, 12), (4, 16, 24), (3, 16, 24)]
    kinds = [type(part) for part in (*net.encoder, *net.decoder)]
    assert kinds[1::2] == [nn.ReLU] * 5 + [nn.Sigmoid]
    assert kinds[::2] == [nn.Conv2d] * 3 + [nn.ConvTranspose2d] * 2 + [nn.Conv2d]
    sides = [part.kernel_size[0] for part in (*net.encoder[::2], *net.decoder[::2])]
    assert sides == [3, 3, 3, 4, 4, 3]


@pytest.mark.parametrize(
    ("make", "size", "padded"),
    [
        (lambda: ConvAutoencoder(3, (4, 6, 8)), (11, 13), (12, 16)),
        (lambda: SegNetAutoencoder([[4, 4], [6, 6]]), (13, 11), (16, 12)),
        (lambda: SegNetAutoencoder([[2], [2], [2]]), (9, 19), (16, 24)),  # three stages divide by 8
    ],
)
def test_autoencoders_replicate_the_edge_to_the_next_size(
    make: Any, size: tuple[int, int], padded: tuple[int, int]
) -> None:
    net = make().eval()
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(SEED))
    more = [(0, after - before) for before, after in zip(size, padded, strict=True)]
    whole = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), *more), mode="edge").copy())
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(whole)[..., : size[0], : size[1]])


def test_images_that_fit_are_not_moved() -> None:
    net = ConvAutoencoder(3, (4, 6, 8))
    assert torch.equal(net(IMAGES), net.decoder(net.encoder(IMAGES)))
    kept = SegNetAutoencoder([[3], [3]])
    kept.encoder = kept.decoder = nn.ModuleList([nn.Identity(), nn.Identity()])
    kept.last = nn.Identity()  # type: ignore[assignment]
    x = torch.zeros(1, 3, 8, 12)
    x[..., ::4, ::4] = torch.rand(1, 3, 2, 3) + 0.1  # the largest of its four by four
    assert torch.equal(kept(x), x)


def test_segnet_mirrors_its_encoder() -> None:
    net = SegNetAutoencoder([[4, 5], [6, 7, 8]], channels=1)
    assert [(part.in_channels, part.out_channels) for part in net.encoder.modules() if isinstance(part, nn.Conv2d)] == [
        (1, 4),
        (4, 5),
        (5, 6),
        (6, 7),
        (7, 8),
    ]
    assert [(part.in_channels, part.out_channels) for part in net.decoder.modules() if isinstance(part, nn.Conv2d)] == [
        (8, 7),
        (7, 6),
        (6, 5),
        (5, 4),
        (4, 4),
    ]
    assert (net.last.in_channels, net.last.out_channels) == (4, 1)
    convolutions = [part for part in net.modules() if isinstance(part, nn.Conv2d) and part is not net.last]
    assert all(part.bias is None and part.padding == (1, 1) for part in convolutions)
    assert [type(part) for part in net.encoder[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2  # type: ignore[arg-type]
    assert ARCHITECTURES["small"] == ((32, 32), (64, 64))
    assert [part.num_features for part in net.encoder.modules() if isinstance(part, nn.BatchNorm2d)] == [4, 5, 6, 7, 8]


def test_pooling_indices_return_to_their_places() -> None:
    net = SegNetAutoencoder([[2, 2]], channels=1)
    net.encoder[0] = nn.Identity()
    net.decoder[0] = nn.Identity()
    net.last = nn.Identity()  # type: ignore[assignment]
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [16, 15, 14, 13], [9, 10, 11, 12]])[None, None]
    expected = torch.tensor([[0.0, 0, 0, 0], [0, 6, 0, 8], [16, 0, 14, 0], [0, 0, 0, 0]])
    assert torch.equal(net(x)[0, 0], expected)


@pytest.mark.parametrize("kind", [defenses.S2SNet, defenses.Purifier])
def test_the_identity_passes_the_gradient_around_the_autoencoder(kind: Any) -> None:
    defense = kind() if kind is defenses.Purifier else kind("small")
    found = {}
    for gradient in defense.gradients:
        x = IMAGES.clone().requires_grad_()
        (found[gradient],) = torch.autograd.grad(defense.attacked(nn.Identity(), gradient)(x).sum(), x)
    assert torch.equal(found["identity"], torch.ones_like(IMAGES))
    assert not torch.equal(found["end-to-end"], found["identity"])


def test_the_s2snet_limits_its_images() -> None:
    defense = defenses.S2SNet("small").eval()
    nn.init.constant_(defense.autoencoder.last.bias, 5.0)  # type: ignore[arg-type]
    assert float(defense(IMAGES).detach().max()) == 1
    nn.init.constant_(defense.autoencoder.last.bias, -5.0)  # type: ignore[arg-type]
    assert float(defense(IMAGES).detach().min()) == 0


@pytest.mark.parametrize("size", range(16, 24))
def test_the_papers_network_takes_every_size_from_16(size: int) -> None:
    assert DistillationNet((2, 2, 2), size=size, classes=3)(torch.rand(2, 3, size, size)).shape == (2, 3)


def test_smaller_images_are_refused_by_the_papers_network() -> None:
    with pytest.raises(ValueError, match="size must be at least 16, got 15"):
        DistillationNet((2, 2, 2), size=15)


def test_the_papers_network_is_built_as_documented() -> None:
    torch.manual_seed(SEED)
    net = DistillationNet((8, 12, 40), channels=3, size=20, classes=5, dropout=0.25)
    expected = [(3, 8), (8, 8), (8, 12), (12, 12)]
    assert [(part.in_channels, part.out_channels) for part in net if isinstance(part, nn.Conv2d)] == expected
    assert all(part.kernel_size == (3, 3) and part.padding == (0, 0) for part in net if isinstance(part, nn.Conv2d))
    linear = [(part.in_features, part.out_features) for part in net if isinstance(part, nn.Linear)]
    assert linear == [(12 * 2 * 2, 40), (40, 40), (40, 5)]  # 20 → 18 → 16 → 8 → 6 → 4 → 2
    assert [part.p for part in net if isinstance(part, nn.Dropout)] == [0.25]
    kinds = [type(part) for part in net]
    assert kinds.index(nn.Dropout) == kinds.index(nn.Linear) + 2
    assert net(torch.rand(2, 3, 20, 20)).shape == (2, 5)
    for part in net:
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            deviation = (2 / part.weight[0].numel()) ** 0.5  # He's
            assert float(part.weight.detach().std()) == pytest.approx(deviation, rel=0.35)
            assert float(part.bias.detach().abs().max()) == 0  # type: ignore[union-attr]
    assert Centred()(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-2, 0, 2]
    assert Tempered(4.0)(torch.tensor([2.0, -8.0])).tolist() == [0.5, -2.0]


def test_the_cosine_is_between_the_losss_gradients() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    turned = nn.Sequential(Turned(), bare)
    assert s2snet.gradient_cosine(turned, bare, IMAGES, LABELS).shape == (6,)
    torch.testing.assert_close(s2snet.gradient_cosine(bare, bare, IMAGES, LABELS), torch.ones(6))
    flipped = s2snet.gradient_cosine(turned, bare, IMAGES, LABELS)
    a, b = (
        torch.autograd.grad(
            nn.functional.cross_entropy(model(x := IMAGES.clone().requires_grad_()), LABELS, reduction="sum"), x
        )[0].flatten(1)
        for model in (bare, turned)
    )
    expected = (a * b).sum(dim=1) / a.norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(flipped, expected)
    assert float(s2snet.gradient_cosine(nn.Sequential(Zeroed(), bare), bare, IMAGES, LABELS).abs().max()) == 0


class Turned(nn.Module):
    """Turns images around."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(-1)


class Zeroed(nn.Module):
    """Makes images black."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 0
