"""The network of FUN-AD: an adaptor of features and a discriminator of patches."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .features import Joined

SLOPE = 0.2


class LocalNetwork(nn.Module):
    """Linear adaptor of width D, then a discriminator of two hidden layers; leaky rectifiers of slope 0.2.

    The published one ends in a sigmoid; here scores are logits until they are asked for, which loses no digits.
    """

    def __init__(self, width: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.adaptor = nn.Linear(width, width)
        self.discriminator = nn.Sequential(
            nn.Linear(width, hidden[0]),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden[0], hidden[1]),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden[1], 1),
        )

    def adapt(self, features: Joined) -> Tensor:
        """Adapted features [B, P, D]. What the adaptor makes of an image's vector is computed once for all patches."""
        split = features.images.shape[1]
        of_image = F.linear(features.images, self.adaptor.weight[:, :split], self.adaptor.bias)
        of_patch = F.linear(features.patches, self.adaptor.weight[:, split:])
        return F.leaky_relu(of_patch + of_image[:, None], SLOPE)

    def adapt_whole(self, joined: Tensor) -> Tensor:
        """Adapted features [K, D] of joined features [K, D]."""
        return F.leaky_relu(self.adaptor(joined), SLOPE)

    def logits(self, adapted: Tensor) -> Tensor:
        """Logits float32 [...] of the anomaly score of adapted features [..., D]."""
        logits: Tensor = self.discriminator(adapted)[..., 0].float()
        return logits
