"""The parts of ``benchmarks/gpu.py``, which is the command."""
