"""Training by several processes, and runs that are killed: the result is that of one process without a stop."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn

from fdjpeg import defenses
from fdjpeg.defenses.training import batch_statistics

KINDS = ("feature-distillation", "jpeg-ensemble", "purifier", "fine-tuning")

SCRIPT = """
import os, signal, sys
import torch
from support import defense_data
from torch import nn
from fdjpeg import defenses
from fdjpeg.defenses import feature_distillation, fine_tuning, jpeg_ensemble, purifier
from fdjpeg.defenses.training import run
from fdjpeg.defenses.training.config import Schedule
from fdjpeg.sources import Network

out, die_after = sys.argv[1], int(sys.argv[2])
write, written = run.write_tensors, 0
def write_and_die(*arguments):
    global written
    write(*arguments)
    written += 1
    if written == die_after:
        os.kill(os.getpid(), signal.SIGKILL)
run.write_tensors = write_and_die
if die_after:
    run.CHECKPOINT_SECONDS = 0.0
images = defense_data.stored(*defense_data.patterns(72, seed=0))
# Half a batch has other statistics than the whole.
torch.manual_seed(defense_data.SEED)
layers = (nn.Flatten(), nn.Linear(768, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
network = Network(nn.Sequential(*layers).eval(), "network")
few = Schedule(epochs=2, batch_size=32, augment="flip-crop")
todo = {
    "feature-distillation": feature_distillation.Config(batch_size=7),
    "jpeg-ensemble": jpeg_ensemble.Config(levels=(1.0,), tuning=few, validation=0.1),
    "purifier": purifier.Config(widths=(4, 6, 8), attack_steps=2, normal=few, adversarial=few, student=few),
    "fine-tuning": fine_tuning.Config(
        augmentation=tuple(fine_tuning.parse_augmentation(text) for text in (
            "random-jpeg,quality=5-95,p=0.75", "double-jpeg,p=0.5", "recompress,scale=0.5-1.2,p=0.5"
        )),
        batch_statistics="trained",
        tables_quality=60,
        tuning=few,
        validation=0.1,
    ),
}
for kind, settings in todo.items():
    defenses.train(kind, images, f"{out}/{kind}", settings=settings, network=network, device="cpu", quiet=True)
"""


def run_script(out: Path, *launcher: str, die_after: int = 0) -> int:
    """Trains three defences in a separate process, or in those of a launcher, and returns the exit status."""
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *launcher, str(script), str(out), str(die_after)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    if finished.returncode not in (0, -signal.SIGKILL):
        pytest.fail(finished.stderr[-3000:])
    return finished.returncode


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the defences that one process trains without a stop."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert run_script(out) == 0
    return out


def test_two_processes_train_the_same_defence_as_one(alone: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert run_script(tmp_path / "out", *launcher) == 0
    for kind in KINDS:
        one, two = (defenses.load(out / kind) for out in (alone, tmp_path / "out"))
        assert one.config() == two.config()  # the tables, exactly
        for name, value in one.tensors().items():
            torch.testing.assert_close(two.tensors()[name], value, rtol=1e-2, atol=2e-4)


@pytest.fixture
def lone_process(tmp_path: Path) -> Iterator[None]:
    """Starts torch's process group, of which this is the only process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d(5), (7, 5)),
        (nn.BatchNorm1d(5, affine=False), (7, 5, 3)),
        (nn.BatchNorm2d(5, momentum=None), (4, 5, 3, 6)),
        (nn.BatchNorm2d(5, eps=0.5).double(), (4, 5, 3, 6)),
        (nn.BatchNorm2d(5).bfloat16(), (4, 5, 3, 6)),
        (nn.BatchNorm3d(5, track_running_stats=False), (2, 5, 3, 4, 2)),
    ],
    ids=str,
)
@pytest.mark.usefixtures("lone_process", "rng")
def test_statistics_of_all_processes_are_batch_normalisation(layer: nn.Module, shape: tuple[int, ...]) -> None:
    dtype = next((parameter.dtype for parameter in layer.parameters()), torch.float32)
    twin, tolerance = copy.deepcopy(layer), {torch.float64: 1e-12, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    for mode in (True, True, False):
        x = (3 + 2 * torch.randn(shape)).to(dtype).requires_grad_()
        grad = torch.randn(shape).to(dtype)
        expected = twin.train(mode)(x)
        with batch_statistics.of_all_processes(layer.train(mode)):
            found = layer(x)
        wanted = ((x, *module.parameters()) for module in (twin, layer))
        for one, other in zip(
            *(torch.autograd.grad(out, of, grad) for out, of in zip((expected, found), wanted, strict=True)),
            strict=True,
        ):
            torch.testing.assert_close(other, one, rtol=tolerance, atol=10 * tolerance)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        for name, value in twin.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value, rtol=tolerance, atol=tolerance)
    assert "forward" not in vars(layer)


def test_a_killed_run_resumes_to_the_same_result(alone: Path, tmp_path: Path) -> None:
    # In the second epoch of the purifier's first teacher, after a checkpoint within the epoch.
    assert run_script(tmp_path / "out", die_after=11) == -signal.SIGKILL
    # And a file as it would be left if the run had been killed while it wrote.
    (tmp_path / "out" / "purifier" / ".12345.defense.safetensors").write_text("half")
    assert run_script(tmp_path / "out") == 0
    for kind in KINDS:
        whole, resumed = (defenses.load(out / kind) for out in (alone, tmp_path / "out"))
        assert whole.config() == resumed.config()
        for name, value in whole.tensors().items():
            assert torch.equal(resumed.tensors()[name], value)
        assert (alone / kind / "training.json").read_text() == (tmp_path / "out" / kind / "training.json").read_text()
        assert sorted(os.listdir(tmp_path / "out" / kind)) == sorted(os.listdir(alone / kind))
        assert not [name for name in os.listdir(alone / kind) if name.startswith(".") or name == "stages"]
        for file in (alone / kind).glob("accuracy.json"):
            assert file.read_text() == (tmp_path / "out" / kind / file.name).read_text()
