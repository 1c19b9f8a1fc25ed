"""Co-DINO (5 scales) on Swin-L with IV-tuning on KAIST's pedestrians, 640 px.

Compares with log-average miss rates on the 2,252 test pairs (every 20th frame, improved labels), all, day
and night: 7.58, 7.95, 6.95 of MLPD (trained on paired labels), 8.13, 8.28, 7.86 of MBNet. Sanitized labels
train. The recipe is M3FD's, whose 10,525 iterations are 22 epochs here.
"""

from ..M3FD.codetr_ivtuning_swin_l import data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "kaist_sanitized_train"
dataloader.test.dataset.names = "kaist_sanitized_test"
dataloader.evaluator.miss_rate = True
train.best_metric = "bbox/MR"
model.num_classes = 1
