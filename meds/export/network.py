"""A whole detector as one network: from an image's pixels to its score and anomaly map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from meds.core import scoring
from meds.core.errors import UserError
from meds.core.finished_run import FinishedRun
from meds.core.partitions import PartitionScorer
from meds.core.runtime import Runtime
from meds.export.preprocess import preprocess


class DetectorNetwork(nn.Module):
    """Preprocessing, encoder, student, score map, smoothing and image score of a run, for images of one class.

    Computes in float32 on a processor, whatever the run's precision and device were, and takes `run` there with it.

    Raises:
        UserError: the run scores with something that is no network, such as the memory alone.
    """

    def __init__(self, run: FinishedRun, class_name: str) -> None:
        super().__init__()
        # The run's own would write its bf16 products into the file, which onnxruntime and OpenVINO do not take.
        run.pipeline.runtime = Runtime("cpu", "fp32", run.spec.threads)
        scorer = run.scorer()
        if not isinstance(scorer, PartitionScorer):
            raise UserError(
                f"{run.path}: the stage `{run.scoring_block.name}` scores with a memory of training images, which "
                "cannot be exported; finish the run with a student."
            )
        self._backbone, self._scorer = run.pipeline.backbone, scorer
        self._settings = run.evaluation_settings
        self.student_name = run.spec.student.type
        self.input_size = self._backbone.preprocessing.size
        self._class = run.data.class_names.index(class_name)
        # Registered, so that their weights become part of the file.
        self._networks = nn.ModuleList(
            [*scorer.modules(), *(v for v in vars(self._backbone).values() if isinstance(v, nn.Module))]
        )
        self.to("cpu").eval()
        self.float()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB uint8 [1, H, W, 3] -> image score float32 [1] and anomaly map float32 [1, S, S]."""
        pixels = preprocess(image, self._backbone.preprocessing)
        features = [values.float() for values in self._backbone.features(pixels, self._scorer.layers)]
        scores = self._scorer.scores_of_class(features, self._class)
        smoothed = scoring.smooth(scoring.pixel_map(scores.maps, self._settings), self._settings)
        return scoring.model_scores(scores, smoothed, self._settings), smoothed


def example_image(size: int) -> Any:
    """An image to trace with; its sides differ and are unlike any other size in the network."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, size + 21, size + 34, 3), dtype=torch.uint8, generator=generator)
