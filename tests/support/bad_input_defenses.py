"""The rows of bad input of `fdjpeg.defenses` and `fdjpeg.evaluation`."""

from __future__ import annotations

import math

import torch

import fdjpeg
from fdjpeg import attacks, defenses, evaluation
from support.bad_input import Row, rows
from support.bad_input_data import IMAGES, LABELS, NETWORK
from support.bad_input_kinds import (
    of_callable,
    of_choice,
    of_flag,
    of_list,
    of_module,
    of_path,
    of_positive,
    of_tensor,
    of_text,
    of_whole,
)

LAYER = fdjpeg.JPEG(75)

#: Public names that take nothing from the caller that could be wrong.
NOTHING_BAD = {
    "defenses.DEFENSES": "is a table",
    "defenses.GRADIENTS": "is a tuple",
    "defenses.OPAQUE": "is a tuple",
    "defenses.UNDEFENDED": "is the bare network",
    "defenses.ZERO": "is a name",
    "defenses.Defended": "is made by functions that have rows",
    "evaluation.Cell": "is a result",
    "evaluation.Check": "is a result",
    "evaluation.Progress": "is a type",
    "evaluation.Report": "is a result",
    "evaluation.Row": "is a result",
    "evaluation.external": "is that of `sources`, which has rows",
}


def _of_names() -> list[Row]:
    name = "defenses.parse_defense"
    parse = lambda **k: defenses.parse_defense(**{"text": "jpeg:75", **k})  # noqa: E731
    known = 'defense must be "none", "jpeg:QUALITY", "random-jpeg:LOW-HIGH", "stochastic-'
    quality = 'quality in a defense such as "jpeg:75" must be an integer 1…100, got '
    options = 'options of a defense such as "feature-distillation:paper,passes=2,entry=after" must be passes=1 or 2, '
    return [
        *rows(
            name,
            *(
                (lambda v=v: parse(text=v), TypeError, f"defense must be a text, got {v!r}")
                for v in (None, 75, ["jpeg:75"])
            ),
            *((lambda v=v: parse(text=v), ValueError, known) for v in ("", "jpeg", "jpeg75", "jpeg:")),
            *(
                (lambda v=v: parse(text=f"jpeg:{v}"), ValueError, f"{quality}'jpeg:{v}'")
                for v in ("0", "101", "7.5", "-5", "a", "٣٣٣")
            ),
            (
                lambda: parse(text="jpeg:75,4:1:1"),
                ValueError,
                "subsampling in a defense must be one of 4:4:4, 4:2:2, 4:2:",
            ),
            (
                lambda: parse(text="jpeg:75,4:4:4,5"),
                ValueError,
                "subsampling in a defense must be one of 4:4:4, 4:2:2, 4:",
            ),
            (
                lambda: parse(text="random-jpeg:30"),
                ValueError,
                'defense must give qualities such as "random-jpeg:30-95"',
            ),
            (lambda: parse(text="random-jpeg:95-30"), ValueError, "quality must be two integers, 1 ≤ least ≤ greatest"),
            (
                lambda: parse(text="stochastic-jpeg:a"),
                ValueError,
                'defense must give qualities such as "stochastic-jpeg',
            ),
            (lambda: parse(text="feature-distillation:paper,passes=3"), ValueError, options),
            (lambda: parse(text="feature-distillation:none"), ValueError, "preset must be "),
            (
                lambda: parse(text="saved:missing"),
                ValueError,
                "defense must name a saved defence that exists, got 'saved:mi",
            ),
            (
                lambda: parse(text="no_module:layer"),
                ValueError,
                "defense must name something that can be imported, got",
            ),
            (
                lambda: parse(text="math:pi"),
                ValueError,
                "defense must make a torch.nn.Module, got 'math:pi', which is floa",
            ),
            (
                lambda: parse(gradients=["ste"]),
                ValueError,
                "gradient must be one of 'straight-through', 'identity', 'cubi",
            ),
        ),
        *of_list(name, "gradients", parse),
        *of_module(name, "network", parse, none=True),
        *of_tensor(name, "image", parse, none=True),
    ]


