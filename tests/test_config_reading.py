"""Variables of a config, and ``--cfg-options``: what they are parsed to, what they change, which are refused."""

from pathlib import Path

import pytest
from mmengine.config import Config

from synthcap_mm.config_files import list_configs, resolve_config
from synthcap_mm.config_reading import read_config
from synthcap_mm.errors import UserError

CUSTOM = str(resolve_config("synthcap_custom.py"))


@pytest.mark.parametrize("name", list_configs())
def test_a_shipped_config_is_what_mmengine_reads(name):
    ours = read_config(name)
    del ours._cfg_dict["config_name"]
    assert ours.to_dict() == Config.fromfile(resolve_config(name), import_custom_modules=False).to_dict()


def everything_of(cfg):
    stores = {
        cfg.store,
        cfg.synthesis.store,
        cfg.model.store,
        *(cfg[f"{s}_dataloader"].dataset.store for s in ("train", "val")),
    }
    assert len(stores) == 1
    return cfg.synthesis.captions.path, stores.pop(), cfg.synthesis.generator.type, cfg.train_cfg.max_epochs


def test_a_variable_changes_all_that_was_made_from_it(tmp_path):
    wanted = ("a, b.txt", "s/mine", "DiffusersGenerator", 7)
    options = ["captions=a, b.txt", "store=s/mine", "images=None", "epochs=7"]
    cfg = read_config(CUSTOM, options)
    assert everything_of(cfg) == wanted
    # The same from configs that derive from it, however far, and from options over these.
    (tmp_path / "mid.py").write_text(f"_base_ = [{CUSTOM!r}]\ncaptions = 'a, b.txt'\nstore = 's/mid'\nepochs = 7\n")
    (tmp_path / "leaf.py").write_text("_base_ = ['mid.py']\nstore = 's/mine'\nimages = None\n")
    assert everything_of(read_config(tmp_path / "leaf.py")) == wanted
    assert everything_of(read_config(tmp_path / "leaf.py", {"store": "q"}))[1] == "q"
    assert read_config(tmp_path / "leaf.py", ["synthesis.captions.path=c d.txt"]).synthesis.captions.path == "c d.txt"


def test_shipped_configs_are_bases_by_the_packages_name(tmp_path):
    leaf = tmp_path / "leaf.py"
    leaf.write_text("_base_ = 'synthcap_mm::decap/decap_mini.py'\nstore = 's/mine'\n")
    shipped = read_config("decap/decap_mini.py", {"store": "s/mine"}).to_dict()
    assert read_config(leaf).to_dict() == {**shipped, "config_name": "leaf"}
    leaf.write_text("_base_ = ['synthcap_mm::_base_/default_runtime.py', 'synthcap_mm::decap/decap_mimi.py']\n")
    with pytest.raises(UserError, match=r"decap_mimi.*decap/decap_mini\.py"):
        read_config(leaf)


def test_a_file_is_evaluated_on_its_bases_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("WHERE", "/data")
    (tmp_path / "base.py").write_text(
        "store = '{{$WHERE:none}}/a'\nmodel = dict(store=store, other=store)\nx = dict(y=1)\n"
    )
    (tmp_path / "leaf.py").write_text(
        "_base_ = ['base.py']\nstore = _base_.store + '_large'\nmodel = dict(other='own')\nx = dict(_delete_=True, z=2)\n"
        "here = '{{ fileDirname }}'\nboth = [_base_.store, {{_base_.store}}]\n"
    )
    cfg = read_config(tmp_path / "leaf.py")
    assert cfg.model.to_dict() == {"store": "/data/a_large", "other": "own"} and cfg.x.to_dict() == {"z": 2}
    assert cfg.here == str(tmp_path) and cfg.both == ["/data/a", "/data/a"]
    # A written-out config reads as it was.
    cfg.dump(tmp_path / "out.py")
    assert read_config(tmp_path / "out.py").model == cfg.model


@pytest.mark.parametrize(
    "text, value",
    [
        ("work_dir=a b,c", ["a b", "c"]),  # no text is there yet
        ("work_dir='a b,c'", "a b,c"),
        ("load_from=a b.pth", "a b.pth"),
        ("log_level=a,b", "a,b"),
        ("log_level=['a', 'b,c']", ["a", "b,c"]),
        ("log_level=[a, b c]", ["a", "b c"]),
        ("log_level=None", None),
        ("load_from=[(1,2.5),[x y],True]", [(1, 2.5), ["x y"], True]),
        ("load_from=1e-3,", [1e-3]),
        ("gallery={'num': 1}", {"num": 1}),
        ("load_from=k=v", "k=v"),
    ],
)
def test_values(text, value):
    cfg = read_config("synthcap_mini.py", [text])
    assert cfg[text.partition("=")[0]] == value


