import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import tiny_clip
import torch
from PIL import Image

from synthcap_mm.errors import UserError
from synthcap_mm.models.backbones import OpenCLIPBackbone
from synthcap_mm.registry import MODELS
from synthcap_mm.store.fingerprint import same_encoder
from synthcap_mm.store.recipes import component_recipe

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_clip.write(tmp_path_factory.mktemp("tiny_clip"))


def make_images(count=5):
    generator = torch.Generator().manual_seed(0)
    sizes = [(40, 30), (32, 32), (21, 64), (100, 50), (33, 47)]
    return [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=generator, dtype=torch.uint8).numpy())
        for w, h in (sizes * count)[:count]
    ]


TEXTS = ["a dog", "a red cat", "dog cat dog", "the red dog"]


def test_same_features_as_open_clip_itself(tiny):
    backbone = OpenCLIPBackbone(**tiny)
    model = tiny_clip.build()
    images = make_images()
    pixels = torch.stack([backbone.preprocess(image) for image in images])
    expected = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)
    torch.testing.assert_close(backbone.encode_pil(images), expected)
    tokens = open_clip.SimpleTokenizer(tiny["tokenizer"], context_length=12)(TEXTS)
    torch.testing.assert_close(
        backbone.encode_text(TEXTS), torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    )
    assert backbone.embed_dim == 16 and backbone.context_length == 12
    assert backbone.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert backbone.name == "tiny/weights.safetensors"


def test_a_vits_grid_is_its_patch_tokens(tiny):
    backbone = OpenCLIPBackbone(**tiny)
    images = make_images()
    visual = tiny_clip.build().visual
    visual.output_tokens = True  # open_clip's own way: pooled, and the tokens without the class token
    _, tokens = visual(torch.stack([backbone.preprocess(image) for image in images]))
    grid = backbone.encode_grid(images)
    assert grid.shape == (5, 4, 32) and grid.dtype == torch.float32
    torch.testing.assert_close(grid, visual.ln_post(tokens) if visual.final_ln_after_pool else tokens)
    torch.testing.assert_close(backbone.encode_grid(images[:1])[0], grid[0], atol=1e-5, rtol=1e-5)


def test_a_resnets_grid_is_what_it_pools():
    from synthcap_mm.miniscenes.encoder import MiniCLIP

    backbone, images = MiniCLIP(), make_images()
    grid = backbone.encode_grid(images)
    assert grid.shape == (5, 4, 512)
    pooled = backbone._model.visual.attnpool(grid.transpose(1, 2).unflatten(2, (2, 2)))
    torch.testing.assert_close(torch.nn.functional.normalize(pooled, dim=1), backbone.encode_pil(images))


def test_features_are_unit_float32_and_batch_independent(tiny):
    backbone = MODELS.build(dict(type=OpenCLIPBackbone, **tiny))
    images = make_images()
    together = backbone.encode_pil(images)
    assert together.shape == (5, 16) and together.dtype == torch.float32 and not together.requires_grad
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(
        together, torch.cat([backbone.encode_pil([image]) for image in images]), atol=1e-6, rtol=0
    )
    texts = backbone.encode_text(TEXTS)
    torch.testing.assert_close(texts, torch.cat([backbone.encode_text([t]) for t in TEXTS]), atol=1e-6, rtol=0)
    assert (together @ together.T).fill_diagonal_(0).max() < 0.9999
    backbone.train()
    assert not backbone.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(backbone.encode_pil(images), together, atol=1e-6, rtol=0)
        torch.testing.assert_close(backbone.encode_text(TEXTS), texts, atol=1e-6, rtol=0)
    assert backbone.encode_text([]).shape == (0, 16) and backbone.encode_pil([]).shape == (0, 16)


def test_pictures_of_any_mode_and_captions_of_any_length(tiny):
    backbone = OpenCLIPBackbone(**tiny)
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        assert backbone.preprocess(Image.new(mode, (50, 20))).shape == (3, 32, 32)

    # 12 places, two of them for start and end; 'dog' is one token
    fits, exceeds = " ".join(["dog"] * 10), " ".join(["dog"] * 11)
    assert backbone.is_too_long([fits, exceeds, ""]) == [False, True, False]
    torch.testing.assert_close(backbone.encode_text([exceeds]), backbone.encode_text([fits]))


