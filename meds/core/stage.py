"""The stage contract: what a stage sees, what it makes, and how its result scores unseen images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meds.core.backbone import Backbone
from meds.core.data import RunData, Sample
from meds.core.device_features import DeviceFeatures, as_batch
from meds.core.errors import PluginError, UserError
from meds.core.feature_cache import FeatureCache
from meds.core.model import Model, Scores
from meds.core.reporter import Reporter
from meds.core.runtime import Runtime
from meds.core.seeds import derive_seed
from meds.core.store import Artifact, ArtifactWriter
from meds.core.student import Student


@dataclass(frozen=True)
class Partition:
    """The classes that share one student: all of them, or one if `classes: separate`."""

    name: str
    class_indices: tuple[int, ...]

    def positions(self, samples: Sequence[Sample]) -> list[int]:
        """Positions of the samples that belong to it, in order."""
        return [i for i, sample in enumerate(samples) if sample.class_index in self.class_indices]

    def index(self, class_index: int) -> int:
        """The number of one of its classes among them, by which the partition's student knows the class."""
        return self.class_indices.index(class_index)


@dataclass
class StageContext:
    """All that a stage may see.

    Attributes:
        inputs: the artifacts of earlier stages by kind, see `Stage.consumes`.
        output: collects the result.
        work: a folder for checkpoints that survives a killed run.
        own: the partition whose student it is for, in the view that `within` gives.
        selection_rule: makes the rule of a block such as `{"type": "median-mad"}`; PluginError if it cannot.
        emit: tells the run's events and loggers: `emit("epoch", stage=context.name, **facts)`, facts as plain data.
        scorer_of: the scorer that the stage which made an artifact offers; UserError if it offers none.
        read_mask: a sample's mask, bool [H, W] of the image's own size, None where its place is not known.
        read_image: a sample's image as resized and cut for the encoder, RGB uint8 [S, S, 3]. Both raise DataError
            for a file that cannot be read.
    """

    name: str
    seed: int
    data: RunData
    partitions: tuple[Partition, ...]
    backbone: Backbone
    features: FeatureCache
    runtime: Runtime
    reporter: Reporter
    student_class: type[Model]
    student_options: Any
    selection_rule: Callable[[Mapping[str, Any]], Any]
    inputs: Mapping[str, Artifact]
    output: ArtifactWriter
    work: Path
    emit: Callable[..., None]
    scorer_of: Callable[[Artifact], Scorer]
    read_mask: Callable[[Sample], Any] = field(default=lambda _: None)
    read_image: Callable[[Sample], Any] = field(default=lambda _: None)
    own: Partition | None = None
    device_features: DeviceFeatures = field(init=False)

    def __post_init__(self) -> None:
        self.device_features = DeviceFeatures(self.features, self.runtime)

    def within(self, partition: Partition) -> StageContext:
        """This context for the student of a partition: `new_model` makes it for the partition's classes alone, and
        `class_tensor` counts among these.
        """
        view = replace(self, own=partition)
        # One for all partitions of a stage: together they may take no more than one may.
        view.device_features = self.device_features
        return view

    def without_weights(self) -> StageContext:
        """This context for a student whose values come from an artifact: the file that its option `weights` names, if
        it is such a path, is not read and need not be there any more.
        """
        if not isinstance(getattr(self.student_options, "weights", None), Path):
            return self
        view = replace(self, student_options=self.student_options.model_copy(update={"weights": None}))
        view.device_features = self.device_features
        return view

    def student_layers(self) -> tuple[str, ...]:
        """Names of the layers that the student reads."""
        return self.student_class.layers_needed(self.student_options, self.backbone)

    def new_model(self, *labels: object) -> Model:
        """A student, or a detector that is not fitted; random weights depend on the run's seed and the labels only."""
        torch.manual_seed(derive_seed(self.seed, "student", *labels))
        layers = [self.backbone.layer(name) for name in self.student_layers()]
        names = self.data.class_names
        if self.own is not None:
            names = tuple(names[index] for index in self.own.class_indices)
        model = self.student_class(self.student_options, layers, names)
        if isinstance(model, Student):
            self.runtime.place(model)
        return model

    def new_student(self, *labels: object) -> Student:
        """A model that must be a student, see `new_model`."""
        model = self.new_model(*labels)
        if not isinstance(model, Student):
            raise PluginError(f"The stage `{self.name}` needs a student that reconstructs teacher maps.")
        return model

    def read_features(self, samples: Sequence[Sample], layers: Sequence[str] | None = None) -> list[Tensor]:
        """Feature maps of the samples on the device, float32 [n, C, H, W] for each layer.

        They travel in the precision of the cache, which is half as much, and widen to the same numbers there.
        """
        return [as_batch(maps) for maps in self._fetch(samples, layers)]

    def _fetch(self, samples: Sequence[Sample], layers: Sequence[str] | None) -> list[Tensor | list[Tensor]]:
        digests = [sample.digest for sample in samples]
        names = self.student_layers() if layers is None else layers
        return [self.device_features.fetch(digests, name) for name in names]

    def read_batches(
        self, batches: Iterable[Sequence[Sample]], layers: Sequence[str] | None = None
    ) -> Iterator[tuple[Sequence[Sample], list[Tensor]]]:
        """Each batch with its features, see `read_features`; on an accelerator they are read one batch ahead."""

        def fetch(batch: Sequence[Sample]) -> tuple[Sequence[Sample], list[Tensor | list[Tensor]]]:
            return batch, self._fetch(batch, layers)

        for batch, fetched in self.runtime.in_advance(fetch, batches):
            yield batch, [as_batch(maps) for maps in fetched]

    def class_tensor(self, samples: Sequence[Sample]) -> Tensor:
        """Class indices of the samples on the device, int64 [n]; see `within`."""
        indices = [sample.class_index for sample in samples]
        return self.runtime.put(torch.tensor(indices if self.own is None else [self.own.index(i) for i in indices]))

    def input(self, *kinds: str) -> Artifact:
        """The artifact of one of these kinds, which the stage's `consumes` or `may_consume` must name.

        Raises:
            UserError: no earlier stage made one, or none is named there.
        """
        for kind in kinds:
            if kind in self.inputs:
                return self.inputs[kind]
        raise UserError(
            f"The stage `{self.name}` needs a result of kind {' or '.join(kinds)} from an earlier stage, which its "
            "`consumes` names."
        )


