"""Packaging of synthcap_mm; configs and tools go into the wheel as ``synthcap_mm/.mim``, as OpenMMLab's packages do."""

import shutil
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

# requirements/constraints.txt has the exact versions that the Makefile installs and CI tests. The ranges here are
# wider: the lower bound is an older release with what we use of it, the upper one the next release that may break us.
CORE = [
    # 2.6: torch.load defaults to weights_only, which our checkpoints are tested with.
    # 2.14 demands C++20 and onedl-mmcv, which the extra [mmdet] compiles, is C++17.
    "torch>=2.6,<2.14",
    # open_clip imports it; 0.21 goes with torch 2.6, 0.28 with 2.13.
    "torchvision>=0.21,<0.29",
    # Runner, registries, hooks. The maintained fork: with torch >= 2.6 open-mmlab's mmengine cannot load its own
    # checkpoints.
    "onedl-mmengine>=0.10.12,<0.11",
    # mmengine imports cv2 without requiring it. Headless, since a server has no libGL; what mmdet brings beside it
    # (opencv-python) holds the same files. 5 is a new API.
    "opencv-python-headless>=4.10,<5",
    # CLIP. 3.x is the API that OpenCLIPBackbone's activation check is written for.
    "open_clip_torch>=3.3,<4",
    # open_clip's towers of images from other libraries; an export may name those that timm has.
    "timm>=1.0.17,<2",
    # GPT-2 and beam search with cache. 5.20 is the last for Python 3.10; generation changes with major releases.
    "transformers>=5.20,<6",
    # Caption tokenisers; the library is 0.x, so a minor release may break, and transformers caps it alike.
    "tokenizers>=0.22,<0.24",
    # Looks whether a model is at hand, before anything starts; transformers caps it alike.
    "huggingface-hub>=1.31,<3",
    # The model card of an export is a template.
    "jinja2>=3.1,<4",
    # The stores' tables are Arrow files, read memory-mapped; a major release comes every quarter.
    "pyarrow>=20,<27",
    # Weights that ship with the package and small local files; 0.x.
    "safetensors>=0.5,<1",
    # BLEU, ROUGE-L and CIDEr; 1.2 is the only release on PyPI.
    "pycocoevalcap>=1.2,<2",
    # pycocoevalcap needs it; 2.0.8 is built for numpy 2.
    "pycocotools>=2.0.8,<3",
    # 2.0 changed the ABI that pyarrow, pycocotools and mmcv are built against.
    "numpy>=2.0,<3",
    # Images; a major release a year removes what the one before deprecated.
    "pillow>=11,<14",
    # Progress of the long stages (encoding, drawing).
    "tqdm>=4.60,<5",
]

# Text-to-image models.
T2I = [
    # AutoPipelineForText2Image; 0.x, a minor release may break. 0.41 is the last for Python 3.10.
    "diffusers>=0.41,<0.43",
]

# Detectors. Compiles mmcv where no wheel is at hand: torch must be installed first, and pip told --no-build-isolation.
MMDET = [
    # The maintained fork: open-mmlab's mmdet asserts mmcv < 2.2.
    "onedl-mmdetection>=3.5.1,<3.6",
    # mmdet imports its compiled operators, but does not require it.
    "onedl-mmcv>=2.3.6,<2.4",
    # mmcv's own setup.py: needs 80, and pkg_resources, which 82 removed.
    "setuptools>=80,<82",
    # Compiles mmcv's files in parallel; without it torch builds them one by one.
    "ninja>=1.11,<2",
]

# Curves of a training: --cfg-options tensorboard=True.
TENSORBOARD = [
    # 2.18 is the first for numpy 2; 2.x has kept its files' format, a 3 may not.
    "tensorboard>=2.18,<3",
]

# Approximate search for curation, where an exact one takes too long; exact is the default.
FAISS = [
    # 1.8 is built for numpy 1.
    "faiss-cpu>=1.9,<2",
]

# Low-rank adapters of a pretrained decoder.
LORA = [
    # 0.x, a minor release may break; 0.21 is the release that is tested.
    "peft>=0.21,<0.22",
]

# Photos in HEIC and HEIF, as phones make them.
HEIF = [
    # 1.8 is the release that is tested; libheif, which it holds, refuses pictures larger than their headers say.
    "pillow-heif>=1.8,<2",
]

# The page of demo/app.py.
DEMO = [
    # The release that the page is tested with in a browser; a major release renames what a page is made of.
    "gradio>=6.31,<7",
]

TEST = [
    # Runs the tests; a major release a year changes what plugins and fixtures may do.
    "pytest>=8,<10",
    # `make test` runs one process a core.
    "pytest-xdist>=3.6,<4",
    # Coverage of `make coverage`.
    "coverage>=7,<8",
    # `make lint`; 0.x, each minor release brings new rules, so the constraints name one.
    "ruff>=0.14,<0.18",
    # A test builds the wheel, without fetching anything.
    "setuptools>=80,<82",
    # As above; mmcv is built with it too.
    "wheel>=0.45,<1",
    # DiffusersGenerator is tested on a small pipeline of the real classes.
    *T2I,
    # The switch tensorboard=True is tried.
    *TENSORBOARD,
    # The approximate search of curation is compared with the exact one.
    *FAISS,
    # HEIC photos are read, and hostile ones refused.
    *HEIF,
    # Adapters are trained, merged and exported.
    *LORA,
    # The page is tried in headless Chromium, where there is one.
    *DEMO,
    # Drives it; monthly releases of one major version, and the test uses little of it.
    "playwright>=1.49,<2",
]


class BuildWithMim(build_py):
    """Copies ``configs/`` and ``tools/`` into the built package; the source tree stays as it is."""

    def run(self):
        """Build; an editable installation gets no copies and finds the checkout's own folders."""
        if self.editable_mode:
            super().run()
            return
        built = Path(self.build_lib, "synthcap_mm")
        # Whatever an older build left here would be packed too, removed modules included.
        shutil.rmtree(built, ignore_errors=True)
        super().run()
        for folder in ("configs", "tools"):
            ignore = shutil.ignore_patterns("__pycache__", "*.py[cod]")
            shutil.copytree(ROOT / folder, built / ".mim" / folder, ignore=ignore)


# Folders that hold data only count too: setuptools wants them named.
SUBPACKAGES = find_namespace_packages(str(ROOT / "synthcap_mm"), exclude=["*__pycache__"])

version = {}
exec((ROOT / "synthcap_mm" / "version.py").read_text(encoding="utf-8"), version)

setup(
    name="synthcap_mm",
    version=version["__version__"],
    description="Image captioners trained from captions alone, from components in the MMEngine registry style",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    # 3.13: onedl-mmcv's build has not been tried there.
    python_requires=">=3.10,<3.13",
    packages=["synthcap_mm", *(f"synthcap_mm.{name}" for name in SUBPACKAGES)],
    # Every file that MANIFEST.in takes from the package: mini-CLIP's weights, vocabularies, ...
    include_package_data=True,
    install_requires=CORE,
    extras_require={
        "t2i": T2I,
        "mmdet": MMDET,
        "tensorboard": TENSORBOARD,
        "faiss": FAISS,
        "heif": HEIF,
        "lora": LORA,
        "demo": DEMO,
        "test": TEST,
    },
    entry_points={"console_scripts": ["synthcap-mm = synthcap_mm.cli:main"]},
    cmdclass={"build_py": BuildWithMim},
    zip_safe=False,
)
