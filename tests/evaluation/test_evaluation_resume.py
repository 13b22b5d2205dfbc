"""Finished work: shards, stopped runs, parts of a run, progress and a device that runs out of memory."""

from __future__ import annotations

import logging

import pytest
import torch
from support.evaluation_cases import Stub, Tiny, check, outcomes, small
from torch import Tensor, nn

from fdjpeg.evaluation import Cell, World
from fdjpeg.evaluation.cells import Picture
from fdjpeg.evaluation.protocol import _placed
from fdjpeg.sources import ImageSet, Network


def test_shards_make_the_report_of_one_process(network: Network, photographs: ImageSet, tmp_path) -> None:
    whole = small(network, photographs, out=tmp_path / "whole")
    parts = [small(network, photographs, out=tmp_path / f"{n}", world=World(n, 2)) for n in (0, 1)]
    assert [part.images.names for part in parts] == [("0.png", "1.png", "4.png", "5.png"), ("2.png", "3.png")]
    merged = small(network, photographs, merge=[tmp_path / "0", tmp_path / "1"], only_finished=True)
    assert outcomes(merged) == outcomes(whole)
    assert merged.html() == whole.html()
    with pytest.raises(ValueError, match=r"merge must name folders of finished work, got .*none"):
        small(network, photographs, merge=[tmp_path / "none"])


def test_a_run_stopped_at_any_point_goes_on_to_the_same_report(
    network: Network, photographs: ImageSet, tmp_path
) -> None:
    """Stopped after 0, 1, 2, … pieces of work, the last of them written in part, and gone on with each time."""

    class Stop(Exception):
        pass

    whole, seen = small(network, photographs), set()
    for _ in range(200):
        left = [1]

        stored, file = set(seen), tmp_path / "work" / "1-of-1.jsonl"

        def progress(done: int, *_: object, left: list[int] = left, stored: set[int] = stored) -> None:
            seen.add(done)
            left[0] -= done not in stored
            if left[0] < 0:
                raise Stop

        try:
            report = small(network, photographs, out=tmp_path, progress=progress)
            break
        except Stop:
            with file.open("a") as lines:
                lines.write('0123456789abcdef\t[{"defense": "no')
    assert len(seen) > 20
    assert outcomes(report) == outcomes(whole)
    again = small(network, photographs, out=tmp_path, only_finished=True)
    assert again.html() == report.html()


def test_a_part_of_a_run_can_be_read(network: Network, photographs: ImageSet, tmp_path) -> None:
    with pytest.raises(ValueError, match="out must hold finished work where only that is reported"):
        small(network, photographs, out=tmp_path, only_finished=True)
    small(network, photographs, out=tmp_path, checks=False)
    more = small(network, photographs, out=tmp_path, eps=["8/255", "9/255"], checks=False, only_finished=True)
    assert [row.attacks for row in more.rows if row.eps == "9/255"] == [{}, {}]
    assert [row[-2:] for row in more.table if row[1] == "9/255"] == [["≤ 6", "–"]] * 2
    assert check(more, "A larger radius").passed
    assert any("experiments are not finished: noise at 9/255" in sentence for sentence in more.summary())
    assert more.html()


def test_finished_work_of_another_run_is_not_taken(network: Network, photographs: ImageSet, tmp_path) -> None:
    def met(data: ImageSet, model: Network, **settings: object) -> int:
        attack = Stub()
        small(model, data, attacks=[attack], out=tmp_path, **settings)
        return len(attack.met)  # type: ignore[attr-defined]

    assert met(photographs, network) == 12
    assert met(photographs, network) == 0
    assert met(photographs, network, eps=["8/255", "9/255"]) == 12  # only the new work
    assert met(photographs, network, seed=1) == 12
    assert met(photographs.select([0, 1, 2, 4]), network, seed=1) == 4  # the first batch is the same
    other = Tiny()
    with torch.no_grad():
        other.head.bias.add_(0.01)
    assert met(photographs, Network(other, "tiny")) == 12


def test_progress_ends_at_the_whole(network: Network, photographs: ImageSet) -> None:
    calls: list[tuple[int, int, str]] = []
    small(network, photographs, progress=lambda *call: calls.append(call))
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)
    assert calls[-1][0] == calls[-1][1] > 0
    assert "PGD-3 on jpeg:75 through cubic at 8/255" in {call[2] for call in calls}


def test_the_log_tells_computed_work_from_finished_work(
    network: Network, photographs: ImageSet, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"attacks": [Stub()], "out": tmp_path, "checks": False, "defenses": [], "batch_size": 1}
    for outcome in ("computed", "finished before"):
        with caplog.at_level(logging.INFO, logger="fdjpeg.evaluation.protocol"):
            small(network, photographs.select([0, 1]), **settings)
        lines = [record.getMessage() for record in caplog.records]
        assert lines[:2] == [f"clean accuracy, batch {number}: {outcome}" for number in (1, 2)]
        assert all(line.endswith(f": {outcome}") for line in lines)
        caplog.clear()


def test_images_of_a_report_have_their_places_in_it() -> None:
    """Also in its pictures, if a shard or a stopped run has not all images."""
    picture = Picture(7, *(torch.zeros(3, 8, 8, dtype=torch.uint8),) * 4, bare=0)
    (cell,) = _placed([Cell("none", "white-box", indices=[5, 7], pictures=[picture])], [2, 5, 7])
    assert cell.indices == [1, 2]
    assert [shown.index for shown in cell.pictures] == [2]


class Full(nn.Module):
    """A network on a device whose memory holds two images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.network = Tiny().eval()
        self.most = most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.network(images)


def test_a_batch_that_does_not_fit_is_halved(photographs: ImageSet) -> None:
    report = small(Network(Full(2), "tiny"), photographs, batch_size=6)
    expected = small(Network(Tiny().eval(), "tiny"), photographs, batch_size=6)
    assert report.settings.at_once == 1 or report.settings.at_once == 2
    assert [c.predicted for c in report.cells] == [c.predicted for c in expected.cells]
    with pytest.raises(ValueError, match="batch_size must fit into memory, got 1, which does not"):
        small(Network(Full(0), "tiny"), photographs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_network_on_a_gpu_is_judged_there(network: Network, photographs: ImageSet) -> None:
    network.module.to("cuda")
    report = small(network, photographs, defenses=["jpeg:75", "stochastic-jpeg:20+80"], draws=2)
    assert report.settings.device == "cuda:0"
    assert check(report, "Every judged image is Pillow's").passed
    assert report.rows[0].clean == len(photographs)
