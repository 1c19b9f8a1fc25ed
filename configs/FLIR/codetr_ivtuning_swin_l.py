"""Co-DINO (5 scales) on Swin-L with IV-tuning on FLIR's aligned pairs, 640 px.

Compares with an AP of 40.0 and an AP50 of 77.7 of CFT, on the release's 4,129 and 1,013 pairs: persons,
cars and bicycles. The recipe is M3FD's, whose 10,525 iterations are 41 epochs here.
"""

from ..M3FD.codetr_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "flir_default_train"
dataloader.test.dataset.names = "flir_default_val"
model.num_classes = 3
