"""Sanity checks: conditions of an evaluation that can be trusted, each with its figure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fdjpeg.attacks import parse_eps

from .cells import CERTIFICATE, Cell, number, total
from .certified import contradictions
from .results import Results, Row

#: Share of exactly zero gradients above which a gradient is useless. Clamps make some on any photograph.
MASKED = 0.5

#: Share of the whole gain in loss that the last tenth of the steps may bring. Steps shrink towards the end, so an
#: attack that still climbs steadily brings 2 %, one that has only begun far more.
RISING = 0.1


@dataclass(frozen=True)
class Check:
    """One sanity check of a run.

    Attributes:
        name: the condition that must hold.
        passed: whether it does.
        figure: the measurement.
        masked: the defences whose gradients a failure shows to be masked: they look robust only because the attacks
            follow useless gradients.
        stops: whether a failure makes every figure of the run worthless, so that the command ends in an error.

    Example::

        report = evaluate(model, loader, defenses=["jpeg:75"], attacks=["pgd-20"], eps=["2/255"])
        [check.name for check in report.checks if not check.passed]
    """

    name: str
    passed: bool
    figure: str
    masked: tuple[str, ...] = ()
    stops: bool = False


def run_checks(results: Results) -> list[Check]:
    """Runs all checks that the cells allow."""
    made: list[Check | None] = [
        _pillow(results),
        _numbers(results),
        _lossless(results),
        _inside(results),
        _more_radius(results),
        _noise(results),
        _knowing(results),
        _black_box(results),
        _zero_gradients(results),
        _large_radius(results),
        _one_step(results),
        _converged(results),
        _rising(results),
        _plain_rounding(results),
        _seed_fixed(results),
        _ones(results),
        _certified(results),
    ]
    return [check for check in made if check is not None]


def allowed(count: int) -> float:
    """Returns by how many images two attacks may differ: one point, or one image if that is more."""
    return max(1.0, count / 100)


def _named(failures: Iterable[str], otherwise: str) -> str:
    failures = list(failures)
    more = f" and {len(failures) - 4} more" if len(failures) > 4 else ""
    return "; ".join(failures[:4]) + more or otherwise


def _complete(results: Results) -> list[Row]:
    """Returns the rows whose attacks are all finished."""
    return [row for row in results.rows if row.complete]


def _pillow(results: Results) -> Check | None:
    judged = [cell for cell in results.cells if cell.differing is not None]
    if not judged:
        return None
    differing = sum(cell.differing or 0 for cell in judged)
    figure = f"{differing} samples differ in {len(judged)} cells of {results.count} images"
    return Check("Every judged image is Pillow's, sample for sample", differing == 0, figure)


def _numbers(results: Results) -> Check:
    found = [
        f"{cell.defense}, {cell.threat}{f' at {cell.eps}' if cell.eps else ''}: {cell.undefined} images"
        for cell in results.cells
        if cell.undefined
    ]
    name = "Every network and defence returns numbers: NaN counts as wrong"
    return Check(name, not found, _named(found, f"no NaN in {len(results.cells)} cells"))


def _lossless(results: Results) -> Check:
    origin = results.settings.images
    found = [f"{name} of quality {quality}" for name, quality in origin.on_lattice.items()]
    figure = f"{len(found)} of the {origin.lattice_tried} images tried"
    return Check("No image is a decompressed JPEG", not found, "; ".join([figure, *found[:3]]))


def _inside(results: Results) -> Check:
    reached = (
        max(cell.distance, default=0.0) / float(parse_eps(cell.eps, results.settings.norm))
        for cell in results.cells
        if cell.eps
    )
    far = max(reached, default=0.0)
    # The tolerance is for rounding in float32.
    return Check("Adversarial images stay within their radius", far < 1 + 1e-4, f"at most {far:.5f} of it")


def _more_radius(results: Results) -> Check:
    grown = [
        f"{a.defense} {number(a.worst)} at {a.eps}, {number(b.worst)} at {b.eps}"
        for a, b in zip(results.rows, results.rows[1:], strict=False)
        if a.defense == b.defense and a.complete and b.complete and b.worst > a.worst
    ]
    return Check("A larger radius never helps the defender", not grown, _named(grown, "worst case"))


def _noise(results: Results) -> Check:
    harmed = [
        f"{row.defense} at {row.eps}: {number(row.noise)} after noise, {number(row.worst)} after attacks"
        for row in results.rows
        if row.attacks and row.noise is not None and row.complete and row.noise < row.worst
    ]
    return Check("Random noise does less harm than the attacks", not harmed, _named(harmed, "every row"))


def _knowing(results: Results) -> Check:
    failures, masked = [], []
    for row in _complete(results):
        knowing = _adaptive(row, results)
        for threat in ("gray-box", "transfer"):
            if knowing is not None and threat in row.attacks and row.attacks[threat] < knowing:
                left = number(row.attacks[threat])
                failures.append(f"{row.defense} at {row.eps}: {left} after {threat}, {number(knowing)} after adaptive")
                masked.append(row.defense)
    name = "Knowing the layer never hurts the attacker"
    return Check(name, not failures, _named(failures, "every row"), tuple(masked))


def _black_box(results: Results) -> Check | None:
    failures, masked, seen = [], [], False
    for row in _complete(results):
        knowing = row.attacks.get("white-box", _adaptive(row, results))
        if knowing is not None and "black-box" in row.attacks:
            seen = True
            if row.attacks["black-box"] < knowing:
                failures.append(
                    f"{row.defense} at {row.eps}: {number(row.attacks['black-box'])} after queries, {number(knowing)} "
                    "with gradients"
                )
                masked.append(row.defense)
    name = "Queries alone never beat gradients"
    return Check(name, not failures, _named(failures, "every row"), tuple(masked)) if seen else None


def _adaptive(row: Row, results: Results) -> float | None:
    """Returns the number of images right under the best gradient, each gradient taken separately."""
    counts = [row.attacks[name] for name in results.gradients if name in row.attacks]
    return min(counts) if counts else None


def _zero_gradients(results: Results) -> Check | None:
    shares = {
        (cell.defense, cell.gradient): sum(cell.zeros) / len(cell.zeros)
        for cell in results.select(threat="zero gradients")
    }
    if not shares:
        return None
    failures = {key: share for key, share in shares.items() if share > MASKED}
    most = max(shares, key=lambda key: shares[key])
    return Check(
        "Gradients are not zero",
        not failures,
        _named(
            (
                f"{defense} through {gradient}: {100 * share:.0f} % exactly zero"
                for (defense, gradient), share in failures.items()
            ),
            f"at most {100 * shares[most]:.1f} % of samples ({most[0]} through {most[1]})",
        ),
        tuple(defense for defense, _ in failures),
    )


def _large_radius(results: Results) -> Check | None:
    left = {cell.defense: total(cell) for cell in results.select(threat="large radius")}
    if not left:
        return None
    failures = [f"{defense} keeps {number(value)}" for defense, value in left.items() if value > 0]
    name = "A radius that allows any image leaves none right"
    masked = tuple(defense for defense, value in left.items() if value > allowed(results.count))
    return Check(name, not failures, _named(failures, "0 of every defence"), masked)


def _one_step(results: Results) -> Check | None:
    pairs = []
    for single in results.select(threat="one step"):
        for many in results.select(single.defense, single.eps, "adaptive", single.gradient, single.attack):
            pairs.append(
                (single, total(single, results.clean(single.defense)), total(many, results.clean(many.defense)))
            )
    if not pairs:
        return None
    failures = [
        f"{cell.defense} through {cell.gradient} at {cell.eps}: {number(one)} after one step, {number(many)} after many"
        for cell, one, many in pairs
        if one < many - allowed(results.count)
    ]
    return Check("Many steps do more than one", not failures, _named(failures, f"{len(pairs)} attacks"))


def _converged(results: Results) -> Check | None:
    changes = []
    for cell in results.select(threat="twice the steps"):
        for row in results.rows:
            if (row.defense, row.eps) == (cell.defense, cell.eps):
                changes.append((row, row.known - total(cell)))
    if not changes:
        return None
    failures = [
        f"{row.defense} at {row.eps}: {number(change)} fewer"
        for row, change in changes
        if change > allowed(results.count)
    ]
    largest = max(change for _, change in changes)
    name = "Twice the steps changes less than one point (or one image)"
    return Check(name, not failures, _named(failures, f"at most {number(largest)} of {results.count} images"))


def _rising(results: Results) -> Check | None:
    shares = []
    for cell in results.cells:
        curve = cell.curve
        if cell.threat in ("white-box", "adaptive") and len(curve) > 10 and curve[-1] > curve[0]:
            before = curve[-1 - len(curve) // 10]
            shares.append(((curve[-1] - before) / (curve[-1] - curve[0]), cell))
    if not shares:
        return None
    failures = [f"{_label(cell)}: {100 * share:.0f} %" for share, cell in shares if share > RISING]
    largest = max(share for share, _ in shares)
    name = "The loss has stopped rising: the last tenth of the steps brings little"
    return Check(name, not failures, _named(failures, f"at most {100 * max(largest, 0):.1f} % of the gain"))


def _label(cell: Cell) -> str:
    through = f" through {cell.gradient}" if cell.gradient else ""
    return f"{cell.attack} on {cell.defense}{through} at {cell.eps}"


def _plain_rounding(results: Results) -> Check | None:
    figures, failures = [], []
    for cell in results.select(threat="plain rounding"):
        for row in results.rows:
            if (row.defense, row.eps) == (cell.defense, cell.eps):
                false = total(cell, results.clean(cell.defense))
                figures.append(f"{row.defense} at {row.eps}: {number(false)} instead of {number(row.worst)}")
                failures += figures[-1:] if false < row.worst else []
    if not figures:
        return None
    name = "Plain rounding in the graph, which hides the gradient, would show more robustness than there is"
    return Check(name, not failures, _named(failures or figures, ""))


def _seed_fixed(results: Results) -> Check | None:
    figures, failures = [], []
    for cell in results.select(threat="seed fixed"):
        for row in results.rows:
            if (row.defense, row.eps) == (cell.defense, cell.eps):
                figures.append(f"{row.defense} at {row.eps}: {number(total(cell))} with, {number(row.worst)} without")
                failures += figures[-1:] if total(cell) > row.worst + allowed(results.count) else []
    if not figures:
        return None
    return Check(
        "A randomised defence with its seed fixed is no stronger", not failures, _named(failures or figures, "")
    )


def _ones(results: Results) -> Check | None:
    for cell in results.select(threat="tables of ones"):
        for row in results.rows:
            if (row.defense, row.eps) == ("none", cell.eps) and "white-box" in row.attacks:
                bare, ones = row.attacks["white-box"], total(cell)
                figure = f"{number(ones)} right at {row.eps}, {number(bare)} of the bare network"
                name = "A codec whose steps are all 1 leaves what the bare network leaves, within two points or images"
                return Check(name, abs(ones - bare) <= 2 * allowed(results.count), figure)
    return None


def _certified(results: Results) -> Check | None:
    cells = results.select(threat=CERTIFICATE)
    if not cells:
        return None
    broken = contradictions(results)
    figure = _named(broken, f"0 of {number(sum(map(total, cells)))} certificates, in {len(cells)} cells")
    return Check("No attack breaks a certified image", not broken, figure, stops=True)


def masked(checks: Iterable[Check]) -> Iterator[tuple[str, list[Check]]]:
    """Yields the defences whose gradients are masked, with the failed checks that show it."""
    checks = [check for check in checks if not check.passed]
    for defense in dict.fromkeys(name for check in checks for name in check.masked):
        yield defense, [check for check in checks if defense in check.masked]
