"""The kit for datasets: where images, labels and masks come from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meds.core.data import scan
from meds.core.dataset import ANOMALOUS, NORMAL, Dataset, DatasetOptions, Record
from meds.core.errors import DataError
from meds.testing.base import CheckError, Kit, check, described, require

IMAGES_LOOKED_AT = 12
SPLITS = ("train", "test")
LABELS = (NORMAL, ANOMALOUS, None)


class DatasetKit(Kit):
    """Every check of the contract `Dataset`; of its images a dozen are read, evenly spread."""

    kind = "dataset"
    contract = Dataset

    def made(self) -> Dataset[Any]:
        """The dataset."""
        dataset: Dataset[Any] = self.implementation()(self.made_options())
        return dataset

    def some(self, records: Sequence[Record]) -> list[Record]:
        """A few records, evenly spread, those with masks among them."""
        half = IMAGES_LOOKED_AT // 2
        masked = _spread([record for record in records if record.mask is not None], half)
        return list(dict.fromkeys([*_spread(records, half), *masked]))

    @check
    def test_options_of_every_dataset(self) -> None:
        """Its options have what those of every dataset have."""
        good = issubclass(self.registration().plugin.options, DatasetOptions)
        require(good, f"{self.title} needs options that are a subclass of DatasetOptions of meds.api.")

    @check
    def test_records_are_sane(self) -> None:
        """Classes, splits, labels, defect types and masks are what a record may hold."""
        records = self.made().records()
        require(bool(records), f"{self.title} has no records: it must raise a DataError where there are no images.")
        for record in records:
            who = f"The record of '{getattr(record, 'path', record)}' of {self.lower_title}"
            require(isinstance(record, Record), f"{who} must be a Record, not {type(record).__name__}.")
            for name in ("path", "class_name"):
                value = getattr(record, name)
                require(isinstance(value, str) and bool(value), f"{who} needs a text for its {name}, not {value!r}.")
            require(record.split in SPLITS, f"{who} must be in the split train or test, not {record.split!r}.")
            known = any(
                record.label is label or (type(record.label) is int and record.label == label) for label in LABELS
            )
            require(known, f"{who} must have the label 0, 1 or None, not {record.label!r}.")
            for name in ("defect", "mask"):
                value = getattr(record, name)
                require(value is None or (isinstance(value, str) and bool(value)), f"{who} has {name} = {value!r}.")

    @check
    def test_order_is_fixed(self) -> None:
        """Two datasets with the same options list the same records in the same order."""
        first, second = self.made(), self.made()
        wanted = list(first.records())
        require(wanted == list(first.records()), f"{self.title} lists other records when it is asked again.")
        require(wanted == list(second.records()), f"{self.title} lists other records when it is made anew: sort them.")

    @check
    def test_paths_are_unique(self) -> None:
        """No image stands twice in a split, and a path that stands in both splits names the same image in both."""
        dataset = self.made()
        records = dataset.records()
        counts = Counter((record.split, record.path) for record in records)
        twice = [path for (_, path), count in counts.items() if count > 1]
        require(not twice, f"{self.title} lists {len(twice)} images twice in a split, such as '{(*twice, '')[0]}'.")
        test = {record.path: record for record in records if record.split == "test"}
        for record in records:
            if record.split == "train" and record.path in test:
                self._require_one_image(dataset, record, test[record.path])

    def _require_one_image(self, dataset: Dataset[Any], first: Record, second: Record) -> None:
        # The same image may be for training and for testing, and is told by its path alone.
        who = f"The path '{first.path}' of {self.lower_title}"
        classes = f"one of the class '{first.class_name}' and one of '{second.class_name}'"
        require(first.class_name == second.class_name, f"{who} names two images, {classes}: give each its own path.")
        require(
            dataset.digest(first) == dataset.digest(second),
            f"{who} names one image for training and another for testing: a run tells images apart by their paths, so "
            "give each its own.",
        )

    @check
    def test_images(self) -> None:
        """Images are RGB uint8 [H, W, 3], the same whenever they are read, of the size that is told beforehand."""
        dataset = self.made()
        for record in self.some(dataset.records()):
            who = f"The image '{record.path}' of {self.lower_title}"
            image = dataset.read_image(record)
            good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            require(good, f"{who} must be uint8 [H, W, 3], not {_shown(image)}.")
            size = dataset.image_size(record)
            require(
                size == image.shape[:2], f"{who} has {image.shape[:2]} pixels (height, width), and is told as {size}."
            )
            again = self.made().read_image(record)
            require(np.array_equal(image, again), f"{who} has other pixels when it is read again.")

    @check
    def test_new_images_are_read_alike(self) -> None:
        """A training image whose file somebody scores is read as in training: by `read_file`."""
        dataset = self.made()
        for record in self.some(dataset.records()):
            if Path(record.path).is_file():
                same = np.array_equal(dataset.read_file(Path(record.path)), dataset.read_image(record))
                who = f"The image '{record.path}' of {self.lower_title}"
                advice = "what `read_image` does to a file belongs into `read_file`"
                require(same, f"{who} has other pixels as a file that somebody scores: {advice}.")

    @check
    def test_masks(self) -> None:
        """Masks are bool [H, W] of their image's size; an image without one gives None."""
        dataset = self.made()
        for record in self.some(dataset.records()):
            who = f"The mask of '{record.path}' of {self.lower_title}"
            mask, size = dataset.read_mask(record), dataset.mask_size(record)
            if record.mask is None:
                require(mask is None and size is None, f"{who} is there, although its record names none.")
                continue
            good = isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.ndim == 2
            require(good, f"{who} must be bool [H, W], not {_shown(mask)}.")
            assert mask is not None
            wanted = dataset.image_size(record)
            require(mask.shape == wanted, f"{who} has {mask.shape} pixels (height, width), its image {wanted}.")
            require(size == mask.shape, f"{who} has {mask.shape} pixels (height, width), and is told as {size}.")
            anywhere = bool(mask.any()) or record.label != ANOMALOUS
            require(anywhere, f"{who} marks nothing, although the image is a defect.")

    @check
    def test_digests(self) -> None:
        """Digests are sha256 in hexadecimal, stable, and equal only for equal images."""
        dataset, by_digest = self.made(), dict[str, Any]()
        for record in self.some(dataset.records()):
            who = f"The image '{record.path}' of {self.lower_title}"
            digest = dataset.digest(record)
            good = isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None
            require(good, f"{who} needs a sha256 in hexadecimal as digest, not {digest!r}.")
            require(digest == self.made().digest(record), f"{who} has another digest when it is asked again.")
            image = dataset.read_image(record)
            same = np.array_equal(by_digest.setdefault(digest, image), image)
            require(same, f"{who} has the digest of an image with other pixels.")

    @check
    def test_a_run_can_use_it(self) -> None:
        """meds can list, hash and check all images, with at least two for training in every class."""
        data = scan(self.made(), None)
        names = {record.class_name for record in self.made().records()}
        require(set(data.class_names) == names, f"{self.title} loses classes when a run lists its images.")
        require(not data.unreadable, f"{self.title} has unreadable images, such as '{(*data.unreadable, '')[0]}'.")

    @check
    def test_an_unknown_image_is_a_data_error(self) -> None:
        """A path that is not there is told with a DataError, and no other error."""
        dataset = self.made()
        gone = Record("no/such/image.png", dataset.records()[0].class_name, "test")
        try:
            dataset.read_image(gone)
        except DataError as error:
            named = "image.png" in str(error)
            require(named, f"{self.title} tells of a missing image without its path: {error}")
            return
        except Exception as error:
            raise CheckError(
                f"{self.title} must raise a DataError for an image that is not there, and raises {described(error)}"
            ) from error
        raise CheckError(f"{self.title} gives an image for a path that is none of its own.")


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """At most `count` records, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[place] for place in places]


def _shown(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
