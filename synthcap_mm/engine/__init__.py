"""What MMEngine lacks."""

from synthcap_mm.engine import loading  # noqa: F401 - registers the loaders of checkpoints
from synthcap_mm.engine.atomic_backend import AtomicLocalBackend
from synthcap_mm.engine.autocast_optim_wrapper import AutocastOptimWrapper
from synthcap_mm.engine.decoder_fsdp_strategy import DecoderFSDPStrategy
from synthcap_mm.engine.divergence_hook import DivergenceHook
from synthcap_mm.engine.exact_flexible_runner import ExactFlexibleRunner
from synthcap_mm.engine.identity_hook import CaptionerIdentityHook
from synthcap_mm.engine.reproducibility import IterationSeedHook, ResumeValidationHook
from synthcap_mm.engine.sample_captions_hook import SampleCaptionsHook

__all__ = [
    "AtomicLocalBackend",
    "AutocastOptimWrapper",
    "CaptionerIdentityHook",
    "DecoderFSDPStrategy",
    "DivergenceHook",
    "ExactFlexibleRunner",
    "IterationSeedHook",
    "ResumeValidationHook",
    "SampleCaptionsHook",
]
