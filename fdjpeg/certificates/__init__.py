"""Certificates: proofs that no perturbation of a radius changes the verdict behind a JPEG layer.

``certify`` makes one; `Certificate` says which images it holds for. Together with an attack they bracket the truth:
certified ≤ truth ≤ attacked.
"""

from .certify import Certificate, Status, certify

__all__ = ["Certificate", "Status", "certify"]