@pytest.mark.parametrize(
    "option, near",
    [
        ("optimizer.lr=1e-9", "optim_wrapper.optimizer.lr"),
        ("optim_wraper.lr=1", "optim_wrapper"),
        ("train_dataloader.batchsize=3", "train_dataloader.batch_size"),
        ("train_dataloader.dataset.refind=True", "train_dataloader.dataset.refined"),
        ("synthesis.sed=3", "synthesis.seed"),
        ("curation.namee=x", "curation.name"),
        ("photo_stores.0.image_bach=3", "photo_stores.0.image_batch"),
        ("model.rerankk=True", "model.rerank"),
        ("train_cfg.max_epoch=3", "train_cfg.max_epochs"),
        ("default_hooks.loger.interval=3", "default_hooks.logger"),
        ("epochs=3", ""),
        ("projector.prefix_length=3", "model.necks.projector.prefix_length"),
        ("model.necks.projektor.input_scale=3", "model.necks.projector"),
        ("model.necks.projector.widht=3", "model.necks.projector.width"),
        ("val_photos", "KEY=VALUE"),
    ],
)
def test_an_option_without_effect_is_refused(option, near):
    with pytest.raises(UserError) as caught:
        read_config("synthcap_mini.py", [option])
    assert near in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        [
            "model.rerank.type=CaptionRanker",
            "model.rerank.scores.image.type=ImageScore",
            "model.backbone.type=MiniCLIP",
        ],
        ["synthesis.keep_images=True", "synthesis.limit=9"],
        ["test_evaluator.metrics=BLEU,METEOR"],
        ["train_dataloader.persistent_workers=True", "train_dataloader.num_workers=1"],
        [
            "photo_stores.0.photos._delete_=True",
            "photo_stores.0.photos.type=PhotoFolder",
            "photo_stores.0.photos.root=x",
        ],
        ["model.head.generation.length_penalty=2", "model.head.generation.num_beams=1"],
        ["optim_wrapper.accumulative_counts=2", "optim_wrapper.paramwise_cfg.norm_decay_mult=0"],
        ["default_hooks.early.type=EarlyStoppingHook", "default_hooks.early.monitor=CIDEr"],
        [
            "randomness.deterministic=True",
            "env_cfg.dist_cfg.timeout=9",
            "work_dir=x",
            "gallery.num=3",
            "tensorboard=True",
        ],
        ["val_photos=x", "test_photos=y"],
    ],
)
def test_an_option_that_something_takes_is_not(options):
    read_config("synthcap_mini.py", options)


def test_a_variable_that_was_written_out_is_refused_with_its_copies(tmp_path):
    read_config(CUSTOM).dump(tmp_path / "out.py")
    with pytest.raises(UserError) as caught:
        read_config(tmp_path / "out.py", ["store=x"])
    assert "model.store" in str(caught.value) and "synthesis.store" in str(caught.value)
    with pytest.raises(UserError):  # whatever else is changed
        read_config(tmp_path / "out.py", ["store=x", "model.store=x", "randomness.seed=1"])


@pytest.mark.parametrize(
    "text, place",
    [
        ("a = 1\nb = (\n", "mine.py, line 2"),
        ("a = 1\nb = c\n", "mine.py, line 2: NameError"),
        ("_base_ = ['nowhere.py']\n", "nowhere.py"),
        ("_base_ = ['synthcap_mini.py']\ncustom_imports = dict(imports=['no_such_module'])\n", ""),
        ("custom_imports = dict(imports=['no_such_module'])\n", "no_such_module"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, text, place):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(tmp_path / "mine.py")
    assert place in str(caught.value)


def test_modules_beside_the_config_and_in_the_current_folder_are_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "beside_it.py").write_text("print('beside was imported')")
    (tmp_path / "in_the_folder.py").write_text("print('here was imported')")
    (tmp_path / "mine" / "config.py").write_text("custom_imports = dict(imports=['beside_it', 'in_the_folder'])")
    monkeypatch.chdir(tmp_path)
    read_config(Path("mine") / "config.py")
    said = capsys.readouterr().out
    assert "beside was imported" in said and "here was imported" in said


def test_a_config_that_was_written_out_has_its_necks_in_order(tmp_path):
    cfg = read_config("synthcap/synthcap_mini_moments.py")
    cfg.dump(tmp_path / "out.py")
    assert list(read_config(tmp_path / "out.py").model.necks) == ["moments", "memory", "projector"]


def test_necks_are_changed_by_name(tmp_path):
    cfg = read_config("synthcap_mini.py", ["model.necks.projector.input_scale=4", "model.necks.memory=None"])
    assert cfg.model.necks.projector.input_scale == 4 and cfg.model.necks.projector.prefix_length == 4
    assert cfg.model.necks.memory is None
    (tmp_path / "mine.py").write_text(
        f"_base_ = [{str(resolve_config('decap/decap_mini.py'))!r}]\n"
        "model = dict(necks=dict(memory=dict(temperature=0.04), text=None))\n"
    )
    cfg = read_config(tmp_path / "mine.py")
    assert list(cfg.model.necks) == ["text", "memory", "projector"] and cfg.model.necks.text is None
    assert cfg.model.necks.memory == {"type": "TextMemoryProjection", "temperature": 0.04, "phases": ["predict"]}
