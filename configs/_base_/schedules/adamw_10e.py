# Assumed: SynTIC's schedule is not known. Learning rate, epochs and linear decay are those of DeCap's public code, on which
# the method builds, and of the same group's SaCap, whose are the 1,000 steps of warm-up too. Weight decay: torch's default.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=10, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="AutocastOptimWrapper",
    dtype="bfloat16",
    optimizer=dict(type="AdamW", lr=1e-5, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, end=1000),
    dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=False),  # to the end of the training
]
# --auto-scale-lr scales the rate by (batch over all ranks) / base_batch_size.
auto_scale_lr = dict(enable=False, base_batch_size=80)
