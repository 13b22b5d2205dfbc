"""Quantization tables learned from images, and the rate and distortion by which they are judged."""
