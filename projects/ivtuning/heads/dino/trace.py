"""Sampling locations and attention weights of a detector's queries, and the boxes they go through."""

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
        scores: (Q, K) float32, the score of every class after the last layer, in 0..1.
        boxes: (D + 1, Q, 4) float32 cx, cy, w, h as fractions of the image: the reference box of each layer,
            the first from query selection, and then the detected box.
        locations: (Q, M, L, P, 2) float32 x and y of the points that the M heads of the last layer sample in
            L maps, as fractions of the image; they may lie outside.
        weights: (Q, M, L, P) float32, attention weights of these points; those of one head sum to 1.
    """

    scores: Tensor
    boxes: Tensor
    locations: Tensor
    weights: Tensor

    def best(self, count: int, threshold: float = 0.0) -> Trace:
        """At most `count` queries whose best class scores at least `threshold`, highest score first."""
        scores, order = self.scores.amax(1).sort(descending=True, stable=True)
        order = order[scores >= threshold][:count]
        return Trace(self.scores[order], self.boxes[:, order], self.locations[order], self.weights[order])


def find_decoder(model: nn.Module) -> Decoder:
    """The decoder of a DINO detector.

    Raises:
        UserError: `model` has none.
    """
    for module in model.modules():
        if isinstance(module, Decoder):
            return module
    raise UserError(
        f"{type(model).__name__} has no queries to show: give the config of a model with DINO's decoder, "
        "such as configs/synthetic/dino_ivtuning.py"
    )


@torch.no_grad()
def trace_queries(model: nn.Module, batched_inputs: list[dict]) -> list[Trace]:
    """Run a detector in evaluation mode and record what its queries do in every image.

    The hooks that record are removed at the end; the model does not change.

    Raises:
        UserError: see :func:`find_decoder`.
    """
    decoder = find_decoder(model)
    attention = decoder.layers[-1].cross_attn
    reference_points: dict[nn.Module, Tensor] = {}
    record: dict = {}

    def before_layer(layer: nn.Module, arguments: tuple) -> None:
        _, _, reference_points[layer], _, layout, _ = arguments
        record["valid_ratios"] = layout.valid_ratios

    def before_attention(module: nn.Module, arguments: tuple) -> None:
        query, reference, _, spatial_shapes, _ = arguments
        record["sampling"] = module.sampling(query, reference, spatial_shapes)

    def after_decoder(module: nn.Module, _, predictions: Predictions) -> None:
        record["predictions"] = predictions

    def before_model(module: nn.Module, arguments: tuple) -> None:
        record["images"] = model.preprocess_image(arguments[0])

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(before_model).remove)
        for layer in decoder.layers:
            hooks.callback(layer.register_forward_pre_hook(before_layer).remove)
        hooks.callback(attention.register_forward_pre_hook(before_attention).remove)
        hooks.callback(decoder.register_forward_hook(after_decoder).remove)
        model(batched_inputs)

    predictions, (locations, weights) = record["predictions"], record["sampling"]
    # Fractions of the padded maps become fractions of the image, also where padding counts as image.
    valid_ratios, images, detected = record["valid_ratios"], record["images"], predictions.boxes[-1]
    if getattr(model, "pad_value", None) is not None:
        height, width = images.tensor.shape[-2:]
        shares = detected.new_tensor([(w / width, h / height) for h, w in images.image_sizes])[:, None]
        valid_ratios, detected = valid_ratios * shares, detected / shares.repeat(1, 1, 2)
    locations = locations / valid_ratios[:, None, None, :, None]
    finest = valid_ratios[:, :1].repeat(1, 1, 2)
    boxes = torch.stack(
        [*(reference_points[layer][:, :, 0] / finest for layer in decoder.layers), detected], 1
    )
    scores = at_least_float32(predictions.logits[-1]).sigmoid()
    return [
        Trace(*(field.float().cpu() for field in fields))
        for fields in zip(scores, boxes, locations, weights, strict=True)
    ]