def _of_layers() -> list[Row]:
    named = lambda **k: defenses.jpeg_defense(**{"quality": 75, **k})  # noqa: E731
    feature = lambda **k: defenses.feature_distillation_defense(**{"preset": "paper", **k})  # noqa: E731
    layer = lambda **k: defenses.layer_defense(**{"name": "a", "module": LAYER, "gradients": ["cubic"], **k})  # noqa: E731
    module = lambda **k: defenses.of_module(**{"module": LAYER, "name": "a", **k})  # noqa: E731
    other = lambda **k: defenses.differentiable(**{"module": LAYER, "gradient": "cubic", **k})  # noqa: E731
    seed = lambda **k: defenses.SeedFixed(**{"module": LAYER, "seed": 0, **k})  # noqa: E731
    opaque = "gradient of a layer that is not fdjpeg's must be one of own, identity, got 'cubic'"
    return [
        *of_whole("defenses.jpeg_defense", "quality", named, 1),
        *of_list("defenses.jpeg_defense", "gradients", named),
        *rows(
            "defenses.jpeg_defense",
            (lambda: named(quality=101), ValueError, "quality must be in 1…100, got 101"),
            (
                lambda: named(subsampling="4:1:1"),
                ValueError,
                "subsampling must be one of '4:4:4', '4:2:2', '4:2:0', got ",
            ),
            (lambda: named(gradients=["ste"]), ValueError, "gradient must be one of 'straight-through', "),
        ),
        *of_list("defenses.feature_distillation_defense", "gradients", feature),
        *rows(
            "defenses.feature_distillation_defense",
            (lambda: feature(preset="none"), ValueError, "preset must be "),
            (lambda: feature(passes=3), ValueError, "passes must be 1 or 2, got 3"),
            (lambda: feature(passes="2"), ValueError, "passes must be 1 or 2, got '2'"),
            (lambda: feature(entry="middle"), ValueError, "entry must be 'before' or 'after', got 'middle'"),
        ),
        *of_text("defenses.layer_defense", "name", layer),
        *of_module("defenses.layer_defense", "module", layer),
        *of_list("defenses.layer_defense", "gradients", layer),
        *of_callable("defenses.layer_defense", "oracle", layer),
        *rows(
            "defenses.layer_defense",
            (
                lambda: layer(first=len),
                TypeError,
                "first must be a torch.nn.Module or None, got builtin_function_or_method",
            ),
            (lambda: layer(gradients=["ste"]), ValueError, "gradient must be one of 'straight-through', "),
            (lambda: layer(module=torch.nn.Flatten()), ValueError, opaque),
        ),
        *of_module("defenses.of_module", "module", module),
        *of_text("defenses.of_module", "name", module),
        *of_list("defenses.of_module", "gradients", module),
        *of_tensor("defenses.of_module", "image", module, none=True),
        *rows(
            "defenses.of_module",
            (
                lambda: module(module=torch.nn.AvgPool2d(2), image=IMAGES),
                ValueError,
                "defense a must return images of the shape that it gets, or logits (N, classes), got (2, 3, 16",
            ),
        ),
        *of_module("defenses.differentiable", "module", other),
        *rows(
            "defenses.differentiable",
            (lambda: other(gradient="ste"), ValueError, "gradient must be one of 'straight-through', "),
            (lambda: other(module=torch.nn.Flatten()), ValueError, opaque),
        ),
        *of_module("defenses.SeedFixed", "module", seed),
        *of_whole("defenses.SeedFixed", "seed", seed),
    ]


