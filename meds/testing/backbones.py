"""The kit for backbones: frozen encoders that turn images into feature maps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from pydantic import ValidationError
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.errors import PluginError
from meds.core.runtime import Runtime
from meds.testing.base import Kit, check, described, require
from meds.testing.bits import same_bits
from meds.testing.encoders import smooth_images
from meds.testing.models import check_close, shown
from meds.testing.surroundings import temporary_folder
from meds.testing.tiny_run import EVALUATE, TinyRun

SIZE_OPTION = "image_size"
PREPROCESSING_OPTIONS = (SIZE_OPTION, "resize")
UNUSABLE_IN_A_NAME = re.compile(r"[+@/\\\s]|^\.")


class BackboneKit(Kit):
    """Every check of the contract `Backbone`.

    Attributes:
        other_encoders: options that make another encoder, each of which must change the fingerprint; `image_size` and
            `resize` are tried where there are such options.
    """

    kind = "backbone"
    contract = Backbone
    other_encoders: ClassVar[Sequence[Mapping[str, Any]]] = ()

    def made(self, **changes: Any) -> Backbone:
        """The encoder, with some options changed."""
        backbone: Backbone = self.implementation()(self.made_options(**changes))
        return backbone

    @check
    def test_facts_are_sane(self) -> None:
        """Name, family, preprocessing, layer names and final layer can be used."""
        found = self.made()
        require(found.name == self.name, f"{self.title} calls itself '{found.name}': both names must be one.")
        require(
            found.family in ("cnn", "vit"), f"{self.title} must be of the family 'cnn' or 'vit', not {found.family!r}."
        )
        how = found.preprocessing
        fits = 0 < how.size <= how.resize
        require(fits, f"{self.title} cuts {how.size} pixels out of {how.resize}: the cut must fit.")
        colours = len(how.mean) == 3 == len(how.std) and all(value > 0 for value in how.std)
        require(colours, f"{self.title} needs three means and three positive deviations, not {how.mean} and {how.std}.")
        names = [layer.name for layer in found.layers]
        require(bool(names), f"{self.title} has no layers.")
        require(len(set(names)) == len(names), f"{self.title} has two layers of one name among {', '.join(names)}.")
        bad = [name for name in names if not name or UNUSABLE_IN_A_NAME.search(name)]
        require(not bad, f"{self.title} has the layer name {bad[:1]}: no '+', '@', '/' or blank may be in it.")
        known = found.final_layer in names
        require(known, f"{self.title} names '{found.final_layer}' as its final layer, which it does not have.")
        sides = [layer.height * layer.width for layer in found.layers]
        fine_first = found.family == "vit" or sides == sorted(sides, reverse=True)
        require(fine_first, f"{self.title} must list its layers from fine to coarse, not as {', '.join(names)}.")

    @check
    def test_layers_are_as_declared(self) -> None:
        """Every layer has the channels and the grid that it is declared with, and is signed if it says so."""
        found = self.made()
        size = found.preprocessing.size
        clouds = smooth_images(2, size)
        maps = _maps(found, torch.cat([clouds, -clouds]), [layer.name for layer in found.layers])
        for layer, values in zip(found.layers, maps, strict=True):
            who = f"The layer '{layer.name}' of {self.lower_title}"
            shape = (4, layer.channels, layer.height, layer.width)
            good = values.shape == shape and values.is_floating_point()
            require(good, f"{who} is declared as {list(shape)} for four images, and is {shown(values)}.")
            require(bool(torch.isfinite(values).all()), f"{who} has values that are not finite.")
            negative = bool((values < 0).any())
            require(layer.signed or not negative, f"{who} is declared without a sign, and takes negative values.")
            require(negative or not layer.signed, f"{who} is declared as signed, and is nowhere negative.")

    @check
    def test_layers_come_in_the_wanted_order(self) -> None:
        """Some of the layers, asked for from last to first, are the same maps as all of them."""
        found = self.made()
        names, images = [layer.name for layer in found.layers], smooth_images(1, found.preprocessing.size)
        together = dict(zip(names, _maps(found, images, names), strict=True))
        some = names[::-2]
        for name, values in zip(some, _maps(found, images, some), strict=True):
            equal = values.shape == together[name].shape
            require(equal, f"{self.title} gives another map for '{name}' if it is asked for {', '.join(some)} only.")
            check_close(self.title, together[name], values, f"gives another '{name}' if it is asked for some layers")
        for name, values in zip(some, _maps(found, images, some[:1]), strict=False):
            check_close(self.title, together[name], values, f"gives another '{name}' if it is asked for that alone")

    @check
    def test_frozen(self) -> None:
        """Maps have no gradient, are equal to the bit whenever they are asked for, and leave the images alone."""
        found = self.made()
        names, images = [layer.name for layer in found.layers], smooth_images(2, found.preprocessing.size)
        kept = images.clone()
        with torch.enable_grad():
            first = found.forward(images, names)
        require(not any(m.requires_grad for m in first), f"{self.title} is not frozen: its maps ask for a gradient.")
        first = [values.clone() for values in first]
        torch.rand(5)
        for name, before, after in zip(names, first, _maps(found, images, names), strict=True):
            require(
                same_bits(before, after),
                f"{self.title} gives another '{name}' when it is asked again: it must be in evaluation mode.",
            )
        require(same_bits(kept, images), f"{self.title} changes the images that it is given in place.")
        for name, before, after in zip(names, first, _maps(self.made(), images, names), strict=True):
            same = same_bits(before, after)
            require(same, f"{self.title} gives another '{name}' when it is made anew: its weights must not change.")

    @check
    def test_making_one_leaves_the_random_generator_alone(self) -> None:
        """A run's seed is worth what it was before."""
        before = torch.get_rng_state()
        self.made()
        same = torch.equal(before, torch.get_rng_state())
        require(same, f"{self.title} draws from torch's global generator: put torch.random.fork_rng around it.")

    @check
    def test_images_do_not_depend_on_the_batch(self) -> None:
        """An image has the same maps alone and among others."""
        found = self.made()
        names, images = [layer.name for layer in found.layers], smooth_images(3, found.preprocessing.size)
        together = _maps(found, images, names)
        for row in range(3):
            for name, whole, alone in zip(names, together, _maps(found, images[row : row + 1], names), strict=True):
                check_close(self.title, whole[row], alone[0], f"gives '{name}' of an image otherwise alone")

    @check
    def test_fingerprint(self) -> None:
        """The fingerprint is the same for the same encoder, and another for other weights or preprocessing."""
        first, again = self.made(), self.made()
        good = isinstance(first.fingerprint, str) and re.fullmatch("[0-9a-f]{64}", first.fingerprint)
        require(bool(good), f"{self.title} needs a sha256 in hexadecimal as fingerprint, not {first.fingerprint!r}.")
        require(first.fingerprint == again.fingerprint, f"{self.title} has another fingerprint when it is made anew.")
        changes = [*self.other_encoders, *self._other_sizes(first)]
        if not changes:
            raise SkipTest("it has no option 'image_size' or 'resize'; name options that change it in `other_encoders`")
        tried = 0
        for change in changes:
            try:
                other = self.made(**change)
            except (PluginError, ValidationError):
                require(change not in self.other_encoders, f"{self.title} refuses {change} of `other_encoders`.")
                continue
            tried += 1
            require(
                other.fingerprint != first.fingerprint, f"{self.title} has one fingerprint for itself and {change}."
            )
        require(tried > 0, f"{self.title} refuses every other size: name options that change it in `other_encoders`.")

    def _other_sizes(self, found: Backbone) -> list[dict[str, Any]]:
        size, fields = found.preprocessing.size, self.registration().plugin.options.model_fields
        values = {SIZE_OPTION: 2 * size, "resize": found.preprocessing.resize + 16}
        return [{name: values[name]} for name in PREPROCESSING_OPTIONS if name in fields]

    @check
    def test_bf16(self) -> None:
        """Under bf16 autocast the maps have their shapes and are finite."""
        found = self.made()
        names, images = [layer.name for layer in found.layers], smooth_images(2, found.preprocessing.size)
        wanted = _maps(found, images, names)
        with Runtime("cpu", "bf16", 1).autocast():
            maps = _maps(found, images, names)
        for name, full, half in zip(names, wanted, maps, strict=True):
            require(full.shape == half.shape, f"{self.title} gives '{name}' another shape in bf16.")
            require(
                bool(torch.isfinite(half.float()).all()), f"{self.title} gives a '{name}' in bf16 that is not finite."
            )

    @check
    def test_odd_image_sizes(self) -> None:
        """An odd size gives maps as declared, or is refused with a PluginError that says what to choose."""
        if SIZE_OPTION not in self.registration().plugin.options.model_fields:
            raise SkipTest("it has no option 'image_size'")
        size = self.made().preprocessing.size
        for odd in (size + 1, size + 13):
            try:
                found = self.made(**{SIZE_OPTION: odd})
            except (PluginError, ValidationError) as error:
                require(bool(str(error).strip()), f"{self.title} refuses images of {odd} pixels without saying why.")
                continue
            except Exception as error:
                raise AssertionError(
                    f"{self.title} must take images of {odd} pixels or refuse them with a PluginError that says what "
                    f"to choose, and raises {described(error)}"
                ) from error
            require(found.preprocessing.size == odd, f"{self.title} takes another size than the {odd} it was told.")
            names = [layer.name for layer in found.layers]
            for layer, values in zip(found.layers, _maps(found, smooth_images(1, odd), names), strict=True):
                shape = (1, layer.channels, layer.height, layer.width)
                good = values.shape == shape
                require(good, f"{self.title} at {odd} pixels declares '{layer.name}' as {shape}, not {shown(values)}.")

    @check
    def test_a_whole_run(self) -> None:
        """Its features go through meds' own runner, cache and memory, down to finite figures."""
        with temporary_folder() as folder:
            stages = [{"type": "memory", "features": "final"}, EVALUATE]
            run = TinyRun(self.registry(), folder, stages, backbone=self.block())
            metrics = run.run()
            require(bool(metrics["classes"]), f"{self.title} ends a run without figures.")
            for name, scores in run.artifact("evaluate").tensors("scores").items():
                finite = bool(torch.isfinite(scores).all())
                require(finite, f"{self.title} ends a run with {name} scores that are not finite.")


def _maps(backbone: Backbone, images: Tensor, names: Sequence[str]) -> list[Tensor]:
    with torch.inference_mode():
        return [found.clone() for found in backbone.forward(images, names)]
