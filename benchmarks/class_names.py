"""Writes the names of ImageNet's classes: ``python benchmarks/class_names.py``.

Reads WordNet 3.0's nouns as Debian's package wordnet-base installs them. A WordNet id is "n" and the offset of a
synset in ``data.noun``. Its name is the first lemma. The lines are those of ``imagenet_wnids.txt``.
"""

from __future__ import annotations

from pathlib import Path

NOUNS = Path("/usr/share/wordnet/data.noun")
SOURCES = Path(__file__).resolve().parents[1] / "fdjpeg" / "sources"


def name_of(wnid: str, nouns: bytes) -> str:
    """Returns the first lemma of a synset, with spaces between its words (its line: wndb(5WN), "data.pos")."""
    offset = int(wnid.removeprefix("n"))
    shown, _, kind, _, lemma, *_ = nouns[offset : offset + 200].decode("ascii", "replace").split(" ")
    if (shown, kind) != (wnid.removeprefix("n"), "n"):
        raise ValueError(f"{NOUNS} must hold a noun at the offset of {wnid}, got {shown!r}")
    return lemma.replace("_", " ")


def main() -> None:
    """Writes the names."""
    nouns = NOUNS.read_bytes()
    wnids = (SOURCES / "imagenet_wnids.txt").read_text(encoding="ascii").split()
    names = "".join(f"{name_of(wnid, nouns)}\n" for wnid in wnids)
    (SOURCES / "imagenet_names.txt").write_text(names, encoding="ascii")


if __name__ == "__main__":
    main()
