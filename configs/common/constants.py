"""Pixel statistics of the models' inputs, on 0..255, in the order of the channels (RGB)."""

# ImageNet's, which the pretrained trunks were trained with.
VISIBLE_MEAN = [123.675, 116.28, 103.53]
VISIBLE_STD = [58.395, 57.12, 57.375]
# 0.425 and 0.2 of 255, the only infrared statistics in IV-tuning's released code.
INFRARED_MEAN = [108.375, 108.375, 108.375]
INFRARED_STD = [51.0, 51.0, 51.0]
# The six-channel input of a pair.
PAIR_MEAN = VISIBLE_MEAN + INFRARED_MEAN
PAIR_STD = VISIBLE_STD + INFRARED_STD
