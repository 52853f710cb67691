"""MMEngine loads checkpoints with the package's own reader, which executes nothing.

MMEngine's loader executes pickles where it cannot read a file otherwise. ``Runner.load_checkpoint`` (testing,
``load_from``, ``resume``) and ``init_cfg`` find their loader by the address's scheme; these take its place.
"""

from __future__ import annotations

from typing import Any

from mmengine.runner import FlexibleRunner, Runner
from mmengine.runner.checkpoint import CheckpointLoader, get_torchvision_models

from synthcap_mm.checkpoints import latest_checkpoint
from synthcap_mm.errors import UserError
from synthcap_mm.weights_files import local_file, read_checkpoint, state_dict_of


def load_from_file(address: str, map_location: Any = None) -> dict[str, Any]:
    """The checkpoint of a path or a URL, on the CPU; whoever loads it moves the weights.

    Args:
        address: the path or URL.
        map_location: not needed.

    Raises:
        UserError: see :func:`~synthcap_mm.weights_files.read_checkpoint` and ``state_dict_of``.
    """
    path = local_file(address)
    checkpoint = read_checkpoint(path)
    state_dict_of(checkpoint, path)
    for part in ("meta", "message_hub"):
        if not isinstance(checkpoint.get(part, {}), dict):
            raise UserError(f"the checkpoint {path} has a {part} that is none")
    return checkpoint


def load_from_torchvision(address: str, map_location: Any = None) -> dict[str, Any]:
    """The checkpoint of ``torchvision://NAME``."""
    return load_from_file(get_torchvision_models()[address.partition("://")[2]])


def load_from_nowhere(address: str, map_location: Any = None) -> dict[str, Any]:
    """Refuses the schemes whose loaders execute what they find."""
    raise UserError(f"{address}: download the checkpoint, and name its file instead")


def explain_loading(runner: Runner | FlexibleRunner) -> None:
    """Let a runner resume from its own last checkpoint, and name the one that it cannot begin with or resume from.

    Args:
        runner: the runner; changed.
    """
    load = runner.load_or_resume

    def load_or_resume() -> None:
        if runner._resume and runner._load_from is None:  # MMEngine would follow `last_checkpoint` out of the work dir
            runner._load_from = latest_checkpoint(runner.work_dir, runner.cfg)
            runner._resume = runner._load_from is not None
        try:
            load()
        except (UserError, FileNotFoundError):
            raise
        except Exception as error:  # torch and MMEngine raise any kind for parts that are missing or of another model
            raise UserError(
                f"the checkpoint {runner._load_from} does not fit this training ({type(error).__name__}: {error})"
            ) from error

    runner.load_or_resume = load_or_resume


def _take_over() -> None:
    for prefix in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(prefix, load_from_nowhere, force=True)
    CheckpointLoader.register_scheme(["", "http://", "https://"], load_from_file, force=True)
    CheckpointLoader.register_scheme(["torchvision://", "modelzoo://"], load_from_torchvision, force=True)


_take_over()
