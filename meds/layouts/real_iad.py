"""Recognises the folders of Real-IAD, whose lists of images hold the labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from meds.core.errors import DataError
from meds.core.image_files import folders_in
from meds.layouts.layout import Layout, probed, quoted
from meds.layouts.mask_files import Tree
from meds.plugins.datasets.real_iad import IMAGE_FOLDERS, LISTS_PARENT, RealIadDataset, RealIadOptions


def real_iad(tree: Tree) -> Layout | None:
    """The layout of a folder of images beside one of JSON lists that name them, if it is that."""
    below = {folder.name: folder for folder in folders_in(tree.root)}
    lists = [name for name in below if name.startswith(LISTS_PARENT)]
    if below.keys().isdisjoint(IMAGE_FOLDERS) or not lists:
        return None
    # The name of the default is a beginning of all the others.
    options = {"path": str(tree.root.resolve())} | ({} if lists[0] == LISTS_PARENT else {"lists": lists[0]})
    try:
        records = RealIadDataset(RealIadOptions.model_validate(options)).records()
    except DataError:
        return None
    trained = [record for record in records if record.split == "train"]
    counts = Counter(record.class_name for record in trained)
    text = ", ".join(f"{name} ({count} training images)" for name, count in counts.items())
    known = sum(bool(record.label) for record in trained)
    found = [
        f"The layout of Real-IAD, {len(counts)} class{'es' * (len(counts) > 1)}: {text}.",
        f"Images, labels and masks as the lists in '{lists[0]}' have them, {known} of the training images defective.",
    ]
    if len(lists) > 1:
        found.append(f"Other lists, for the option `lists`: {quoted(lists[1:])}.")
    listed = probed([Path(record.path) for record in trained])
    return Layout({"type": "real-iad", **options}, found, min(counts.values()), listed)
