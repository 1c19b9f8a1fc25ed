"""Loaders of image classification data at 224 px. An experiment sets the names of the sets."""

from detectron2.config import LazyCall as L
from torchvision.transforms import v2

from ivtuning.data.datasets.classification import labeled_images
from ivtuning.data.loaders.eval import build_test_loader
from ivtuning.data.loaders.train import build_train_loader
from ivtuning.data.mappers.classification import ClassificationMapper
from ivtuning.evaluation.classification import TopKEvaluator

# What an unreadable image does: "stop" ends the run and names it, "skip" leaves it out and counts it.
# images is the folder that the paths of a list begin in; None is the list's own.
data = dict(on_bad_pair="stop", images=None)

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(labeled_images)(names="???", every_class=True),
        mapper=L(ClassificationMapper)(
            is_train=True,
            augmentations=[L(v2.RandomResizedCrop)(size=224), L(v2.RandomHorizontalFlip)(p=0.5)],
        ),
        total_batch_size=16,
        num_workers=4,
        seed="${train.seed}",
        on_bad_pair="${data.on_bad_pair}",
    ),
    test=L(build_test_loader)(
        dataset=L(labeled_images)(names="???"),
        mapper=L(ClassificationMapper)(
            is_train=False, augmentations=[L(v2.Resize)(size=256), L(v2.CenterCrop)(size=224)]
        ),
        batch_size=32,
        num_workers=4,
    ),
    evaluator=L(TopKEvaluator)(dataset_name="${..test.dataset.names}", topk=(1, 5)),
)
