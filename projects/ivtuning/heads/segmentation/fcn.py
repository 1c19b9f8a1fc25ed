"""A fully convolutional decoder (FCN, arXiv 1411.4038); also the auxiliary decoder of UPerNet and SETR."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .blocks import Decoder, classifier, conv_blocks


class FCN(Decoder):
    """3x3 convolutions and a classifier on one map; the logits have its size.

    Args:
        in_feature, in_channels: the map.
        num_classes: K.
        channels: of the convolutions.
        convs: number of convolutions; 0 classifies the map itself.
        norm: "BN", "SyncBN" or "GN".
        dropout: of whole channels, before the classifier.
    """

    def __init__(
        self,
        in_feature: str,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        convs: int = 1,
        norm: str = "SyncBN",
        dropout: float = 0.1,
    ):
        super().__init__([in_feature], [in_channels], num_classes)
        self.convs = nn.Sequential(*conv_blocks(in_channels, channels, convs, norm))
        self.classifier = classifier(channels if convs else in_channels, num_classes, dropout)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.classifier(self.convs(*self.select(features)))