@pytest.mark.parametrize("quick", [True, False])
def test_builds_the_activation_of_the_config(tmp_path, quick):
    backbone = OpenCLIPBackbone(**tiny_clip.write(tmp_path, quick_gelu=quick))
    kinds = {type(module).__name__ for module in backbone.modules()} & {"QuickGELU", "GELU"}
    assert kinds == ({"QuickGELU"} if quick else {"GELU"})
    assert backbone.activation == ("quick_gelu" if quick else "gelu")


def test_fingerprint_tells_weights_apart(tmp_path, tiny):
    first = OpenCLIPBackbone(**tiny).fingerprint()
    assert first["name"] == "tiny/weights.safetensors"
    assert same_encoder(first, OpenCLIPBackbone(**tiny).fingerprint())
    assert same_encoder(first, OpenCLIPBackbone(**tiny, precision="bf16").fingerprint())
    assert not same_encoder(first, OpenCLIPBackbone(**tiny_clip.write(tmp_path, seed=1)).fingerprint())


@pytest.mark.parametrize(
    "name, tag, right",
    [
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32", "laion400m_e32", "ViT-B-32-quickgelu"),
        ("RN50", "openai", "RN50-quickgelu"),
        ("ViT-L-14", "dfn2b", "ViT-L-14-quickgelu"),
    ],
)
def test_tag_with_the_wrong_activation_is_refused_before_any_download(monkeypatch, name, tag, right):
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *a, **k: pytest.fail("must not download"))
    with pytest.raises(UserError, match=f"'{right}'"):
        OpenCLIPBackbone(name, tag)


def test_every_tag_of_open_clip_is_refused_or_not_as_its_table_says():
    from synthcap_mm.models.backbones.open_clip_backbone import _check_activation, _tag_activation

    refused = set()
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_model_config(name)
        try:
            _check_activation(name, config, _tag_activation(name, tag, config), "the table")
        except UserError:
            refused.add((name, tag))
    assert ("ViT-B-32", "openai") in refused and ("ViT-B-32-quickgelu", "openai") not in refused
    assert ("ViT-B-32", "laion2b_s34b_b79k") not in refused and ("ViT-B-16-SigLIP", "webli") not in refused
    # exactly the plain variants of weights that open_clip lists under both names
    both = {(n, t) for n, t in open_clip.list_pretrained() if f"{n}-quickgelu" in open_clip.list_models()}
    assert refused == {(n, t) for n, t in both if t in open_clip.list_pretrained_tags_by_model(f"{n}-quickgelu")}


def save_openai_style(folder, name, quick=True, keys=True):
    state = tiny_clip.build(quick_gelu=quick).state_dict()
    if keys:
        state.update(input_resolution=torch.tensor(32), context_length=torch.tensor(12), vocab_size=torch.tensor(600))
    path = folder / name
    torch.save(state, path)
    return str(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quick", [True, False])
def test_a_torchscript_archive_works_as_it_is(tmp_path, tiny, quick):
    model = tiny_clip.build(quick_gelu=quick)
    # as OpenAI published: half precision, with three numbers as entries beside the weights
    for entry, value in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 600)):
        if hasattr(model, entry):
            delattr(model, entry)
        model.register_buffer(entry, torch.tensor(value))
    example = (torch.ones(1, 3, 32, 32), torch.zeros(1, 12, dtype=torch.long))
    traced = torch.jit.trace_module(model, {"encode_image": example[0], "encode_text": example[1]}, check_trace=False)
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.save(traced, str(path))
    config = {**tiny_clip.CONFIG, "quick_gelu": quick}
    loaded = OpenCLIPBackbone(**{**tiny, "pretrained": str(path), "model_config": config})
    reference = torch.nn.functional.normalize(tiny_clip.build(quick_gelu=quick).encode_image(example[0]), dim=-1)
    torch.testing.assert_close(loaded.encode_image(example[0]), reference)


def test_a_file_has_to_say_its_activation_and_it_is_compared(tmp_path, tiny, monkeypatch):
    path = save_openai_style(tmp_path, "w.bin", keys=False)
    for name, quick in (("ViT-B-16", True), ("ViT-B-16-quickgelu", False), ("ViT-B-16", None)):
        with pytest.raises(UserError, match="QuickGELU"):
            OpenCLIPBackbone(name, path, quick_gelu=quick)
    with pytest.raises(UserError, match="quick_gelu"):
        OpenCLIPBackbone(**tiny, quick_gelu=False)
    # shrinks the architecture, so that the file fits a model of open_clip's list
    monkeypatch.setattr("open_clip.get_model_config", lambda name: {**deepcopy(tiny_clip.CONFIG), "quick_gelu": False})
    tiny_clip.write_bpe(tmp_path / "bpe.txt.gz")
    OpenCLIPBackbone("ViT-B-32", path, tokenizer=str(tmp_path / "bpe.txt.gz"), quick_gelu=False)


