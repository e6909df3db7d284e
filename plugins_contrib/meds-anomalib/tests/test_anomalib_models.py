"""anomalib's own models on a few drawn images: fitted, scored, stored and loaded, without the network."""

from __future__ import annotations

import json
import signal
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib_cases import needs_anomalib, run_spec, spec
from meds_anomalib import AnomalibOptions, PixelsOptions
from meds_anomalib.detector import AnomalibDetector
from meds_anomalib.library import AnomalibModel
from meds_anomalib.models import MODELS, REFUSED
from meds_anomalib.pixels import Pixels
from meds_anomalib.surroundings import one_seed
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from meds.api import PluginError

pytestmark = needs_anomalib

SMALL_CNN = {"backbone": "resnet18"}
SMALL_VIT = {"encoder_name": "vit_small_patch14_dinov2"}
QUICK: dict[str, dict[str, Any]] = {
    "AnomalyDINO": {"init_args": {**SMALL_VIT, "num_neighbours": 1}},
    "Cflow": {
        "init_args": {**SMALL_CNN, "layers": ["layer1", "layer2"], "coupling_blocks": 2, "fiber_batch_size": 8},
        "max_epochs": 1,
    },
    "Dinomaly": {"init_args": {**SMALL_VIT, "decoder_depth": 8}, "max_steps": 2},
    "Fastflow": {"init_args": SMALL_CNN, "max_steps": 2},
    "InpFormer": {"init_args": SMALL_VIT, "max_steps": 2},
    "Padim": {"init_args": {**SMALL_CNN, "n_features": 16}},
    "Patchcore": {"init_args": SMALL_CNN, "folds": 2},
    "ReverseDistillation": {"init_args": {**SMALL_CNN, "layers": ["layer1", "layer2", "layer3"]}, "max_epochs": 1},
    "Stfpm": {"init_args": SMALL_CNN, "max_epochs": 1},
}
SIZES = {"Dinomaly": 56, "InpFormer": 56, "AnomalyDINO": 56}


class Bar:
    """A progress bar that counts."""

    def __init__(self) -> None:
        self.steps = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.steps += steps


class Training:
    """Six random images, as a detector sees them."""

    def __init__(self, size: int) -> None:
        self.images = torch.randint(0, 256, (6, 3, size, size), generator=torch.Generator().manual_seed(3)).float()
        self.contents = torch.arange(len(self.images))
        self.seed, self.device, self.bars = 11, torch.device("cpu"), list[tuple[int, Bar]]()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, positions: Any) -> list[Tensor]:
        return [self.images[list(positions)]]

    def bar(self, title: str, total: int) -> Bar:
        self.bars.append((total, Bar()))
        return self.bars[-1][1]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def new_detector(name: str, **changes: Any) -> tuple[AnomalibDetector, int]:
    size = SIZES.get(name, 32)
    options = AnomalibOptions.model_validate(
        {"model": name, "pre_trained": False, "batch_size": 3, **QUICK[name], **changes}
    )
    return AnomalibDetector(options, Pixels(PixelsOptions(image_size=size)).layers, ["a"]), size


def fitted(name: str, **changes: Any) -> tuple[AnomalibDetector, Training]:
    detector, size = new_detector(name, **changes)
    training = Training(size)
    torch.manual_seed(training.seed)
    detector.fit(training)  # type: ignore[arg-type]
    return detector, training


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_fitted_stored_and_loaded(name: str) -> None:
    first, training = fitted(name)
    assert all(bar.steps == total > 0 for total, bar in training.bars)
    state, classes = first.state(), torch.zeros(6, dtype=torch.int64)
    found = first.score([training.images], classes)
    assert found.maps[0].dtype == torch.float32
    assert found.maps[0].shape == (6, *training.images.shape[2:])
    assert found.images is not None
    assert found.images.shape == (6,)
    assert bool(torch.isfinite(found.maps[0]).all())
    assert float(found.maps[0].min()) >= 0
    assert len(set(found.images.tolist())) > 1
    second, _ = new_detector(name)
    second.load_state(state, torch.device("cpu"))
    loaded = second.score([training.images], classes)
    assert loaded.images is not None
    assert torch.equal(loaded.maps[0], found.maps[0])
    assert torch.equal(loaded.images, found.images)


