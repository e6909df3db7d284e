"""Everything that a spec names, brought to life once: dataset, data, backbone, caches, plan."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from meds.core import files
from meds.core.backbone import Backbone
from meds.core.contamination import NoiseProtocol
from meds.core.data import RunData, scan
from meds.core.dataset import Dataset
from meds.core.decision_table import read_decisions
from meds.core.decisions import apply_decisions, standing
from meds.core.feature_cache import FeatureCache, bytes_per_image
from meds.core.home import cache_limit_bytes, meds_home
from meds.core.model import Model
from meds.core.plan import PlannedStage, layers_read, plan_stages
from meds.core.records import KnownContents
from meds.core.registry import OWN_DISTRIBUTION, Registry
from meds.core.reporter import Reporter
from meds.core.runtime import Precision, Runtime
from meds.core.spec import Spec
from meds.core.store import Store
from meds.core.wiring import WiredStage, wire_stages


class Pipeline:
    """The parts of a spec, each made when first asked for.

    `data` are the images where they are known already, so that nothing is scanned; `precision` stands before the
    spec's. A scan of many images tells the reporter how far it is; `known` is what earlier scans of the same block
    `dataset` have found.
    """

    def __init__(
        self,
        spec: Spec,
        registry: Registry,
        home: Path | None = None,
        data: RunData | None = None,
        precision: Precision | None = None,
        reporter: Reporter | None = None,
        known: KnownContents | None = None,
    ) -> None:
        self._reporter, self._known = reporter, known
        self.spec, self.registry, self._data, self._precision = spec, registry, data, precision
        self.home = home or meds_home()
        self.store = Store(self.home)

    @cached_property
    def runtime(self) -> Runtime:
        """Device and precision."""
        return Runtime(self.spec.device, self._precision or self.spec.precision, self.spec.threads)

    @cached_property
    def dataset(self) -> Dataset[Any]:
        """The dataset."""
        dataset: Dataset[Any] = self.spec.dataset.registration.load(Dataset)(self.spec.dataset.options)
        return dataset

    @cached_property
    def data(self) -> RunData:
        """The images, hashed, with the noise protocol applied."""
        if self._data is not None:
            return self._data
        # Stages that do not fit together need no images to be found out, and reading many takes minutes.
        _ = self.wired
        noise, decisions = self.spec.noise, self.spec.decisions
        protocol = None if noise is None else noise.registration.load(NoiseProtocol)(noise.options)
        data = scan(self.dataset, protocol, self._reporter, self._known)
        if decisions is None:
            return data
        return apply_decisions(data, standing(read_decisions(decisions.file)), decisions.defects_to_test)

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen encoder."""
        registration = self.spec.backbone.registration
        backbone: Backbone = registration.load(Backbone)(self.spec.backbone.options)
        return backbone

    @cached_property
    def backbone_fingerprint(self) -> str:
        """What tells this encoder from any other: its own fingerprint, and of another package's its code as well."""
        registration, own = self.spec.backbone.registration, self.backbone.fingerprint
        if registration.package == OWN_DISTRIBUTION:
            return own
        # Its weights do not tell how it computes, and its features outlive it in the cache.
        return files.fingerprint([own, registration.identity()])

    @cached_property
    def student_class(self) -> type[Model]:
        """The class of the student or detector."""
        student: type[Model] = self.spec.student.registration.load(Model)
        return student

    @cached_property
    def student_layers(self) -> tuple[str, ...]:
        """Layers that the student reads."""
        return self.student_class.layers_needed(self.spec.student.options, self.backbone)

    @cached_property
    def wired(self) -> tuple[WiredStage, ...]:
        """The stages and what feeds each, as far as the spec alone tells."""
        return wire_stages(self.spec.stages, self.registry)

    @cached_property
    def stages(self) -> tuple[PlannedStage, ...]:
        """The planned stages."""
        return plan_stages(
            self.wired,
            self.spec,
            self.registry,
            self.data,
            self.backbone,
            self.backbone_fingerprint,
            self.student_class,
            self.runtime.precision,
        )

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Every layer whose features are needed."""
        return layers_read(self.stages, self.backbone, self.student_layers)

    @cached_property
    def features(self) -> FeatureCache:
        """The feature cache of this backbone at this precision."""
        name = f"{self.backbone_fingerprint}-{self.runtime.precision}"
        return FeatureCache(self.home, name, cache_limit_bytes())

    def feature_bytes(self) -> int:
        """Bytes that the features of all images of the run take."""
        size = bytes_per_image([self.backbone.layer(name) for name in self.layers])
        return size * len({sample.digest for sample in self.data.samples()})
