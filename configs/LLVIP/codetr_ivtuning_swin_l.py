"""Co-DINO (5 scales) on Swin-L with IV-tuning on LLVIP's pedestrians, 640 px.

Compares with an AP of 63.6 and an AP50 of 97.5 of CFT, on the official 12,025 and 3,463 pairs. The recipe
is M3FD's, whose 10,525 iterations are 14 epochs here.
"""

from ..M3FD.codetr_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "llvip_default_train"
dataloader.test.dataset.names = "llvip_default_val"
dataloader.evaluator.miss_rate = True
model.num_classes = 1