@pytest.mark.parametrize("form", ["pt", "nested", "module", "safetensors", "openai"])
def test_forms_of_weights_files(tmp_path, tiny, form):
    state = tiny_clip.build().state_dict()
    path = tmp_path / "w.pt"
    if form == "pt":
        torch.save(state, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "module":
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    elif form == "openai":
        path = save_openai_style(tmp_path, "w.pt")
    else:
        path = Path(tiny["pretrained"])
    features = OpenCLIPBackbone(**{**tiny, "pretrained": str(path)}).encode_text(TEXTS)
    torch.testing.assert_close(features, OpenCLIPBackbone(**tiny).encode_text(TEXTS))


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickles_are_not_executed(tmp_path, tiny):
    path, sprung = tmp_path / "w.pt", tmp_path / "sprung"
    torch.save({"weight": _Trap(str(sprung))}, path)
    with pytest.raises(UserError, match=r"w\.pt"):
        OpenCLIPBackbone(**{**tiny, "pretrained": str(path)})
    assert not sprung.exists()


def test_preprocessing_of_a_local_file(tmp_path, tiny):
    image = Image.new("RGB", (64, 32), (255, 255, 255))
    clip_white = OpenCLIPBackbone(**tiny).preprocess(image)
    assert clip_white.mean(dim=(1, 2)).tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-3)
    half = OpenCLIPBackbone(**tiny, preprocess_cfg={"mean": (0.5,) * 3, "std": (0.5,) * 3}).preprocess(image)
    torch.testing.assert_close(half, torch.ones(3, 32, 32))
    written = {"model_cfg": tiny_clip.CONFIG, "preprocess_cfg": {"mean": [0.0] * 3, "std": [1.0] * 3}}
    named = OpenCLIPBackbone(**{**tiny, "model_config": written}).preprocess(image)
    torch.testing.assert_close(named, torch.ones(3, 32, 32))


def test_preprocessing_that_all_weights_of_a_model_share(monkeypatch, tmp_path):
    # SigLIP's mean is 0.5; open_clip itself would take CLIP's for a local file
    monkeypatch.setattr("open_clip.get_model_config", lambda name: deepcopy(tiny_clip.CONFIG))
    tokenizer = tmp_path / "bpe.txt.gz"
    tiny_clip.write_bpe(tokenizer)
    path = save_openai_style(tmp_path, "w.bin", keys=False)
    backbone = OpenCLIPBackbone("ViT-B-16-SigLIP", path, tokenizer=str(tokenizer))
    torch.testing.assert_close(backbone.preprocess(Image.new("RGB", (64, 32), "white")), torch.ones(3, 32, 32))


def test_custom_text_model(tmp_path, tiny):
    state = open_clip.model.convert_to_custom_text_state_dict(tiny_clip.build().state_dict())
    torch.save(state, tmp_path / "w.pt")
    config = {**tiny_clip.CONFIG, "custom_text": True}
    backbone = OpenCLIPBackbone(**{**tiny, "pretrained": str(tmp_path / "w.pt"), "model_config": config})
    assert type(backbone._model).__name__ == "CustomTextCLIP"
    torch.testing.assert_close(backbone.encode_text(TEXTS), OpenCLIPBackbone(**tiny).encode_text(TEXTS))


def test_hugging_face_text_tower_and_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "red", "cat", "the"]
    folder = tmp_path / "tower"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    ).save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "vision_cfg": tiny_clip.CONFIG["vision_cfg"],
        "text_cfg": {
            "hf_model_name": str(folder),
            "hf_tokenizer_name": str(folder),
            "hf_proj_type": "linear",
            "context_length": 8,
        },
    }
    torch.manual_seed(0)
    model = open_clip.model.CustomTextCLIP(
        16, deepcopy(config["vision_cfg"]), {**config["text_cfg"], "hf_model_pretrained": False}
    ).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    backbone = OpenCLIPBackbone("mine", str(tmp_path / "w.pt"), model_config=config)
    tokens = torch.tensor([[2, 5, 6, 3, 0, 0, 0, 0]])
    expected = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(backbone.encode_text(["a dog"]), expected.detach())
    assert backbone.is_too_long(["dog " * 6, "dog " * 7]) == [False, True]


