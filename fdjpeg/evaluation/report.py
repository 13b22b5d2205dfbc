"""The report of an evaluation: its tables, checks and sentences, and the files that people and programs read."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from . import certified, files, page
from .cells import number, wilson, worst_case
from .checks import Check, masked, run_checks
from .results import THREATS, Results, Row
from .text import Table, Text

#: A report calls fewer images few: from so many on no 95 % interval reaches 10 points beyond its share.
MANY = 100


class Report(Results):
    """The outcome of an evaluation.

    Attributes:
        settings: everything needed to run it again.
        cells: every judged experiment.
        images: the images that were attacked.

    Example::

        report = evaluate(model, (images, labels), defenses=["jpeg:75"], eps=["2/255"])
        print(report.finding)
        report.save("out")
    """

    @cached_property
    def checks(self) -> list[Check]:
        """The sanity checks."""
        return run_checks(self)

    # --- tables -----------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """Threats and gradients that occur."""
        there = {name for row in self.rows for name in row.attacks}
        return [name for name in (*THREATS, *self.gradients) if name in there]

    @property
    def header(self) -> list[str]:
        """Names of the table's columns."""
        proved = ["certified"] if self.settings.certify else []
        return ["defence", "ε", "clean", "noise", *self.columns, *proved, "worst case", "95 % interval"]

    @property
    def table(self) -> list[list[str]]:
        """The table as text: images right of all, one row for each defence and radius."""
        rows = []
        for row in self.rows:
            figures = [row.clean, row.noise, *(row.attacks.get(name) for name in self.columns)]
            figures += [row.certified] if self.settings.certify else []
            shown = ["–" if figure is None else number(figure) for figure in figures]
            bounds = interval(row.worst, self.count) if row.complete else "–"
            rows.append([row.defense, row.eps, *shown, row.shown, bounds])
        return rows

    @property
    def overview(self) -> Table:
        """The part of the table that decides: no attack, an attacker who does not know the layer, and the worst case.

        A column that no row fills is left out.
        """
        header = ["defence", "ε", "no attack", "layer unknown", "worst case", "95 % interval", "certified"]
        rows = []
        for row in self.rows:
            gray, certified = row.attacks.get("gray-box"), row.certified
            figures = ["–" if figure is None else number(figure) for figure in (row.clean, gray)]
            bounds = interval(row.worst, self.count) if row.complete else "–"
            proved = "–" if certified is None else number(certified)
            rows.append([row.defense, row.eps, *figures, row.shown, bounds, proved])
        filled = [place for place in range(len(header)) if any(row[place] != "–" for row in rows)]
        return Table([header[place] for place in filled], [[row[place] for place in filled] for row in rows])

    @property
    def attacks_header(self) -> list[str]:
        """Names of the columns of the table of attacks."""
        return ["defence", "ε", *self.settings.attacks]

    @property
    def attacks_table(self) -> list[list[str]]:
        """Images right under each attack, worst case over its gradients, without gray-box and transfer."""
        return [
            [row.defense, row.eps, *(self._under(attack, row) for attack in self.settings.attacks)] for row in self.rows
        ]

    def _under(self, attack: str, row: Row) -> str:
        """Returns the number of images of a row that are right under one attack, as text."""
        cells = [
            cell
            for cell in self.select(row.defense, row.eps, attack=attack)
            if cell.threat in ("white-box", "adaptive", "black-box")
        ]
        return number(worst_case([self.clean(row.defense), *cells])) if cells else "–"

    # --- sentences --------------------------------------------------------------------------------------------------

    @property
    def finding(self) -> str:
        """The result in one sentence: what the best defence keeps at the largest radius, and what it seemed to keep."""
        rows = [row for row in self.rows if row.eps == self.settings.eps[-1]]
        defended = [row for row in rows if row.defense != "none" and row.complete and "gray-box" in row.attacks]
        if not defended:
            row = rows[0]
            return f"The bare network keeps {row.shown} of {self.count} images at {row.eps}."
        best = max(defended, key=lambda row: (row.worst, row.attacks["gray-box"]))
        gray = number(best.attacks["gray-box"])
        name = best.defense if len(defended) == 1 else f"the best of {len(defended)} defences, {best.defense},"
        if best.defense in dict(masked(self.checks)):
            return (
                f"No attack of this run could follow the gradients of {best.defense}: the {number(best.worst)} of "
                f"{self.count} images that it keeps at {best.eps} do not show that it is robust."
            )
        return (
            f"To an attacker who knows the layer, {name} keeps {number(best.worst)} of {self.count} images at "
            f"{best.eps}; it seemed to keep {gray}."
        )

    @property
    def headline(self) -> str:
        """The run in one sentence, and a second one where the images are few."""
        attacks, norm = ", ".join(self.settings.attacks), {"linf": "L∞", "l2": "L2"}[self.settings.norm]
        run = (
            f"{self.settings.model.name} on {self.count} images, {attacks} in the {norm} ball: images classified "
            f"correctly, of {self.count}."
        )
        if self.count >= MANY:
            return run
        low, high = wilson(self.count / 2, self.count)
        return f"{run} They are few: chance alone moves a share by up to {50 * (high - low):.0f} points (95 %)."

    @property
    def notes(self) -> list[str]:
        """How to read the table."""
        notes = [
            "“none” is the bare network. White-box: it is attacked and judged. Gray-box: it is attacked, the defended "
            "one is judged. Columns named after a gradient: adaptive attacks through the layer with that gradient"
            + (", of several attacks the worst case image by image." if len(self.settings.attacks) > 1 else "."),
            "Every verdict is the exact forward pass of the defended network. An image counts as right only if it is "
            "also right without an attack. The worst case counts images that every attack leaves right; the interval "
            "is Wilson's, for that count.",
            "A JPEG layer rounds its input to bytes, so an adversarial image is judged exactly as its PNG would be; "
            "the bare network is judged on floats.",
        ]
        if "transfer" in self.columns:
            notes.append(f"Transfer: the images that fool {', '.join(self.settings.transfer)}.")
        if "black-box" in self.columns:
            notes.append(f"Black-box: attacks by queries alone ({', '.join(self.settings.gradient_free)}).")
        if self.settings.black_boxes:
            notes.append(
                f"Black box: {', '.join(self.settings.black_boxes)}. Its forward pass is a function outside of torch, "
                "evaluated as it is; attacks pass its gradient unchanged (BPDA)."
            )
        if self.settings.on_coefficients:
            notes.append(self._about_coefficients())
        notes += certified.notes(self)
        if self.settings.randomised:
            notes.append(
                f"Randomised: {', '.join(self.settings.randomised)}. Their gradients and verdicts are means of "
                f"{self.settings.draws} draws, and a count is a sum of shares of draws."
            )
        return notes

    def _about_coefficients(self) -> str:
        """Returns a note about attacks on coefficients, and the defences that they cannot take."""
        hidden = [name for name in self.settings.defenses if name not in self.settings.exposed]
        without = f" Without such a layer, and so without this column: {', '.join(hidden)}." if hidden else ""
        return (
            f"Flip: {', '.join(self.settings.on_coefficients)} searches the quantized coefficients behind a JPEG layer "
            f"of fdjpeg, without any surrogate.{without}"
        )

    @property
    def findings(self) -> list[str]:
        """The result for each defence at the largest radius, one sentence each."""
        eps, hidden = self.settings.eps[-1], dict(masked(self.checks))
        return [
            f"{row.defense} at {row.eps}: {number(row.clean)} of {self.count} right without an attack, "
            f"{number(row.attacks['gray-box'])} when the attacker does not know the layer, {number(row.worst)} when "
            f"the attacker does{', as far as masked gradients let these attacks see' if row.defense in hidden else ''}"
            f"{'' if row.certified is None else f', {number(row.certified)} certified against any attack'}."
            for row in self.rows
            if row.eps == eps and "gray-box" in row.attacks and row.complete
        ]

    def summary(self) -> list[str]:
        """Returns masked defences, failed checks and open experiments, for the report's top; empty if all is well."""
        lines = [
            f"Masked gradients: {defense} is not shown to be robust. The images it keeps right under attacks through "
            f"its own gradient measure these attacks, not the defence ({'; '.join(check.figure for check in checks)})."
            for defense, checks in masked(self.checks)
        ]
        lines += [
            f"Check failed: {check.name}: no ({check.figure})."
            for check in self.checks
            if not check.passed and not check.masked
        ]
        missing = self.settings.open
        if missing:
            lines.append(f"{len(missing)} experiments are not finished: {', '.join(missing[:3])}, …")
        return lines

    @property
    def text(self) -> Text:
        """The report in words, from which its files are written."""
        by_attack = Table(self.attacks_header, self.attacks_table) if len(self.settings.attacks) > 1 else None
        return Text(
            finding=self.finding,
            headline=self.headline,
            warnings=self.summary(),
            findings=self.findings,
            overview=self.overview,
            overview_caption=f"Images right, of {self.count}.",
            table=Table(self.header, self.table),
            by_attack=by_attack,
            notes=self.notes,
            checks=self.checks,
            origins=self.settings.origins,
        )

    # --- files ------------------------------------------------------------------------------------------------------

    def json(self) -> dict[str, Any]:
        """Returns everything but the pictures, as plain values."""
        return files.as_json(self, self.checks)

    def csv(self) -> str:
        """Returns one line for each experiment, for spreadsheets and plots."""
        return files.as_csv(self)

    def markdown(self) -> str:
        """Returns table, notes, checks and origins as Markdown."""
        return files.as_markdown(self.text, self.settings.versions)

    def html(self) -> str:
        """Returns the report as one page that needs no other file."""
        return page.html(self, self.text)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes results.json, results.csv, report.md and report.html, and returns their paths.

        Raises:
            ValueError: if the folder cannot be written.
        """
        texts = {
            "results.json": json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            "results.csv": self.csv(),
            "report.md": self.markdown(),
            "report.html": self.html(),
        }
        return files.write(Path(folder), texts)


def interval(right: float, count: int) -> str:
    """Returns Wilson's interval in per cent."""
    low, high = wilson(right, count)
    return f"{100 * low:.0f}–{100 * high:.0f} %"
