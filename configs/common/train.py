"""Settings of a run; ivtuning.engine.run reads every key."""

train = dict(
    output_dir="auto",  # output/<folder>/<file> of the config, with -<method> where one is chosen
    # Base weights: a trunk, or a whole detector whose class layers may differ.
    init_checkpoint="",
    max_iter=1000,
    seed=0,
    device="auto",
    precision="fp32",  # "bf16" (CUDA or CPU) or "fp16" (CUDA)
    gradient_accumulation=1,  # batches per optimizer step
    clip_grad_norm=0.0,  # largest gradient norm, 0 = no clipping
    ema_decay=0.0,  # e.g. 0.999; 0 = no averaging
    eval_period=0,  # iterations, 0 = at the end only
    best_metric="bbox/AP",  # decides model_best.pth; "" = none is kept
    log_period=20,
    wandb="",  # a project at Weights & Biases that gets the figures as well
    checkpointer=dict(period=1000, max_to_keep=2),
    parallel="ddp",  # "fsdp": parameters shared out over the processes, docs/scale.md
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False),
    # docs/speed.md says what these buy:
    frozen_dtype="fp32",  # "bf16" keeps frozen weights in half the memory; with precision="bf16"
    # The sums between a trunk's blocks where precision="bf16"; "fp32" keeps them whole.
    residual_dtype="bf16",
    compile=False,  # torch.compile of the trunk's blocks
    channels_last=False,  # memory layout of convolutions
    cudnn_benchmark=False,
)