def _of_kinds() -> list[Row]:
    random, local = defenses.RandomJPEG, defenses.StochasticJPEG
    steps = torch.full((8, 8), 9.0)
    jpeg = defenses.JPEG()
    return [
        *rows(
            "defenses.JPEG",
            (lambda: defenses.JPEG(0), ValueError, "quality must be in 1…100, got 0"),
            (lambda: defenses.JPEG("75"), TypeError, "quality must be a number or a tensor, got '75' (str)"),
            (lambda: defenses.JPEG(subsampling="420"), ValueError, "subsampling must be one of '4:4:4', "),
        ),
        *of_whole("defenses.RandomJPEG", "least", random, 1),
        *of_whole("defenses.RandomJPEG", "greatest", random, 1),
        *rows(
            "defenses.RandomJPEG", (lambda: random(95, 30), ValueError, "quality must be two integers, 1 ≤ least ≤ gr")
        ),
        *rows(
            "defenses.StochasticJPEG",
            (lambda: local([]), ValueError, "qualities must be one or more integers in 1…100, got []"),
            (lambda: local([0]), ValueError, "qualities must be one or more integers in 1…100, got [0]"),
            (lambda: local("75"), ValueError, "qualities must be one or more integers in 1…100, got '75'"),
        ),
        *rows(
            "defenses.FeatureDistillation",
            (lambda: defenses.FeatureDistillation("none"), ValueError, "preset must be "),
            (lambda: defenses.FeatureDistillation("paper", passes=0), ValueError, "passes must be "),
        ),
        *rows(
            "defenses.JPEGEnsemble",
            (
                lambda: defenses.JPEGEnsemble(steps, steps, levels=[]),
                ValueError,
                "levels must be positive numbers, at le",
            ),
            (
                lambda: defenses.JPEGEnsemble(steps, steps, levels=[-1]),
                ValueError,
                "levels must be positive numbers, at ",
            ),
        ),
        *of_whole("defenses.Purifier", "channels", defenses.Purifier, 1),
        *of_list("defenses.Purifier", "widths", defenses.Purifier),
        *rows(
            "defenses.Purifier", (lambda: defenses.Purifier(widths=(1, 2)), ValueError, "widths must be three integers")
        ),
        *of_whole("defenses.S2SNet", "channels", defenses.S2SNet, 1),
        *rows(
            "defenses.S2SNet",
            (lambda: defenses.S2SNet("vgg"), ValueError, "architecture must be "),
        ),
        *rows(
            "defenses.DefensiveDistillation",
            (lambda: defenses.DefensiveDistillation(0.5), ValueError, "temperature must be at least 1, got 0.5"),
        ),
        *rows(
            "defenses.FineTuned",
            (lambda: defenses.FineTuned(subsampling="420"), ValueError, "subsampling must be "),
            (lambda: defenses.FineTuned(tables=50), TypeError, "tables must be a list, got 50"),
        ),
        *rows(
            "defenses.Defense",
            (lambda: jpeg.attacked(NETWORK, "ste"), ValueError, "gradient must be one of 'straight-through', "),
            (
                lambda: defenses.Purifier().attacked(NETWORK, "cubic"),
                ValueError,
                "gradient must be one of end-to-end, id",
            ),
        ),
    ]


def _of_filters() -> list[Row]:
    median = defenses.Median(2)
    squeezing = lambda **k: defenses.FeatureSqueezing(**{"network": NETWORK, "filters": [median], **k})  # noqa: E731
    detector = defenses.FeatureSqueezing(NETWORK, [median])
    calibrated = lambda **k: detector.calibrated(**{"clean": IMAGES, **k})  # noqa: E731
    name, share = "defenses.FeatureSqueezing", "false_alarms must be at least 0 and less than 1, got "
    return [
        *of_whole("defenses.BitDepth", "bits", defenses.BitDepth, 1),
        *rows("defenses.BitDepth", (lambda: defenses.BitDepth(9), ValueError, "bits must be in 1…8, got 9")),
        *of_whole("defenses.Median", "size", defenses.Median, 2),
        *of_positive("defenses.TotalVariation", "weight", defenses.TotalVariation),
        *of_module(name, "network", squeezing),
        *of_list(name, "filters", squeezing),
        *of_tensor(name, "clean", calibrated),
        *of_whole(name, "at_once", calibrated, 1),
        *rows(
            name,
            (lambda: squeezing(filters=[]), ValueError, "filters must hold at least one module, got none"),
            (lambda: squeezing(filters=[len]), TypeError, "filters must be a torch.nn.Module, got builtin_function"),
            (lambda: squeezing(threshold="1"), TypeError, "threshold must be a number, got '1'"),
            (lambda: calibrated(clean=IMAGES[:0]), ValueError, "clean must hold at least one image, got none"),
            (lambda: calibrated(false_alarms="1"), TypeError, "false_alarms must be a number, got '1'"),
            (lambda: calibrated(false_alarms=1), ValueError, f"{share}1"),
            (lambda: calibrated(false_alarms=math.nan), ValueError, f"{share}nan"),
        ),
    ]


def _of_files() -> list[Row]:
    train = lambda **k: defenses.train(**{"kind": "purifier", "images": None, "out": "x", **k})  # noqa: E731
    return [
        *of_path("defenses.load", "path", defenses.load),
        *of_path("defenses.save", "path", lambda path: defenses.save(defenses.JPEG(), path)),
        *rows(
            "defenses.load",
            (
                lambda: defenses.load("missing"),
                ValueError,
                "path must be a safetensors file, got 'missing/defense.safeten",
            ),
        ),
        *rows(
            "defenses.save",
            (lambda: defenses.save(LAYER, "x"), TypeError, "defense must be one of fdjpeg.defenses, got JPEG"),
            (lambda: defenses.save(None, "x"), TypeError, "defense must be one of fdjpeg.defenses, got NoneType"),
        ),
        *of_path("defenses.train", "out", train),
        *rows(
            "defenses.train",
            (lambda: train(images=[IMAGES]), TypeError, "images must be those of load_training_images, got list"),
            (lambda: train(images=None), TypeError, "images must be those of load_training_images, got NoneType"),
        ),
    ]


