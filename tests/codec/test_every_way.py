"""The ways in which PyTorch runs a model, with our layers in it: each gives what eager execution gives."""

# No `from __future__ import annotations`: torch.fx cannot pickle a graph whose arguments are annotated by strings.

import copy
import io
import pickle
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.gloo import in_process_group
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import fdjpeg
from fdjpeg import QuantTables, _library

DEVICES = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")],
        ),
    ],
)


pytestmark = pytest.mark.usefixtures("rng")


class Model(nn.Module):
    """Fixed and learned tables, a quality for each image, the function itself, and a layer that draws."""

    def __init__(self) -> None:
        super().__init__()
        steps = (QuantTables.standard(quality).y for quality in (30, 40, 50))  # TorchScript shares no tensors
        self.fixed = fdjpeg.JPEG(tables=QuantTables(*steps), gradient="cubic")
        self.learned = fdjpeg.LearnableJPEG(QuantTables.standard(50))
        self.drawn = fdjpeg.RandomJPEG((40, 40))
        self.by_block = fdjpeg.StochasticJPEG((60,), subsampling="4:4:4")
        self.distilled = fdjpeg.FeatureDistillation("uniform(20)")
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor, quality: Tensor) -> Tensor:
        image = self.distilled(self.by_block(self.drawn(self.learned(self.fixed(image)))))
        image = fdjpeg.jpeg(image, quality, subsampling="4:2:2")
        return self.convolution(fdjpeg.jpeg(image, tables=self.fixed.tables))


def _inputs(device: str = "cpu") -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 18, 21, device=device), torch.tensor([30.0, 80.0], device=device)


def _gradients(model: nn.Module, *inputs: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(*inputs).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


# ---------------------------------------------------------------------------------------------------------------------
# torch.fx, TorchScript


@DEVICES
def test_fx_symbolic_trace(device: str) -> None:
    model, inputs = Model().to(device), _inputs(device)
    traced = torch.fx.symbolic_trace(model)
    for graph in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert torch.equal(graph(*inputs), model(*inputs))
    expected = _gradients(model, *inputs)
    assert len(expected) == 4
    for actual, gradient in zip(_gradients(traced, *inputs), expected, strict=True):
        assert torch.equal(actual, gradient)


def test_fx_sees_each_layer_as_one_node() -> None:
    layer = fdjpeg.LearnableJPEG(QuantTables.standard(50))
    graph = torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU())).graph
    assert [node.op for node in graph.nodes] == ["placeholder", "get_attr", "call_function", "call_module", "output"]


def test_fx_takes_a_function_imported_by_name() -> None:
    from fdjpeg import jpeg

    image, quality = _inputs()
    traced = torch.fx.symbolic_trace(lambda x, q: jpeg(x, quality=q, gradient="sine"))
    assert torch.equal(traced(image, quality), jpeg(image, quality))


def test_jit_trace_keeps_the_forward_pass() -> None:
    """Of layers whose tables are fixed: learned ones are deployed as such, ``JPEG(tables=learned.tables)``."""
    model = nn.Sequential(Model().fixed, fdjpeg.RandomJPEG((40, 40)), fdjpeg.JPEG(20, arithmetic="real"))
    image = _inputs()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and warns of shapes that are checked
        traced = torch.jit.trace(model, (image,))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for x in (image, torch.rand(2, 3, 40, 17)):
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("model", [fdjpeg.JPEG(50), nn.Sequential(nn.ReLU(), fdjpeg.JPEG(50))], ids=["layer", "model"])
def test_jit_script_is_refused_in_a_sentence(model: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NotImplementedError, match=r"cannot compile JPEG: use .*torch\.export"):
            torch.jit.script(model)


