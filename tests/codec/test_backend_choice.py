"""Which backend serves a device, and why: the module that chooses is run again in another environment."""

from __future__ import annotations

import importlib.util
import runpy
from typing import Any

import pytest
import torch

from fdjpeg import _cuda_library, _library


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns the module's names after a run with a value of FDJPEG_BACKEND, with or without Triton and a GPU."""

    def run(backend: str, *, triton: bool = False, gpu: bool = False) -> dict[str, Any]:
        monkeypatch.setenv("FDJPEG_BACKEND", backend)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if triton else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(_cuda_library, "why_not_here", lambda: "no kernels")
        return runpy.run_path(_library.__file__)

    return run


def test_the_reference_serves_all_where_it_is_asked_for(chosen: Any) -> None:
    found = chosen("reference", triton=True, gpu=True)
    assert found["BACKEND"] == "reference"
    assert not found["LOADED"]
    assert set(found["SERVED"].values()) == {("reference", "FDJPEG_BACKEND=reference was set")}
    assert found["backends"]()["cpu"] == "missing: FDJPEG_BACKEND=reference was set"


def test_gpus_without_kernels_are_served_by_triton_or_the_reference(chosen: Any) -> None:
    found = chosen("", triton=True, gpu=True)
    assert found["BACKEND"] is None
    assert found["SERVED"]["cuda"] == ("triton", "no kernels")
    assert found["SERVED"]["xpu"][0] == "triton"
    assert found["backends"]()["triton"] == "available"
    assert chosen("", triton=True)["backends"]()["triton"] == "missing: torch sees no GPU"
    found = chosen("", gpu=True)
    assert found["SERVED"]["cuda"] == ("reference", "no kernels; and the package triton is not installed")
    assert found["SERVED"]["xpu"] == ("reference", "the package triton is missing")
    assert found["backends"]()["triton"] == "missing: the package triton is not installed"
    assert found["backends"]()["cuda"] == "missing: no kernels"
    if found["LOADED"]:
        assert found["SERVED"]["cpu"] == ("cpu", "the library holds kernels for it")


def test_a_backend_that_is_asked_for_must_be_there(chosen: Any) -> None:
    assert chosen("triton", triton=True, gpu=True)["SERVED"]["cuda"] == ("triton", "FDJPEG_BACKEND=triton was set")
    with pytest.raises(ImportError, match="FDJPEG_BACKEND=triton, but this backend is missing: torch sees no GPU"):
        chosen("triton", triton=True)
    with pytest.raises(ValueError, match="FDJPEG_BACKEND must be cuda, triton, reference or unset, got 'cpu'"):
        chosen("cpu")


@pytest.mark.parametrize(
    ("triton", "gpu", "expected"),
    [
        (True, True, "available"),
        (True, False, "missing: torch sees no GPU"),
        (False, True, "missing: the package triton is not installed"),
    ],
)
def test_triton_needs_its_package_and_a_gpu(
    triton: bool, gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_library, "HAS_TRITON", triton)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(_library, "_CUDA_FAILURE", None)
    found = _library.backends()
    assert found["triton"] == expected
    assert (found["cuda"] == "available") == gpu
