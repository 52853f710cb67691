"""Files of captions, predictions and references."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from pathlib import Path
from typing import Any

from .mutations import altered, change_json, damaged, dumps, hostile_texts
from .running import Change, Kind

_SENTENCES = ("a red dog on the beach", "a blue cat in the street", "ein grünes Auto, auf \"dem\" Feld", "two boats",
              "a white tree", "a dog and a cat")  # fmt: skip
_NAMES = [f"photo_{n:012d}.jpg" for n in range(1, 4)]


def _coco() -> dict[str, Any]:
    images = [{"id": n + 1, "file_name": name, "height": 8, "width": 8} for n, name in enumerate(_NAMES)]
    annotations = [{"id": n + 10, "image_id": n // 2 + 1, "caption": text} for n, text in enumerate(_SENTENCES)]
    return {"info": {}, "images": images, "annotations": annotations}


def _nocaps() -> dict[str, Any]:
    coco = _coco()
    for image, domain in zip(coco["images"], ("in-domain", "near-domain", "out-domain")):
        image.update(open_images_id=f"x{image['id']}", domain=domain, coco_url="http://127.0.0.1:9/x.jpg")
    return coco


def _karpathy() -> dict[str, Any]:
    images = [
        {
            "filepath": "val2014", "filename": name, "imgid": n, "cocoid": n + 100, "split": ("train", "val", "test")[n],
            "sentids": [2 * n, 2 * n + 1],
            "sentences": [{"raw": _SENTENCES[2 * n + m], "sentid": 2 * n + m, "imgid": n, "tokens": []} for m in (0, 1)],
        }
        for n, name in enumerate(_NAMES)
    ]  # fmt: skip
    return {"images": images, "dataset": "coco"}


def _table(delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("image", "caption"), *((_NAMES[n // 2], one) for n, one in enumerate(_SENTENCES))])
    return text.getvalue()


def _write(folder: Path, files: dict[str, Any]) -> None:
    """Write files of text or JSON, and the photos."""
    from PIL import Image

    for place in ("photos", "photos/val2014"):
        (folder / place).mkdir(parents=True)
        for n, name in enumerate(_NAMES):
            Image.new("RGB", (8, 8), (80 * n, 10, 10)).save(folder / place / name)
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=1))


def _change_lines(path: Path, rng: random.Random, case: Path) -> tuple[str, bool]:
    """Change a file that is no JSON: bytes, lines, fields, or one of its lines' JSON."""
    data = path.read_bytes()
    kind = rng.choice(("bytes", "bytes", "line", "field", "field", "whole"))
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    text = rng.choice(hostile_texts(case))
    if kind == "bytes":
        what, data = damaged(data, rng)
        path.write_bytes(data)
        return what, False
    if kind == "line":
        lines[at : at + 1] = rng.choice(
            ([], [lines[at]] * 2, [text], [lines[at][: len(lines[at]) // 2]], ["", lines[at]])
        )
    elif kind == "field" and path.suffix == ".jsonl":
        kind, value = altered(json.loads(lines[at]), rng, case)
        lines[at] = dumps(value)
    elif kind == "field":
        delimiter = rng.choice((",", "\t", "#", " "))
        fields = lines[at].split(delimiter)
        fields[rng.randrange(len(fields))] = rng.choice(
            (text, "", '"', '"a\n', "x" * 200_000, "\u2028", "=1+1", "a,b\tc|d")
        )
        lines[at] = delimiter.join(fields)
    else:
        kind = rng.choice(("utf-16", "latin-1", "utf-8-sig", "mac"))
        joined = "\n".join(lines)
        path.write_bytes(joined.replace("\n", "\r").encode() if kind == "mac" else joined.encode(kind))
        return kind, kind in ("mac", "utf-8-sig")
    path.write_bytes("\n".join([*lines, ""]).encode("utf-8", "surrogatepass"))
    return f"{kind} in line {at + 1}: {lines[at][:80]!a}" if at < len(lines) else f"{kind} in line {at + 1}", False


def _change(path: Path, rng: random.Random, case: Path) -> tuple[str, bool]:
    if path.suffix == ".json" and rng.random() < 0.75:
        return change_json(path, rng, case)
    return _change_lines(path, rng, case)


class Captions(Kind):
    name = "captions"
    variants = ("text.txt", "table.csv", "table.tsv", "token.txt", "list.json", "lines.jsonl", "coco.json", "nocaps.json",
                "karpathy.json", "references.json", "dataset_coco.json", "names.json")  # fmt: skip

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = [{"caption": text, "id": n, "image": _NAMES[n // 2]} for n, text in enumerate(_SENTENCES)]
        contents = {
            "text.txt": "\n".join([*_SENTENCES, ""]),
            "table.csv": _table(","),
            "table.tsv": _table("\t"),
            "token.txt": "".join(f"{_NAMES[n // 2]}#{n % 2}\t{text}\n" for n, text in enumerate(_SENTENCES)),
            "list.json": rows,
            "lines.jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
            "coco.json": _coco(),
            "nocaps.json": _nocaps(),
            "karpathy.json": _karpathy(),
            "references.json": {name: list(_SENTENCES[n : n + 2]) for n, name in enumerate(_NAMES)},
            "dataset_coco.json": _karpathy(),
            "names.json": {"train": _NAMES[:1], "test": _NAMES[1:]},
        }
        for name, content in contents.items():
            _write(folder / f"good_{name}", {name: content, "coco_too.json": _coco()})

    def change(self, case: Path, rng: random.Random) -> Change:
        path = self.lay(case, rng) / self.variant
        what, same = _change(path, rng, case)
        return Change(f"{path.name}: {what}", same)  # no checksum covers them

    def use(self, folder: Path) -> Any:
        from synthcap_mm.datasets.captions import CaptionFile
        from synthcap_mm.datasets.photos import CocoPhotos, CsvPhotos, KarpathyPhotos, PhotoFolder
        from synthcap_mm.datasets.preparation import RECIPES, prepare

        path, photos, sources = folder / self.variant, folder / "photos", []
        if self.variant == "dataset_coco.json":
            counts = {"train": 1, "val": 1, "test": 1}
            twice = dict.fromkeys(counts, 2)
            recipe = RECIPES["coco"]._replace(images=counts, captions=twice)
            return prepare(["coco"], "laid", [folder], copy=True, recipes={"coco": recipe})
        if self.variant == "references.json":
            sources, captions = [PhotoFolder(photos, references=path)], []
        elif self.variant == "names.json":
            sources, captions = [CocoPhotos(folder / "coco_too.json", photos, keys=path, split="test")], []
        else:
            split = "all" if self.variant.startswith("karpathy") else None
            captions = CaptionFile(path, split=split).read()
        if self.variant in ("coco.json", "nocaps.json"):
            sources = [CocoPhotos(path, photos)]
        elif self.variant == "karpathy.json":
            sources = [KarpathyPhotos(path, photos, split) for split in ("val", "test")]
        elif self.variant.startswith("table"):
            sources = [CsvPhotos(path, photos)]
        shown = {key: [source.load(n).size, source.references(n), source.domain(n)]
                 for source in sources for n, key in enumerate(source.keys)}  # fmt: skip
        return {"captions": [tuple(caption) for caption in captions], "photos": shown}

    def wrong(self, result: Any) -> str | None:
        if isinstance(result, list):
            return None
        ids = [caption[0] for caption in result["captions"]]
        texts = [caption[1] for caption in result["captions"]]
        texts += [text for _, references, _ in result["photos"].values() for text in references]
        if len({*ids}) < len(ids) or not all(isinstance(one, str) and one for one in ids):
            return "ids are not unique texts"
        bad = [text for text in texts if not isinstance(text, str) or not text.strip() or _is_half(text)]
        return f"no caption: {bad[0]!a}" if bad else None


def _is_half(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


class Predictions(Kind):
    name = "predictions"
    variants = ("coco", "lines", "own")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        ids = {name: n + 1 for n, name in enumerate(_NAMES)}
        said = dict(zip(_NAMES, ("a red dog", "a green car", "a tree")))
        own = {
            name: {"hypothesis": text, "references": list(_SENTENCES[2 * n : 2 * n + 2]), "scores": {}}
            for n, (name, text) in enumerate(said.items())
        }
        karpathy = _karpathy()
        for image in karpathy["images"]:
            image["split"] = "test"
        contents = {
            "coco": ([{"image_id": ids[name], "caption": text} for name, text in said.items()], _coco()),
            "lines": ("".join(f"{json.dumps({'image': f'x/{n}', 'caption': c})}\n" for n, c in said.items()), karpathy),
            "own": ({"metrics": {}, "images": own}, {"metrics": {}, "images": own}),
        }
        for name, (predictions, references) in contents.items():
            suffix = "jsonl" if name == "lines" else "json"
            _write(folder / f"good_{name}", {f"predictions.{suffix}": predictions, "references.json": references})

    def change(self, case: Path, rng: random.Random) -> Change:
        path = rng.choice([path for path in sorted(self.lay(case, rng).iterdir()) if path.is_file()])
        what, same = _change(path, rng, case)
        return Change(f"{self.variant}: {path.name}: {what}", same)

    def use(self, folder: Path) -> Any:
        from synthcap_mm.evaluation.eval_captions import eval_captions
        from synthcap_mm.evaluation.prediction_files import join, read_predictions, read_references

        predictions, references = next(folder.glob("predictions*")), folder / "references.json"
        joined = join(read_predictions(predictions), read_references(references))
        return {"joined": joined, "scores": eval_captions([str(predictions)], str(references), ["BLEU", "CIDEr"])}

    def wrong(self, result: Any) -> str | None:
        bad = [name for name, value in result["scores"].items() if not math.isfinite(value)]
        bad += [name for name, text in result["joined"].items() if not isinstance(text, str) or _is_half(name + text)]
        return f"no value: {bad[0]!a}" if bad else None
