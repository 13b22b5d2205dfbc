"""The settings that a report records, with the keys under which files store them."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from fdjpeg._machine import describe_machine


@dataclass(frozen=True)
class ImageOrigin:
    """The origin of the attacked images.

    Attributes:
        count: number of images in the whole set.
        source, terms, digest: as ``ImageSet`` has them.
        lattice_tried: number of images searched for traces of JPEG compression.
        on_lattice: names of images with such traces, and the quality found for each.
    """

    count: int
    source: str
    terms: str
    digest: str
    lattice_tried: int
    on_lattice: dict[str, int]


@dataclass(frozen=True)
class NetworkOrigin:
    """The origin of the attacked network, as ``Network`` has it."""

    name: str
    source: str
    terms: str
    digest: str


@dataclass(frozen=True)
class RunOrigin:
    """When and where a run was made.

    Attributes:
        date: the day, in UTC.
        processor, cores: of the machine.
        threads: of torch in this process.
        commit: of fdjpeg's checkout; "unknown" where it is installed otherwise.
        command: the process's command line.
    """

    date: str
    processor: str
    cores: int
    threads: int
    commit: str
    command: str

    @classmethod
    def here(cls) -> RunOrigin:
        """Returns today, this machine and this process."""
        machine = describe_machine()
        return cls(
            date=machine["date"].split(" ")[0],
            processor=machine["processor"],
            cores=machine["cores"],
            threads=torch.get_num_threads(),
            commit=machine["commit"],
            command=_command(),
        )


def _command() -> str:
    """Returns this process's command line, without the folders of Python and of its scripts."""
    program, *arguments = sys.orig_argv
    script = Path(sys.argv[0])
    option = sys.argv[0].startswith("-")  # of Python: -c, or - for its input
    if arguments[:1] == [sys.argv[0]] and not option and script.suffix != ".py":  # an entry point, such as fdjpeg
        return shlex.join([script.name, *arguments[1:]])
    return shlex.join([Path(program).name, *arguments])


@dataclass(frozen=True)
class RunSettings:
    """Everything that a reader needs to run an evaluation again.

    Attributes:
        images, model: where the images and the network come from.
        attacks: settings of each attack, by its name.
        gradient_free: names of the attacks that need no gradient.
        defenses: gradients tried on each defence, by its name.
        randomised: names of the defences that draw in every call.
        draws: of a randomised defence, in each gradient and in each verdict.
        transfer: sources of the other networks, by their names.
        black_boxes: names of the defences that call a function outside of torch; "none" if the bare network does.
        norm: "linf" or "l2".
        eps: radii such as "2/255", ascending.
        batch_size, pictures, seed, checks: as in ``Plan``.
        at_once: images that went through the network together at the end of the run; fewer than ``batch_size`` if the
            device ran out of memory.
        open: names of the experiments that are not finished.
        device: where the network ran.
        versions: versions of Python and of packages, by name.
        on_coefficients: names of the attacks on a layer's coefficients.
        exposed: names of the defences that show such a layer.
        certify: whether images were certified.
        uncertified: what each defence lacks to be certified, by its name; those that lack nothing are left out.
        first_pass: names of the defences whose attacker meets images that a first pass made.
        run: when and where the report was made.
    """

    images: ImageOrigin
    model: NetworkOrigin
    attacks: dict[str, dict[str, Any]]
    gradient_free: list[str]
    defenses: dict[str, list[str]]
    randomised: list[str]
    draws: int
    transfer: dict[str, str]
    black_boxes: list[str]
    norm: str
    eps: list[str]
    batch_size: int
    at_once: int
    pictures: int
    seed: int
    checks: bool
    open: list[str]
    device: str
    versions: dict[str, str]
    on_coefficients: list[str] = field(default_factory=list)
    exposed: list[str] = field(default_factory=list)
    certify: bool = False
    uncertified: dict[str, str] = field(default_factory=dict)
    first_pass: list[str] = field(default_factory=list)
    run: RunOrigin = field(default_factory=RunOrigin.here)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values under the keys that stored reports have."""
        return _plain(self)

    @property
    def origins(self) -> list[str]:
        """Where the images and the network come from, with their terms: one text each."""
        return [f"{origin.source}. Terms: {origin.terms}" for origin in (self.images, self.model)]


#: Keys of stored reports that differ from the names of fields.
_KEYS = {
    "lattice_tried": "tried for a JPEG lattice",
    "on_lattice": "on a JPEG lattice",
    "gradient_free": "gradient-free",
    "black_boxes": "black boxes",
    "on_coefficients": "on coefficients",
    "at_once": "images at once",
    "first_pass": "after a first pass",
}


def _plain(record: ImageOrigin | NetworkOrigin | RunOrigin | RunSettings) -> dict[str, Any]:
    plain = {}
    for item in fields(record):
        value = getattr(record, item.name)
        nested = isinstance(value, (ImageOrigin, NetworkOrigin, RunOrigin))
        plain[_KEYS.get(item.name, item.name)] = _plain(value) if nested else value
    return plain
