"""All that meds asks of anomalib itself: make a model, fit it with anomalib's engine, score images with it.

The only module that imports anomalib, and only when a model is made.
"""

from __future__ import annotations

import inspect
import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from meds.api import PluginError, Scores
from meds_anomalib import AnomalibOptions
from meds_anomalib.models import MODELS
from meds_anomalib.surroundings import interruptible, one_seed, quiet
from meds_anomalib.weights import encoder_weights


class Advance(Protocol):
    """A progress bar."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on."""


class AnomalibModel:
    """A model of anomalib for images of `size` x `size` pixels, RGB from 0 to 1, [B, 3, S, S].

    Random weights come from torch's global generator. `with_weights: False` skips the encoder's weights, for a model
    whose state is loaded next.

    Raises:
        PluginError: anomalib is not installed, refuses the arguments, or the encoder's weights are not there.
    """

    def __init__(self, options: AnomalibOptions, size: int, with_weights: bool = True) -> None:
        self.options, self.size = options, size
        kind = model_class(options.model)
        with quiet(), one_seed():
            parts = {"pre_processor": _preprocessing(kind, size), "post_processor": False, "evaluator": False}
            with encoder_weights(options, with_weights):
                self.module = _made(kind, options, {**parts, "visualizer": False})
        self.network: nn.Module = self.module.model

    def fit(self, images: Dataset[Tensor], device: torch.device, bar: Advance) -> None:
        """Train or fit on images [3, S, S] as anomalib's own engine does it, without a validation set."""
        from anomalib.engine import Engine

        data = _training_data(images, self.options.batch_size)
        with quiet(), one_seed(), interruptible(), tempfile.TemporaryDirectory() as folder:
            engine = Engine(
                default_root_dir=folder,
                callbacks=[_progress(bar)],
                barebones=True,
                accelerator="cpu" if device.type == "cpu" else "gpu",
                devices=1 if device.type == "cpu" else [device.index or 0],
                **self._length(),
            )
            try:
                with redirect_stderr(io.StringIO()):  # the coreset's own progress bar, a line for each of its steps
                    engine.fit(self.module, datamodule=data)
            except (ValueError, RuntimeError, AssertionError) as error:
                raise PluginError(
                    f"anomalib's {self.options.model} cannot be fitted to these images: {error}: try another "
                    "`backbone.image_size`, `student.batch_size` or `student.init_args`."
                ) from error
        self.place(device)
        bar.advance()

    def _length(self) -> dict[str, int]:
        options = self.options
        if not MODELS[options.model].trained:
            return {}
        return {
            "max_epochs": -1 if options.max_epochs is None else options.max_epochs,
            "max_steps": options.max_steps or -1,
        }

    def fit_steps(self, count: int) -> int:
        """How often a fit on `count` images moves its bar: after each batch, and when what follows them is done."""
        in_epoch = -(-count // self.options.batch_size)
        return 1 + min(filter(None, (in_epoch * self._epochs(), self.options.max_steps)))

    def _epochs(self) -> int:
        if MODELS[self.options.model].trained:
            return self.options.max_epochs or 0
        return int(self.module.trainer_arguments["max_epochs"])

    def place(self, device: torch.device) -> None:
        """Move to a device, in evaluation mode."""
        self.module.to(device).eval()

    def scores(self, images: Tensor) -> Scores:
        """Anomaly map [B, S, S] and score [B] of images [B, 3, S, S], float32, as anomalib's model gives them."""
        with torch.no_grad():
            answer = self.network(self.module.pre_processor(images))
        maps = answer.anomaly_map.float()
        return Scores([maps.reshape(len(images), *maps.shape[-2:])], answer.pred_score.float().reshape(len(images)))


def model_class(name: str) -> type[Any]:
    """A model's class in the installed anomalib; PluginError if there is no anomalib or no such model in it."""
    try:
        with quiet():
            import anomalib.engine
            import anomalib.models
    except ImportError as error:
        raise PluginError(
            f"The student `anomalib` needs the package anomalib, which cannot be imported here ({error}): run "
            "`pip install 'anomalib>=2.7,<2.8'`."
        ) from error
    found = getattr(anomalib.models, name, None)
    if found is None:
        raise PluginError(f"anomalib {anomalib.__version__} has no model '{name}': install anomalib 2.7.")
    return found  # type: ignore[no-any-return]


def _preprocessing(kind: type[Any], size: int) -> Any:
    """The model's own normalisation; images have the right size already, so nothing is resized or cut."""
    arguments: dict[str, Any] = {"image_size": (size, size)}
    if "crop_size" in inspect.signature(kind.configure_pre_processor).parameters:
        arguments["crop_size"] = size
    return kind.configure_pre_processor(**arguments)


def _made(kind: type[Any], options: AnomalibOptions, parts: dict[str, Any]) -> Any:
    given = dict(options.init_args)
    known = set(inspect.signature(kind).parameters)
    unknown = sorted(set(given) - known)
    if unknown:
        possible = ", ".join(sorted(known - set(parts) - {"pre_trained"}))
        raise PluginError(
            f"anomalib's {options.model} has no argument '{unknown[0]}' in init_args; it has: {possible}."
        )
    if "pre_trained" in known:
        given["pre_trained"] = True  # what that means is up to `encoder_weights`
    try:
        made = kind(**given, **parts)
    except (TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise PluginError(
            f"anomalib's {options.model} cannot be made with init_args {options.init_args}: {error}"
        ) from error
    _check_layers(made, options)
    return made


def _check_layers(module: nn.Module, options: AnomalibOptions) -> None:
    """PluginError for a wanted layer that the encoder has not; anomalib would go on without it."""
    for part in module.modules():
        if type(part).__name__ == "TimmFeatureExtractor":
            extractor: Any = part
            missing = [name for name in options.init_args.get("layers", ()) if name not in extractor.layers]
            if missing:
                raise PluginError(
                    f"The encoder '{extractor.backbone}' of anomalib's {options.model} has no layer '{missing[0]}': "
                    "choose other `layers` in `student.init_args`."
                )


def _training_data(images: Dataset[Tensor], batch_size: int) -> Any:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningDataModule

    def joined(rows: Sequence[Tensor]) -> Any:
        return ImageBatch(image=torch.stack(list(rows)), gt_label=torch.zeros(len(rows), dtype=torch.long))

    class TrainingData(LightningDataModule):
        """What anomalib's models ask of the data besides batches."""

        name, category, train_batch_size = "meds", "", batch_size

        def train_dataloader(self) -> DataLoader[Tensor]:
            return DataLoader(images, batch_size, shuffle=True, collate_fn=joined)

    return TrainingData()


def _progress(bar: Advance) -> Any:
    from lightning.pytorch import Callback

    class Progress(Callback):
        """Tells meds' progress bar of every batch."""

        def on_train_batch_end(self, *_: Any, **__: Any) -> None:
            bar.advance()

    return Progress()
