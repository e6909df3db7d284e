"""What students and detectors are checked for alike, and the encoders and images that they are checked on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch
from pydantic import ValidationError
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.errors import PluginError
from meds.core.model import EvaluationDefaults, Scores
from meds.core.registry import Registry
from meds.testing.base import CheckError, Kit, check, described, require
from meds.testing.encoders import ENCODERS, smooth_images
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import EVALUATE, FIT, TinyRun

CLASS_NAMES = ("bolt", "nut")
MOST_SECONDS = 60
"""Far more than the slowest that ships with meds needs; processor time, which other programs do not lengthen."""
ODD_SIZES = {"cnn": (50, 75), "vit": (72, 56)}
"""Sides whose grids are odd: 25, 13, 7, 4, 2 and 38, 19, 10, 5, 3 of the CNN, 9 and 7 of the ViT."""
POOR_ENCODERS: tuple[dict[str, Any], ...] = (
    {"type": "random-cnn", "stages": 1},
    {"type": "random-cnn", "stages": 2, "image_size": 32},
    {"type": "random-vit", "blocks": 2},
)


@dataclass(frozen=True)
class Case:
    """A model class with its options on one encoder, which `block` names as in a spec."""

    who: str
    block: Mapping[str, Any]
    backbone: Backbone
    model: Any
    options: Any
    layers: tuple[str, ...]

    def new(self, seed: int = 0) -> Any:
        """A model with weights that depend on the seed."""
        torch.manual_seed(seed)
        return self.model(self.options, [self.backbone.layer(name) for name in self.layers], CLASS_NAMES)

    def features(self, count: int = 4, seed: int = 0) -> list[Tensor]:
        """The encoder's maps of some images, float32 [count, C, H, W] for each layer."""
        return self.features_of(smooth_images(count, self.backbone.preprocessing.size, seed))

    def features_of(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps of images [n, 3, S, S]."""
        with torch.no_grad():
            return [found.float().clone() for found in self.backbone.features(images, self.layers)]


def classes_of(count: int) -> Tensor:
    """Class indices for some images, all classes in turn."""
    return torch.arange(count) % len(CLASS_NAMES)


def made_backbone(registry: Registry, block: Mapping[str, Any]) -> Backbone:
    """The encoder that a block of a spec names."""
    registration = registry.get("backbone", str(block["type"]))
    values = {key: value for key, value in block.items() if key != "type"}
    backbone: Backbone = registration.load()(registration.plugin.options.model_validate(values))
    return backbone


class ModelKit(Kit):
    """Base of the kits for what stands under `student:` in a spec.

    Attributes:
        backbones: the families of encoders that it must work with, "cnn" and "vit"; empty: those that
            `layers_needed` accepts.
        backbone: an encoder to check it on in place of the tiny random ones, as a block of a spec, for a model
            that works with nothing else. Sizes are set by `image_size`.
    """

    kind = "student"
    backbones: ClassVar[tuple[str, ...]] = ()
    backbone: ClassVar[Mapping[str, Any] | None] = None

    def encoder_blocks(self) -> dict[str, dict[str, Any]]:
        """The encoders that it is checked on, by family, as blocks of a spec."""
        if self.backbone is not None:
            return {made_backbone(self.registry(), self.backbone).family: dict(self.backbone)}
        for family in self.backbones:
            require(family in ENCODERS, f"{type(self).__name__}.backbones: there is no family '{family}' of encoders.")
        self.implementation(), self.made_options()  # what is wrong with these has nothing to do with encoders
        families = self.backbones or tuple(family for family in ENCODERS if self._accepts(family))
        require(
            bool(families),
            f"{self.title} works with neither a CNN nor a ViT: give the encoder that it needs, `backbone`.",
        )
        return {family: {"type": ENCODERS[family]} for family in families}

    def _accepts(self, family: str) -> bool:
        try:
            self.case({"type": ENCODERS[family]})
        except PluginError:
            return False
        return True

    def case(self, block: Mapping[str, Any]) -> Case:
        """The plugin on one encoder; PluginError if it refuses it."""
        backbone, model, options = made_backbone(self.registry(), block), self.implementation(), self.made_options()
        layers = model.layers_needed(options, backbone)
        who = f"{self.title}, on the {backbone.family} '{backbone.name}' at {backbone.preprocessing.size} pixels,"
        require(
            isinstance(layers, tuple) and bool(layers) and all(isinstance(name, str) for name in layers),
            f"{who} must name the layers that it needs as a tuple of names, not {layers!r}.",
        )
        return Case(who, block, backbone, model, options, layers)

    def cases(self) -> Iterator[Case]:
        """The plugin on each encoder that it must work with."""
        for block in self.encoder_blocks().values():
            yield self.case(block)

    def odd_cases(self) -> Iterator[Case]:
        """The plugin on images of odd sizes, unless the plugin or its own encoder refuses them."""
        for family, block in self.encoder_blocks().items():
            for size in ODD_SIZES[family]:
                try:
                    case = self.case({**block, "image_size": size})
                    case.new()
                except (PluginError, ValidationError):
                    continue
                yield case

    def check_evaluation(self, who: str, found: object, own: bool) -> None:
        """EvaluationDefaults whose values can be used; `own`: whether it scores whole images itself."""
        require(
            isinstance(found, EvaluationDefaults), f"{who} must give EvaluationDefaults, not {type(found).__name__}."
        )
        assert isinstance(found, EvaluationDefaults)
        require(
            found.map_size >= 8, f"{who} gives map_size = {found.map_size} for evaluation, which must be 8 or more."
        )
        require(
            own or found.image_score != "own",
            f"{who} says image_score = 'own' for evaluation, but gives no image scores of its own.",
        )

    def check_run(self, stages: list[dict[str, Any]], **changes: Any) -> None:
        """A whole run on each encoder through meds' own runner, down to finite figures."""
        for family, block in self.encoder_blocks().items():
            with temporary_folder() as folder:
                spec = {"student": self.block(), "backbone": block, **changes}
                run = TinyRun(self.registry(), folder, stages, **spec)
                metrics = run.run()
                require(bool(metrics["classes"]), f"{self.title} ends a run on the {family} without figures.")
                for name, scores in run.artifact("evaluate").tensors("scores").items():
                    require(
                        bool(torch.isfinite(scores).all()),
                        f"{self.title} ends a run on the {family} with {name} scores that are not finite.",
                    )

    @check
    def test_unsuitable_encoders_are_refused(self) -> None:
        """An encoder of another family, or with too few layers, is refused with a PluginError by `layers_needed`."""
        if self.backbone is None and self.backbones:
            for family in sorted(set(ENCODERS) - set(self.backbones)):
                require(
                    not self._accepts(family),
                    f"{self.title} accepts a {family}, but its kit does not declare it: add it to `backbones`, or "
                    "raise a PluginError in `layers_needed`.",
                )
        for block in POOR_ENCODERS:
            values = ", ".join(f"{key} {value}" for key, value in block.items() if key != "type")
            try:
                self.case(block).new()
            except PluginError as error:
                require(bool(str(error).strip()), f"{self.title} refuses an encoder without saying why.")
            except CheckError:
                raise
            except Exception as error:
                raise CheckError(
                    f"{self.title} must refuse an encoder that cannot serve it ({block['type']} with {values}) with a "
                    f"PluginError that says what is missing, and raises {described(error)}"
                ) from error

    @check
    def test_classes_separate_and_unified(self) -> None:
        """One model for all classes and one for each both run and are evaluated."""
        for classes in ("unified", "separate"):
            self.check_run([self.fit_block(), EVALUATE], classes=classes)

    @check
    def test_a_tiny_fit_takes_seconds(self) -> None:
        """An epoch on a dozen images, or a detector's whole fit of them, is a matter of seconds on one core."""
        for family, block in self.encoder_blocks().items():
            with temporary_folder() as folder:
                spec = {"student": self.block(), "backbone": block}
                run = TinyRun(self.registry(), folder, [self.fit_block()], **spec)
                started = time.process_time()
                run.run(last="fit")
                taken = time.process_time() - started
            require(
                taken < MOST_SECONDS,
                f"{self.title} took {taken:.0f} s of processor time for a dozen tiny images on a {family}, where "
                f"{MOST_SECONDS} are allowed: give the kit options that make it small, or look for what is slow.",
            )

    def fit_block(self) -> dict[str, Any]:
        """The stage `fit` on a tiny scale."""
        return dict(FIT)


EVALUATION_VALUES: dict[str, tuple[str, ...]] = {
    name: get_args(hint) for name, hint in get_type_hints(EvaluationDefaults).items() if get_origin(hint) is Literal
}
"""The fields of EvaluationDefaults that take one of a few values, and which."""


def check_scores(who: str, scores: object, count: int) -> Scores:
    """Scores whose maps are float32 [count, H, W] for each group, finite and not negative; images likewise or None."""
    require(isinstance(scores, Scores), f"{who} must give Scores, not {type(scores).__name__}.")
    assert isinstance(scores, Scores)
    require(bool(scores.maps), f"{who} gives no score map.")
    for found in scores.maps:
        check_map(who, found, count)
    if scores.images is not None:
        values = scores.images
        good = isinstance(values, Tensor) and values.shape == (count,) and values.dtype == torch.float32
        require(good, f"{who} must give image scores as float32 [{count}], not {shown(values)}.")
        require(bool(torch.isfinite(values).all()), f"{who} gives image scores that are not finite.")
    return scores


def check_map(who: str, found: object, count: int) -> None:
    """A score map float32 [count, H, W], finite and not negative."""
    good = isinstance(found, Tensor) and found.ndim == 3 and len(found) == count and found.dtype == torch.float32
    require(good, f"{who} must give score maps as float32 [{count}, H, W], not {shown(found)}.")
    assert isinstance(found, Tensor)
    require(bool(torch.isfinite(found).all()), f"{who} gives scores that are not finite.")
    require(bool((found >= 0).all()), f"{who} gives a negative score ({float(found.min()):.3g}).")


def check_close(who: str, first: Tensor, second: Tensor, what: str) -> None:
    """Equal up to a thousandth of the largest value."""
    gap, largest = float((first - second).abs().max()), float(first.abs().max())
    require(gap <= 1e-3 * max(largest, 1e-6), f"{who} {what}: they differ by {gap:.3g} of {largest:.3g}.")


def shown(value: object) -> str:
    """Type and shape of a tensor, or the type of anything else, for a sentence."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