class Scorer(ABC):
    """Scores patches of any image from its features; what a finished stage offers for evaluation."""

    layers: tuple[str, ...]

    @abstractmethod
    def scores(self, features: Sequence[Tensor], classes: Tensor) -> Scores:
        """Scores of images from the features of `layers`, [B, C_i, H_i, W_i]; `classes` int64 [B]."""

    def training_scores(self) -> Scores | None:
        """Scores of the training images, in their order, where they must not be computed like test images.

        None (the default) if training images are scored like any other.
        """
        return None


class Stage(ABC):
    """One step of a pipeline: turns input artifacts into one output artifact.

    Attributes:
        produces: the kind of its artifact.
    """

    produces: str

    def __init__(self, options: Any) -> None:
        self.options = options

    def consumes(self) -> tuple[tuple[str, ...], ...]:
        """What it needs from earlier stages: for each input the kinds that will do.

        The nearest earlier stage that made one of the kinds is taken, in whatever order they stand here. The first is
        what the conformance kit tries the stage with.
        """
        return ()

    def may_consume(self) -> tuple[str, ...]:
        """Kinds that it takes in as well if an earlier stage made them; the nearest such stage's is taken."""
        return ()

    def layers_needed(self, backbone: Backbone, student_layers: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Backbone layers whose features it reads."""
        return tuple(student_layers)

    def student_matters(self, backbone: Backbone) -> bool:  # noqa: ARG002
        """Whether its result depends on the student's options."""
        return True

    def check_model(self, name: str, model: type[Model], backbone: Backbone) -> None:  # noqa: B027
        """Refuse a student that it cannot work with: PluginError. `name` is the student's name in the spec."""

    def check(self, context: StageContext) -> None:  # noqa: B027
        """Refuse what this run cannot work with: options without effect, files that are missing, too few images.

        Asked of every stage that is to be computed before the first of them is, and by `meds plan`; inputs and output
        are not there.

        Raises:
            MedsError: one sentence about it.
        """

    def sees_test_images(self) -> bool:
        """Whether its result depends on the test images, labels and masks."""
        return False

    def sees_confirmations(self) -> bool:
        """Whether its result depends on which training images a person has judged to be normal."""
        return False

    def estimate_seconds(self, context: StageContext) -> float | None:  # noqa: ARG002
        """Seconds that `run` should take, by timing a small piece on a few of the run's images; None if unknown."""
        return None

    def estimate_bytes(self, context: StageContext) -> int:  # noqa: ARG002
        """Bytes of memory that `run` holds beyond a network and a batch, such as a table of all images; 0 if none."""
        return 0

    def scorer_bytes(self, context: StageContext) -> int:  # noqa: ARG002
        """Bytes of memory that `scorer`'s result holds beyond a network and a batch; 0 if none."""
        return 0

    @abstractmethod
    def run(self, context: StageContext) -> None:
        """Compute and write the result into `context.output`; may checkpoint in `context.work`."""

    def scorer(self, context: StageContext, artifact: Artifact) -> Scorer:  # noqa: ARG002
        """A scorer made of this stage's artifact; UserError if it has none."""
        raise UserError(f"The result of the stage `{context.name}` cannot score images.")