# ---------------------------------------------------------------------------------------------------------------------
# AOTInductor


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`_packaged`, compiled."""
    free = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        _packaged(), (torch.rand(2, 3, 24, 40),), dynamic_shapes=({0: free, 2: free, 3: free},)
    )
    file = tmp_path_factory.mktemp("package") / "model.pt2"
    return torch._inductor.aoti_compile_and_package(program, package_path=str(file))


def _packaged() -> nn.Module:
    return nn.Sequential(fdjpeg.JPEG(40, subsampling="4:2:2"), nn.Hardtanh(0.1, 0.9))


@pytest.mark.slow
def test_aot_inductor_from_python(package: str) -> None:
    compiled = torch._inductor.aoti_load_package(package)
    for shape in ((2, 3, 24, 40), (3, 3, 33, 17)):
        image = torch.rand(shape)
        assert torch.equal(compiled(image), _packaged()(image))


@pytest.mark.slow
def test_aot_inductor_from_cpp(package: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++") or pytest.skip("there is no g++")
    torch_folder = Path(torch.__file__).parent
    runner = tmp_path / "runner"
    command = [compiler, "-std=c++20", Path(__file__).parents[1] / "support/aot_inductor.cpp", "-o", runner]
    command += [f"-I{torch_folder}/include", f"-I{torch_folder}/include/torch/csrc/api/include"]
    command += [
        f"-L{torch_folder}/lib",
        f"-Wl,-rpath,{torch_folder}/lib",
        "-Wl,--no-as-needed",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
    ]
    subprocess.run(command, check=True)
    image = torch.rand(1, 3, 33, 17)
    done = subprocess.run(
        [runner, _library._PATH, package, "33", "17"], input=image.numpy().tobytes(), capture_output=True, check=True
    )
    assert torch.equal(
        torch.from_numpy(np.frombuffer(done.stdout, np.float32).reshape(image.shape).copy()), _packaged()(image)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Several devices, several processes


@DEVICES
def test_data_parallel(device: str) -> None:
    model, inputs = Model().to(device), _inputs(device)
    expected = _gradients(model, *inputs)
    for actual, gradient in zip(_gradients(nn.DataParallel(model), *inputs), expected, strict=True):
        torch.testing.assert_close(actual, gradient)


def _shardable() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(fdjpeg.LearnableJPEG(QuantTables.standard(50)), nn.Conv2d(3, 2, 5), nn.Flatten())


def _images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _gradients_of_one_process(rank: int, place: str, out: str) -> None:
    torch.set_num_threads(1)
    in_process_group(_write_gradients, rank, out, store=place, rank=rank, size=2)


def _write_gradients(rank: int, out: str) -> None:
    distributed = nn.parallel.DistributedDataParallel(_shardable())
    sharded, mesh = _shardable(), init_device_mesh("cpu", (2,))
    fully_shard(sharded[0], mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for model in (distributed, sharded):
        model(_images()[rank::2]).square().mean().backward()
    by_sharding = [parameter.grad.full_tensor() for parameter in sharded.parameters()]
    if rank == 0:
        torch.save([[parameter.grad for parameter in distributed.parameters()], by_sharding], out)


def test_ddp_and_fsdp2_have_the_gradient_of_one_process(tmp_path: Path) -> None:
    out = tmp_path / "gradients.pt"
    torch.multiprocessing.spawn(_gradients_of_one_process, (str(tmp_path / "store"), str(out)), nprocs=2)
    model = _shardable()
    model(_images()).square().mean().backward()
    for gradients in torch.load(out):
        for actual, parameter in zip(gradients, model.parameters(), strict=True):
            torch.testing.assert_close(actual, parameter.grad)


# ---------------------------------------------------------------------------------------------------------------------
# Memory, modes, copies


@DEVICES
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_activation_checkpointing_repeats_the_draws(reentrant: bool, device: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Sigmoid(), fdjpeg.RandomJPEG((10, 90)), fdjpeg.StochasticJPEG(gradient="cubic")
    ).to(device)
    image = _inputs(device)[0].requires_grad_()
    gradients = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=reentrant)):
        torch.manual_seed(5)
        model.zero_grad()
        image.grad = None
        run(image).square().sum().backward()
        gradients.append([image.grad, *(parameter.grad.clone() for parameter in model.parameters())])
    for actual, expected in zip(*gradients, strict=True):
        assert torch.equal(actual, expected)


@DEVICES
def test_inference_mode(device: str) -> None:
    model, inputs = Model().to(device), _inputs(device)
    expected = model(*inputs).detach()
    with torch.inference_mode():
        out = model(*inputs)
    assert out.is_inference()
    assert torch.equal(out, expected)
    assert len(_gradients(model, *inputs)) == 4, "no constant of inference mode is left behind"


@DEVICES
def test_deepcopy_and_pickle(device: str) -> None:
    model, inputs = Model().to(device), _inputs(device)
    expected = [model(*inputs).detach(), *_gradients(model, *inputs)]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False))
    for twin in copies:
        for actual, wanted in zip([twin(*inputs).detach(), *_gradients(twin, *inputs)], expected, strict=True):
            assert torch.equal(actual, wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_training_step_in_a_cuda_graph() -> None:
    model = Model().cuda()
    image, quality = _inputs("cuda")
    graphed: Any = torch.cuda.make_graphed_callables(copy.deepcopy(model), (image, quality))
    for _ in range(3):
        image = torch.rand_like(image)
        assert torch.equal(graphed(image, quality), model(image, quality))
        for actual, expected in zip(
            _gradients(graphed, image, quality), _gradients(model, image, quality), strict=True
        ):
            torch.testing.assert_close(actual, expected)