@pytest.mark.parametrize("name", ["Padim", "Patchcore", "Stfpm"])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    (first, _), (second, _) = fitted(name), fitted(name)
    again = second.state()
    assert all(torch.equal(value, again[name]) for name, value in first.state().items())


class Images(Dataset[Tensor]):
    """Images from 0 to 1."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index] / 255


def test_padim_is_what_its_own_torch_model_gives() -> None:
    detector, training = fitted("Padim")
    torch.manual_seed(training.seed)
    reference = AnomalibModel(detector.options, 32)
    network, prepare = reference.network, reference.module.pre_processor
    network.train()
    with torch.no_grad():
        for image in training.images:
            network(prepare(image[None] / 255))
    network.fit()
    network.eval()
    wanted = network(prepare(training.images / 255))
    found = detector.score([training.images], torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(found.maps[0], wanted.anomaly_map[:, 0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.images, wanted.pred_score[:, 0], rtol=1e-3, atol=1e-4)


def test_stfpm_is_what_a_plain_training_loop_gives() -> None:
    detector, training = fitted("Stfpm", max_epochs=2)
    torch.manual_seed(training.seed)
    reference = AnomalibModel(detector.options, 32)
    module = reference.module
    optimiser = module.configure_optimizers()
    loader: DataLoader[Tensor] = DataLoader(Images(training.images), 3, shuffle=True)
    module.train()
    with one_seed():  # draws a number too
        for _ in range(2):
            for batch in loader:
                optimiser.zero_grad()
                module.loss(*module.model(module.pre_processor(batch))).backward()
                optimiser.step()
    state = module.model.state_dict()
    stored = {name.removeprefix("network."): value for name, value in detector.state().items()}
    assert stored.keys() == state.keys()
    for name, value in stored.items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-5)


def test_a_whole_run_and_the_same_again_without_weights(tmp_path: Path) -> None:
    student = {"type": "anomalib", "model": "Patchcore", "init_args": SMALL_CNN, "pre_trained": False, "folds": 2}
    done = run_spec(tmp_path, spec(student=student))
    assert done.code == 0, done.said
    assert "Coreset" not in (tmp_path / "runs" / "tiny" / "events.jsonl").read_text(encoding="utf-8")
    metrics = json.loads((tmp_path / "runs" / "tiny" / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["mean"]["image_auroc"] <= 1
    assert metrics["evaluation"]["image_score"] == "own"
    assert metrics["calibration"]["weave"]["held_out"] is True


@pytest.mark.parametrize(
    ("init_args", "sentence"),
    [
        ({"depth": 3}, "anomalib's Padim has no argument 'depth' in init_args; it has: backbone, layers, n_features."),
        ({"n_features": 10**6}, "anomalib's Padim cannot be made with init_args .*0 < n_features <= 448"),
        ({"backbone": "resnet1"}, "anomalib's Padim cannot be made with init_args .*Unknown model"),
        (
            {"layers": ["layer1", "layer9"], "n_features": 9},
            "The encoder 'resnet18' of anomalib's Padim has no layer 'layer9'",
        ),
    ],
)
def test_arguments_that_the_model_refuses(init_args: dict[str, Any], sentence: str) -> None:
    options = AnomalibOptions(model="Padim", init_args=init_args, pre_trained=False)
    with pytest.raises(PluginError, match=sentence):
        AnomalibModel(options, 32)


def test_ctrl_c_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Bar, steps: int = 1, note: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "advance", stop)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fitted("Stfpm")
    assert signal.getsignal(signal.SIGINT) is before


def test_what_goes_wrong_inside_anomalib_is_said_in_a_sentence() -> None:
    with pytest.raises(
        PluginError, match="anomalib's Cflow cannot be fitted to these images: Make sure we have enough"
    ):
        fitted("Cflow", init_args=SMALL_CNN)


def test_the_installed_anomalib_is_one_that_is_supported_and_has_all_the_models() -> None:
    import anomalib.models

    assert version("anomalib").startswith("2.7.")
    assert not {name for name in (*MODELS, *REFUSED) if not hasattr(anomalib.models, name)}
