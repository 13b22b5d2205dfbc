"""A pytest plugin: tests as the items of ``gpu.items``, in order of worth."""

from __future__ import annotations

from typing import Any

import pytest

from gpu import child

#: Parts of the names of tests, those of most worth first. The bits come before gradients, and both before speed's
#: conditions; the largest and slowest come last.
WORTH = (
    "small_images_give_the_bits",
    "small_gradients_of_the_layer",
    "small_bits_of_pillow",
    "small_coefficients",
    "small_maps",
    "small_surrogates",
    "small_real_numbers",
    "small_block_transforms",
    "small",
    "larger_images",
    "same_bits_every_time",
    "stream",
    "graph",
    "memory",
)


def worth(name: str) -> int:
    """Returns the rank of a test by its name, the least first."""
    ranks = (rank for rank, part in enumerate(WORTH) if part in name)
    # More than 2^31 samples take long to make.
    return len(WORTH) + 1 if "more_images" in name else next(ranks, len(WORTH))


class _Reporter:
    """Writes a line at the begin and the end of each test."""

    def __init__(self) -> None:
        self._lines = child.Lines()
        self._failures: list[str] = []
        self._skipped = False

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[Any]) -> None:
        """Sorts the tests, or chooses those that the parent wants."""
        wanted = child.wanted()
        items.sort(key=lambda item: worth(item.name))
        if wanted:
            place = {name: i for i, name in enumerate(wanted)}
            items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])
        else:
            self._lines.write(items=[item.nodeid for item in items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Notes that a test begins."""
        self._failures, self._skipped = [], False
        self._lines.write(begin=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes how a phase of a test ended."""
        self._skipped = self._skipped or report.skipped
        if report.failed:
            self._failures.append(report.longreprtext)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Notes that a test ended."""
        said = "\n".join(self._failures)[-2000:]
        self._lines.write(end=nodeid, passed=not self._failures, said=said or ("skipped" if self._skipped else ""))


def pytest_configure(config: pytest.Config) -> None:
    """Registers the reporter."""
    config.pluginmanager.register(_Reporter())
