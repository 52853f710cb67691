"""The kinds of inputs, by name."""

from .captions import Captions, Predictions
from .checkpoints import Checkpoints
from .configs import Configs
from .exports import Exports
from .images import Images
from .server import Answers
from .stores import Stores

KINDS = {kind.name: kind for kind in (Stores, Exports, Checkpoints, Captions, Predictions, Images, Configs, Answers)}