def _of_plans() -> list[Row]:
    name, plan = "evaluation.Plan", evaluation.Plan
    found = [
        *of_whole(name, "draws", plan, 1),
        *of_whole(name, "batch_size", plan, 1),
        *of_whole(name, "pictures", plan, 0),
        *of_whole(name, "seed", plan),
        *of_flag(name, "checks", plan),
        *of_choice(name, "norm", plan),
    ]
    for argument in ("defenses", "attacks", "eps", "gradients", "transfer"):
        found += of_list(name, argument, plan)
    return found + rows(
        name,
        (lambda: plan(attacks=[]), ValueError, "attacks must hold at least one attack, got none"),
        (lambda: plan(attacks=["pgd", "pgd"]), ValueError, "attacks must be different, got PGD-20, PGD-20"),
        (lambda: plan(attacks=["pdg"]), ValueError, "attack must be one of fgsm, bim, "),
        (
            lambda: plan(attacks=[attacks.JSMA()]),
            ValueError,
            "attacks must be in the norm linf or l2 in an evaluation, got JSMA in l0",
        ),
        (lambda: plan(eps=[]), ValueError, "eps must hold at least one radius, got none"),
        (lambda: plan(eps=["0"]), ValueError, "eps must be in (0, 1], in units of the images' range [0, 1], got '0'"),
        (lambda: plan(eps=[None]), ValueError, "eps must be a number such as 4/255 or 0.03, got None"),
        (lambda: plan(transfer=["resnet18"]), TypeError, "transfer must be a torch.nn.Module, got str"),
    )


def _of_evaluate() -> list[Row]:
    name = "evaluation.evaluate"

    def evaluate(**changed: object) -> object:
        arguments = {"model": NETWORK, "data": (IMAGES, LABELS), "attacks": ["pgd-1"], "checks": False, **changed}
        return evaluation.evaluate(**arguments)  # type: ignore[arg-type]

    return [
        *of_module(name, "model", evaluate),
        *rows(name, (lambda: evaluate(out=3), TypeError, "out must be a path, got 3")),
        *of_flag(name, "only_finished", evaluate),
        *of_callable(name, "progress", evaluate),
        *rows(
            name,
            (lambda: evaluate(plan={}), TypeError, "plan must be a Plan or None, got {}"),
            (lambda: evaluate(world=2), TypeError, "world must be a World or None, got 2"),
            (lambda: evaluate(merge="runs"), TypeError, "merge must be a list of folders, got 'runs'"),
            (lambda: evaluate(merge=[3]), TypeError, "merge must be a path, got 3"),
            (
                lambda: evaluate(data=None),
                TypeError,
                "data must be images with their classes, or batches of them, got ",
            ),
            (
                lambda: evaluate(data=(IMAGES * math.nan, LABELS)),
                ValueError,
                "images must be in [0, 1], or uint8, got val",
            ),
            (
                lambda: evaluate(data=(IMAGES, LABELS + 9)),
                ValueError,
                "labels must be in 0…3 for a model of 4 classes, g",
            ),
            (
                lambda: evaluate(model=torch.nn.Identity()),
                ValueError,
                "model must return logits (2, classes), got shape (2, 3, 32, 32)",
            ),
            (
                lambda: evaluate(defenses=["jpeg:75", "jpeg:75"]),
                ValueError,
                "defenses must be different, and not named 'none', the bare network's name, got jpeg:75, jpeg:75",
            ),
        ),
        *of_positive("evaluation.wilson", "z", lambda z: evaluation.wilson(1, 2, z)),
        *rows(
            "evaluation.wilson",
            *(
                (
                    lambda v=v: evaluation.wilson(*v),
                    ValueError,
                    "right must be a number of the count, 0 ≤ right ≤ count",
                )
                for v in ((1, 0), (3, 2), (-1, 2), (math.nan, 2), ("1", 2))
            ),
        ),
        *rows(
            "evaluation.World",
            *(
                (
                    lambda v=v: evaluation.World().shard(v),
                    ValueError,
                    f"shard must be i/n with 1 ≤ i ≤ n, such as 2/8, got {v!r}",
                )
                for v in ("", "2", "0/8", "9/8", "a/b", "1.5/2")
            ),
            (lambda: evaluation.World().shard(3), TypeError, "shard must be a text, got 3"),  # type: ignore[arg-type]
        ),
    ]


ROWS: list[Row] = [
    *_of_names(),
    *_of_layers(),
    *_of_kinds(),
    *_of_filters(),
    *_of_files(),
    *_of_plans(),
    *_of_evaluate(),
]
