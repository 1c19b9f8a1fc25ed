"""Co-DINO (5 scales) on Swin-L with IV-tuning on CVC-14's pedestrians, a gray visible camera, 640 px.

Compares with log-average miss rates on the 1,433 test pairs, all, day and night: 21.1, 24.7, 13.5 of MBNet.
Labels are those of the visible camera, whose boxes are shifted against infrared. The recipe is M3FD's,
whose 10,525 iterations are 24 epochs here.
"""

from ..M3FD.codetr_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

data.gray_visible = True
dataloader.train.dataset.names = "cvc14_visible_train"
dataloader.test.dataset.names = "cvc14_visible_test"
dataloader.evaluator.miss_rate = True
train.best_metric = "bbox/MR"
model.num_classes = 1
