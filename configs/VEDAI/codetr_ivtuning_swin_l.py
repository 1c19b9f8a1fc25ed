"""Co-DINO (5 scales) on Swin-L with IV-tuning on VEDAI's vehicles, nine classes, upright boxes, 640 px.

On the release's first fold of 512 px (1,089 and 121 pairs). CFT states an AP of 56.0 and an AP50 of 85.3;
papers differ in their classes and splits. The recipe is M3FD's, whose 10,525 iterations are 155 epochs here.
"""

from ..M3FD.codetr_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "vedai_fold01_train"
dataloader.test.dataset.names = "vedai_fold01_val"
model.num_classes = 9