@pytest.mark.parametrize("precision", ["bf16", "pure_bf16"])
def test_low_precision_gives_float32_features(tiny, precision):
    features = OpenCLIPBackbone(**tiny, precision=precision).encode_pil(make_images(2))
    reference = OpenCLIPBackbone(**tiny).encode_pil(make_images(2))
    assert features.dtype == torch.float32
    assert (features * reference).sum(dim=1).min() > 0.99
    assert not torch.equal(features, reference)


def test_local_dir_of_open_clip(tmp_path):
    folder = tmp_path / "repo"
    tiny = tiny_clip.write(folder)
    shutil.move(folder / "weights.safetensors", folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_clip.CONFIG, "preprocess_cfg": {}}))
    backbone = OpenCLIPBackbone(f"local-dir:{folder}", None, tokenizer=tiny["tokenizer"])
    assert backbone.name == "local-dir:repo"
    reference = torch.nn.functional.normalize(tiny_clip.build().encode_text(backbone._tokenizer(TEXTS)), dim=-1)
    torch.testing.assert_close(backbone.encode_text(TEXTS), reference.detach())
    # Recipes know it by content, wherever it lies.
    config = {"type": "OpenCLIPBackbone", "pretrained": None}
    recipes = [component_recipe({**config, "model_name": f"local-dir:{folder}"})]
    shutil.copytree(folder, tmp_path / "elsewhere" / "repo")
    recipes.append(component_recipe({**config, "model_name": f"local-dir:{tmp_path / 'elsewhere' / 'repo'}"}))
    assert recipes[0] == recipes[1] and len(recipes[0]["model_name"]["sha256"]) == 64
    with pytest.raises(UserError, match="pretrained"):
        OpenCLIPBackbone(f"local-dir:{folder}", "openai")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="local-dir"):
        OpenCLIPBackbone(f"local-dir:{folder}", None, tokenizer=tiny["tokenizer"])


def test_near_names_are_told():
    with pytest.raises(UserError, match=r"ViT-B32-quickgelu.*ViT-B-32-quickgelu"):
        OpenCLIPBackbone("ViT-B32-quickgelu")
    with pytest.raises(UserError, match=r"opanai.*openai"):
        OpenCLIPBackbone("ViT-B-32-quickgelu", "opanai")


def test_missing_weights_and_where_to_get_them(tiny, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(FileNotFoundError, match=r"offline.*timm/vit_base_patch32_clip_224\.openai"):
        OpenCLIPBackbone("ViT-B-32-quickgelu", "openai")
    for options, named in (({"pretrained": "weights/clip.pt"}, r"weights/clip\.pt"), ({"pretrained": "nowhere"}, "nowhere"),
                           ({"model_config": "none.json"}, r"none\.json")):  # fmt: skip
        with pytest.raises(FileNotFoundError, match=named):
            OpenCLIPBackbone(**{**tiny, **options})


def test_what_does_not_fit_is_refused(tmp_path, tiny):
    (tmp_path / "bad.json").write_text("{")
    pooled, deeper = deepcopy(tiny_clip.CONFIG), deepcopy(tiny_clip.CONFIG)
    pooled["text_cfg"].update(pool_type="eos", eos_id=2)
    deeper["vision_cfg"]["layers"] = 2
    for options, named in (
        ({"model_config": str(tmp_path / "bad.json")}, r"bad\.json"),
        ({"tokenizer": None}, "49408"),  # tokens, more than the text tower has
        ({"model_config": pooled}, "519"),  # the end token, which the tower does not pool at
        ({"precision": "half"}, "precision"),
    ):
        with pytest.raises(UserError, match=named):
            OpenCLIPBackbone(**{**tiny, **options})
    with pytest.raises(UserError, match=r"resblocks\.1"):
        OpenCLIPBackbone(**{**tiny, "model_config": deeper})
    with pytest.raises(UserError, match="random weights"):
        OpenCLIPBackbone("ViT-B-32-quickgelu", None)
    with pytest.raises(UserError, match="preprocess_cfg"):
        OpenCLIPBackbone(preprocess_cfg={"mean": (0, 0, 0)})
