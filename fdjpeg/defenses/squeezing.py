"""Simple filters before a classifier, and feature squeezing, which detects adversarial images by their effect.

Source: Xu, Evans, Qi, "Feature Squeezing", NDSS 2018, arXiv 1704.01155: fewer bits, the median, and the detector that
compares the classifier's output with and without them. Total variation: Guo et al. 2018, arXiv 1711.00117, with
Chambolle's algorithm (2004), which scikit-image computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fdjpeg._calls import call, logits_of
from fdjpeg._checks import check_list, check_module, check_positive, check_tensor, check_whole
from fdjpeg._numbers import is_real
from fdjpeg._packages import required
from fdjpeg._tracers import traced_layer

from .base import straight_through


class BitDepth(nn.Module):
    """Rounds each sample to ``bits`` bits: the nearest k / (2^bits − 1), half to even. Its gradient is zero.

    Args:
        bits: 1…8.

    Raises:
        ValueError, TypeError: a value out of its range.

    Example::

        BitDepth(5)(images)
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        check_whole("bits", bits, 1)
        if bits > 8:
            raise ValueError(f"bits must be in 1…8, got {bits}")
        self.bits = bits

    def forward(self, images: Tensor) -> Tensor:
        """Returns images ``(N, C, H, W)`` in [0, 1] of so many levels."""
        steps = 2**self.bits - 1
        return (images * steps).round() / steps


@traced_layer
class Median(nn.Module):
    """The median of a square window in each channel; edges are mirrored (dcba|abcd|dcba), as SciPy does by default.

    Of an even number of samples the upper middle one is taken, and an even window reaches further up and left.

    Args:
        size: height and width of the window, at least 2.

    Raises:
        ValueError: a value out of its range.

    Example::

        Median(2)(images)
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        check_whole("size", size, 2)
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Returns filtered images of the same shape ``(N, C, H, W)``."""
        before, after = self.size // 2, self.size - 1 - self.size // 2
        rows, columns = (_mirrored(length, before, after, images.device) for length in images.shape[2:])
        windows = images[:, :, rows][..., columns].unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        return windows.sort(dim=4).values[..., self.size**2 // 2]


def _mirrored(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Returns the indices of a line of samples with mirrored ends."""
    places = torch.arange(-before, length + after, device=device).remainder(2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


@traced_layer
class TotalVariation(nn.Module):
    """Denoises each image by total variation, in scikit-image, outside of torch: it has no gradient.

    Args:
        weight: of the variation, above 0; more is smoother.

    Raises:
        ValueError: a value out of its range.
        MissingPackage: scikit-image is not installed.

    Example::

        TotalVariation(0.05)(images)
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        check_positive("weight", weight)
        self.weight = weight
        self._denoise = required("skimage.restoration", "scikit-image", "eval").denoise_tv_chambolle

    def forward(self, images: Tensor) -> Tensor:
        """Returns smoother images of the same shape ``(N, C, H, W)``."""
        found = [
            torch.from_numpy(self._denoise(image.numpy(), weight=self.weight, channel_axis=0))
            for image in images.detach().cpu()
        ]
        return torch.stack(found).to(images).clamp(0, 1) if found else images.clone()


@traced_layer
class FeatureSqueezing(nn.Module):
    """A classifier that refuses images whose verdict depends on details: the detector of feature squeezing.

    An image's score is the largest L1 distance between the classifier's probabilities on the image and on the image
    behind one of the filters. Above the threshold the image is refused.

    The output has a class more than the classifier's: the last one means "refused". Its logit is the largest other one
    plus ``SLOPE`` × (score − threshold), so an attack that aims at a class through this module lowers the score, too.
    The derivative of each filter is the identity's (BPDA: Athalye et al. 2018, arXiv 1802.00420).

    Args:
        network: images in [0, 1] to logits.
        filters: images to images of the same shape.
        threshold: see ``calibrated``.

    Example::

        detector = FeatureSqueezing(network, [BitDepth(5), Median(2)]).calibrated(clean_images)
        refused = detector.score(images) > detector.threshold
        adaptive = PGD(steps=100, loss="margin", aim="given")(detector, images, wanted_classes, 8 / 255)
    """

    #: The gain of the score in the logit of refusal.
    SLOPE = 10.0

    def __init__(self, network: nn.Module, filters: Sequence[nn.Module], threshold: float = float("inf")) -> None:
        super().__init__()
        check_module("network", network)
        check_list("filters", filters)
        for part in filters:
            check_module("filters", part)
        if not filters:
            raise ValueError("filters must hold at least one module, got none")
        if not is_real(threshold):
            raise TypeError(f"threshold must be a number, got {threshold!r}")
        self.network = network
        self.filters = nn.ModuleList(filters)
        self.threshold = threshold
        self.training = False  # `eval()` would reach into the caller's modules

    def score(self, images: Tensor) -> Tensor:
        """Returns the score of each image, ``(N,)``, in 0…2."""
        return self._score(images, logits_of(self.network, images))

    def _score(self, images: Tensor, logits: Tensor) -> Tensor:
        plain = logits.softmax(dim=1)
        squeezed = [logits_of(self.network, _identity_behind(part, images)).softmax(dim=1) for part in self.filters]
        return torch.stack([(plain - other).abs().sum(dim=1) for other in squeezed]).amax(dim=0)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``(N, classes + 1)``; the last class means "refused"."""
        logits = logits_of(self.network, images)
        # A NaN stays one: where the network has no answer behind a filter, the verdict is undefined, never right.
        excess = (self.SLOPE * (self._score(images, logits) - self.threshold)).clamp(min=-1e4)
        return torch.cat([logits, (logits.amax(dim=1) + excess)[:, None]], dim=1)

    def calibrated(self, clean: Tensor, false_alarms: float = 0.05, at_once: int = 250) -> FeatureSqueezing:
        """Returns the detector with the threshold that refuses at most this share of clean images.

        Args:
            clean: ``(N, C, H, W)`` in [0, 1], images that neither the network nor the judgement sees.
            false_alarms: 0 … 1, the share of them that may be refused.
            at_once: images that go through the network at once.

        Raises:
            ValueError: no image, one whose score is NaN, or a share out of its range.
        """
        check_tensor("clean", clean, "(N, C, H, W)")
        check_whole("at_once", at_once, 1)
        if not is_real(false_alarms):
            raise TypeError(f"false_alarms must be a number, got {false_alarms!r}")
        if len(clean) == 0:
            raise ValueError("clean must hold at least one image, got none")
        if not 0 <= false_alarms < 1:
            raise ValueError(f"false_alarms must be at least 0 and less than 1, got {false_alarms}")
        with torch.no_grad():
            scores = torch.cat([self.score(part) for part in clean.split(int(at_once))]).sort().values
        if bool(scores.isnan().any()):
            raise ValueError("clean must be images whose logits are numbers behind every filter, got NaN")
        kept = len(scores) - int(false_alarms * len(scores))
        return FeatureSqueezing(self.network, list(self.filters), float(scores[kept - 1]))


def _identity_behind(module: nn.Module, images: Tensor) -> Tensor:
    """Returns a filter's output with the derivative of the identity."""
    with torch.no_grad():
        out: Tensor = call(module, images, "filters")
    return straight_through(images, out)
