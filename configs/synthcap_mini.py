# The whole pipeline on the embedded mini-world, on a CPU, in minutes: python tools/train.py configs/synthcap_mini.py
_base_ = [
    "_base_/datasets/miniscenes.py",
    "_base_/models/synthcap.py",
    "_base_/schedules/adamw_10e.py",
    "_base_/default_runtime.py",
]
model = dict(
    store=_base_.store,
    # No tag is dropped: the detector misses enough of the drawings' objects as it is.
    data_preprocessor=dict(prompt=dict(max_tags=3, drop=0.0, drop_all=0.0)),
    necks=dict(projector=dict(prefix_length=4, input_scale=16.0)),  # √256: see PrefixProjector's input_scale
    # So small a decoder underfits in these minutes: dropout and smoothing would only slow it down.
    # Two words that stand together come once in a caption: without that, beams prefer to name one object twice.
    head=dict(width=128, layers=4, heads=4, dropout=0.0, label_smoothing=0.0, generation=dict(no_repeat_ngram_size=2)),
)
# A decoder of this size learns from 4,000 captions in minutes, in many small steps at a rate that would be too high for
# the large one.
optim_wrapper = dict(dtype="float32", optimizer=dict(lr=3e-3, betas=[0.9, 0.98], fused=True))
train_cfg = dict(max_epochs=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, end=100),
    _base_.param_scheduler[1],
]
default_hooks = dict(logger=dict(interval=10))
auto_synthesize = True
test_best = True
