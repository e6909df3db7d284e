"""Where an anomalib model's encoder gets its weights: from this machine, never from the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from meds.api import PluginError, load_checked, packaged_weights, read_weights
from meds_anomalib import AnomalibOptions

HUB_FILES = ("model.safetensors", "pytorch_model.bin")

Create = Callable[..., nn.Module]


@contextmanager
def encoder_weights(options: AnomalibOptions, wanted: bool = True) -> Iterator[None]:
    """While it is open, timm models that anomalib makes get their weights from this machine, or random ones.

    anomalib lets its users choose an encoder's architecture but not the file of its weights: it asks timm to fetch
    them, in some models without a choice. So timm's `create_model`, through which anomalib makes its encoders, is
    replaced meanwhile. Not `wanted`: weights are random in any case.

    Raises:
        PluginError: the weights are not on this machine, or do not fit the encoder.
    """
    create: Create = timm.create_model

    def offline(model_name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        if not (pretrained and options.pre_trained and wanted):
            return create(model_name, pretrained=False, **arguments)
        arguments.pop("pretrained_cfg", None)
        overlay = {"state_dict": _checked_weights(create, model_name, options)}
        return create(model_name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)

    setattr(timm, "create_model", offline)  # noqa: B010
    try:
        yield
    finally:
        setattr(timm, "create_model", create)  # noqa: B010


def _checked_weights(create: Create, model: str, options: AnomalibOptions) -> dict[str, Tensor]:
    """The state dict of a timm model; timm itself would pass over names that do not fit an encoder."""
    if options.weights is not None:
        state: Mapping[str, Tensor] = read_weights(options.weights)
        source = f"The weights file '{options.weights}'"
    else:
        state, source = _installed_weights(model)
    reference: Any = create(model, pretrained=False, num_classes=0)
    heads = reference.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ((heads,) if isinstance(heads, str) else heads))
    load_checked(reference, {name: value for name, value in state.items() if not name.startswith(prefixes)}, source)
    return dict(state)


def _installed_weights(model: str) -> tuple[Mapping[str, Tensor], str]:
    """Weights from an installed package, or those that timm has fetched earlier, and what to call them."""
    packaged = packaged_weights(model)
    if packaged is not None:
        return packaged, f"The package with the weights of '{model}'"
    published: Any = timm.get_pretrained_cfg(model)
    repository = str(published.hf_hub_id or "")
    if repository.endswith("/"):
        repository += f"{published.architecture}.{published.tag}" if published.tag else published.architecture
    for name in HUB_FILES if repository else ():
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return read_weights(Path(path)), f"timm's cached weights '{path}'"
    raise PluginError(
        f"The weights of timm's '{model}' are not on this machine, and meds fetches none for anomalib: give the "
        "student a local file as `weights`, choose random ones with `pre_trained: false`, or choose an encoder whose "
        "weights come in a package (tf_efficientnet_lite0, vit_small_patch14_dinov2) in `init_args`."
    )
