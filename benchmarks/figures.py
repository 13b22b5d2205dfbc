"""Draws README's and docs' figures from kept results: ``python benchmarks/figures.py``.

``docs/fidelity.svg``: the share of samples that equal Pillow's. ``docs/speed.svg``: time of a call on one thread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cpu" / "2026-11-21-cpu.json"
SETTINGS = {"svg.hashsalt": "fdjpeg", "svg.fonttype": "none", "font.size": 10}

#: Names in figures, of peers in the results.
PEERS = {
    "fdjpeg uint8": "fdjpeg, bytes",
    "fdjpeg float32": "fdjpeg",
    "Pillow codec": "Pillow, bytes",
    "Pillow tensors": "Pillow behind tensors",
    "simplejpeg": "simplejpeg, bytes",
    "OpenCV": "OpenCV, bytes",
    "kornia": "kornia",
}
OURS, THEIRS = "#0b6b8a", "#8a8f98"


def fidelity(results: dict[str, Any]) -> Figure:
    """Draws the share of equal samples at four qualities."""
    figure = Figure(figsize=(7, 2.9), layout="constrained", facecolor="white")
    axes = figure.subplots()
    peers = ("fdjpeg float32", "OpenCV", "simplejpeg", "kornia")
    qualities = (10, 50, 75, 95)
    for place, peer in enumerate(peers):
        equal = {row["quality"]: 100 * row["equal"] for row in results["fidelity"] if row["peer"] == peer}
        at = [number + 0.2 * (place - 1.5) for number in range(len(qualities))]
        shade = OURS if place == 0 else ("#3d4450", THEIRS, "#c4c8ce")[place - 1]
        bars = axes.bar(at, [equal[quality] for quality in qualities], 0.19, color=shade, label=PEERS[peer])
        axes.bar_label(bars, fmt=lambda value: "100" if value == 100 else f"{value:.1f}", fontsize=7)
    axes.set_xticks(range(len(qualities)), [f"quality {quality}" for quality in qualities])
    axes.set(ylabel="samples equal to Pillow's, %", ylim=(0, 112))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(peers), frameon=False)
    return figure


def speed(results: dict[str, Any]) -> Figure:
    """Draws the time of a call for one picture of 1024 × 1024, one thread, forward and with backward."""
    figure = Figure(figsize=(7, 2.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    found = {
        (row["peer"], row["direction"]): 1e3 * row["seconds"]
        for row in results["measurements"]
        if row["batch"] == "1×1024²" and row["threads"] == 1 and row["error"] is None
    }
    rows = [
        (f"{PEERS[peer]}, {direction.replace('+', ' + ')}", found[peer, direction], peer.startswith("fdjpeg"))
        for direction in ("forward", "forward+backward")
        for peer in ("fdjpeg float32", "Pillow tensors", "kornia")
    ]
    bars = axes.barh(
        [name for name, _, _ in rows],
        [time for _, time, _ in rows],
        color=[OURS if ours else THEIRS for *_, ours in rows],
    )
    axes.bar_label(bars, fmt=lambda value: f" {value:.3g} ms", fontsize=8)
    axes.set(xscale="log", xlabel="ms for 3 × 1024 × 1024, float32, one thread", xlim=(1, 2000))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Writes both files."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    with matplotlib.rc_context(SETTINGS):
        for name, draw in (("fidelity", fidelity), ("speed", speed)):
            draw(results).savefig(ROOT / "docs" / f"{name}.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
