default_scope = "synthcap_mm"
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # Selection is on the held-out captions and their pseudo images: users have no real pairs.
    checkpoint=dict(
        type="CheckpointHook",
        interval=1,
        save_best="CIDEr",
        rule="greater",
        max_keep_ckpts=2,
        backend_args=dict(backend="atomic"),
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
custom_hooks = [
    dict(type="IterationSeedHook"),
    dict(type="SampleCaptionsHook", num=4),
    dict(type="ResumeValidationHook"),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    # Seconds that a rank waits for the others. Rank 0 alone scores a validation; torch's 600 on NCCL can be too few.
    # Ranks that make a store wait for each other however long it takes.
    dist_cfg=dict(backend="nccl", timeout=3600),
)
# --cfg-options tensorboard=True: curves for TensorBoard besides the log files, under the run's vis_data (needs the
# extra [tensorboard]); then: tensorboard --logdir work_dirs
tensorboard = False
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
randomness = dict(seed=0)
load_from = None
resume = False
# train() makes missing stores before it trains, and tests the best checkpoint after: for small worlds only.
auto_synthesize = False
test_best = False
gallery = dict(num=24)
