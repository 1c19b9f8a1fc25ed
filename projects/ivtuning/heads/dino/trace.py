"""What the queries of a detector do: where they start, how layers move them, what the last one looks at."""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...utils.precision import at_least_float32
from .decoder import Decoder, Predictions


class Trace(NamedTuple):
    """Q queries of one image in a decoder of D layers, on the CPU.

    Fields:
        scores: (Q, K) float32 of every class after the last layer, in 0..1.
        boxes: (D + 1, Q, 4) float32 cx, cy, w, h as fractions of the image: for each layer the box that it
            looks around, the first from the encoder's selection, and last the detected one.
        locations: (Q, M, L, P, 2) float32 x and y of the points that the M heads of the last layer sample in
            L maps, as fractions of the image; they may lie outside.
        weights: (Q, M, L, P) float32 of these points; those of one head sum to 1.
    """

    scores: Tensor
    boxes: Tensor
    locations: Tensor
    weights: Tensor

    def best(self, count: int, threshold: float = 0.0) -> Trace:
        """Those whose best class scores highest, at most `count`, at least `threshold`; best first."""
        scores, order = self.scores.amax(1).sort(descending=True, stable=True)
        order = order[scores >= threshold][:count]
        return Trace(self.scores[order], self.boxes[:, order], self.locations[order], self.weights[order])


def find_decoder(model: nn.Module) -> Decoder:
    """The decoder of a detector of queries.

    Raises:
        UserError: `model` has none.
    """
    for module in model.modules():
        if isinstance(module, Decoder):
            return module
    raise UserError(
        f"{type(model).__name__} has no queries to show: name the config of a model with DINO's decoder, "
        "such as configs/synthetic/dino_ivtuning.py"
    )


@torch.no_grad()
def collect(model: nn.Module, batched_inputs: list[dict]) -> list[Trace]:
    """Run a detector in evaluation mode and tell for every image what its queries did.

    Hooks listen during this call alone; the model stays as it is.

    Raises:
        UserError: see :func:`find_decoder`.
    """
    decoder = find_decoder(model)
    attention = decoder.layers[-1].cross_attn
    seen: dict = {}

    def before_layer(layer: nn.Module, arguments: tuple) -> None:
        _, _, reference, _, places, _ = arguments
        seen[layer], seen["valid"] = reference, places.valid

    def before_attention(module: nn.Module, arguments: tuple) -> None:
        query, reference, _, shapes, _ = arguments
        seen[module] = module.sampling(query, reference, shapes)

    def after_decoder(module: nn.Module, _, predictions: Predictions) -> None:
        seen[module] = predictions

    with ExitStack() as hooks:
        for layer in decoder.layers:
            hooks.callback(layer.register_forward_pre_hook(before_layer).remove)
        hooks.callback(attention.register_forward_pre_hook(before_attention).remove)
        hooks.callback(decoder.register_forward_hook(after_decoder).remove)
        model(batched_inputs)

    predictions, (locations, weights) = seen[decoder], seen[attention]
    # What they have as fractions of the padded maps becomes fractions of the image.
    valid = seen["valid"]
    locations = locations / valid[:, None, None, :, None]
    references = [seen[layer][:, :, 0] / valid[:, :1].repeat(1, 1, 2) for layer in decoder.layers]
    boxes = torch.stack([*references, predictions.boxes[-1]], 1)
    scores = at_least_float32(predictions.logits[-1]).sigmoid()
    return [
        Trace(*(field.float().cpu() for field in fields))
        for fields in zip(scores, boxes, locations, weights, strict=True)
    ]
