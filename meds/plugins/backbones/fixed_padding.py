"""Pads a TensorFlow model's convolutions as for one image size, whatever size the images have."""

from __future__ import annotations

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn

from meds.core.errors import PluginError


def fix_padding(model: nn.Module, size: int, name: str) -> None:
    """Give the convolutions that pad by the size of their input the padding they have in images of `size` pixels.

    Codes that fix the padding when a network is made, such as lukemelas' EfficientNets, do so for the size that the
    network was published for. In images of another size a convolution of stride 2 may then lie one pixel elsewhere.

    Raises:
        PluginError: the model has no such convolution.
    """
    found = {path: part for path, part in model.named_modules() if isinstance(part, Conv2dSame)}
    if not found:
        raise PluginError(f"No padding of the timm model '{name}' depends on the image size: leave out 'padding_size'.")
    pads: dict[nn.Module, tuple[int, int]] = {}

    def measured(part: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(part, Conv2dSame)
        pads[part] = _pad(given[0].shape[-1], part.kernel_size[0], part.stride[0], part.dilation[0])

    hooks = [part.register_forward_pre_hook(measured) for part in found.values()]
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    for path, part in found.items():
        model.set_submodule(path, nn.Sequential(nn.ZeroPad2d(pads[part] * 2), _plain(part)))


def _pad(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Pixels before and after a side of `size`."""
    whole = int(get_same_padding(size, kernel, stride, dilation))
    return whole // 2, whole - whole // 2


def _plain(part: Conv2dSame) -> nn.Conv2d:
    kernel, stride, dilation = ((pair[0], pair[1]) for pair in (part.kernel_size, part.stride, part.dilation))
    plain = nn.Conv2d(
        part.in_channels, part.out_channels, kernel, stride, 0, dilation, part.groups, part.bias is not None
    )
    plain.load_state_dict(part.state_dict())
    return plain
