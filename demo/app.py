"""A page to try a captioner on: python demo/app.py [EXPORT | CONFIG CHECKPOINT]."""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from synthcap_mm.installation import check_installation

check_installation()  # before MMEngine is imported: a broken one would hide why

from PIL import Image

from synthcap_mm.cli.arguments import add_trust, import_modules
from synthcap_mm.cli.stopping import stopping_cleanly
from synthcap_mm.errors import UserError
from synthcap_mm.evaluation.caption_visualizer import draw_tags
from synthcap_mm.files import temporary_folder
from synthcap_mm.images import find_images, read_image
from synthcap_mm.inference.inferencer import CaptionInferencer
from synthcap_mm.inference.inputs import PhotoInput
from synthcap_mm.models.memory import CaptionMemory
from synthcap_mm.structures import Tag
from synthcap_mm.weights_files import trusted_checkpoints

#: What one photo may have.
MAX_BYTES, MAX_PIXELS = 20 * 2**20, 50_000_000
#: What a pasted memory may have.
MAX_CHARACTERS, MAX_SENTENCES = 1_000_000, 5000
#: How many answers may be waited for, and how long an upload is kept, in seconds.
MAX_WAITING, KEPT = 20, 3600
#: Where `make demo` leaves the mini-world's captioner.
DEMO_CONFIG, DEMO_FOLDER = "synthcap/synthcap_plus_mini.py", "work_dirs/synthcap_plus_mini"


def load_captioner(model: str | None, checkpoint: str | None = None, device: str | None = None) -> CaptionInferencer:
    """The captioner of an exported folder or of a config and its checkpoint; else the one that ``make demo`` trained.

    Raises:
        SystemExit: with a sentence, if there is none, or it cannot be used.
    """
    try:
        if model is not None:
            captioner = CaptionInferencer(model, checkpoint, device=device)
        else:
            found = sorted(Path(DEMO_FOLDER).glob("best_*.pth"), key=lambda path: path.stat().st_mtime)
            if not found:
                raise SystemExit(
                    f"there is no captioner of the mini-world in {Path(DEMO_FOLDER).absolute()}: train it with `make "
                    "demo` (minutes on a CPU) and start the page in the same folder, or name another captioner: "
                    "python demo/app.py EXPORT, or CONFIG CHECKPOINT"
                )
            captioner = CaptionInferencer(DEMO_CONFIG, found[-1], device=device)
        _ = captioner.reader  # builds encoder and tag provider, so that the start names what is missing
    except (UserError, RuntimeError, ValueError, OSError, ImportError) as error:
        raise SystemExit(str(error)) from error
    return captioner


def describe(found: dict[str, Any], uses_tags: bool) -> str:
    """What is said of an answer above its tables.

    Args:
        found: the prediction, explained.
        uses_tags: whether the captioner's prompt is made of tags.
    """
    lines = [f"Tags in the prompt: {', '.join(found['prompt_tags']) or 'none'}."] if uses_tags else []
    if found["clip_score"] is not None:
        lines.append(
            f"CLIPScore {found['clip_score']:.3f}: 2.5 times the cosine of photo and caption by the captioner's own "
            "encoder (0 to 2.5). More is better; compare it with other captions of the same photo only."
        )
    return " ".join(lines)


class Page:
    """What the page does with a photo; no Gradio in it.

    Args:
        captioner: the captioner.
    """

    def __init__(self, captioner: CaptionInferencer) -> None:
        self.captioner = captioner
        self._turn = threading.Lock()  # the memory is swapped for one answer at a time
        self._memories: OrderedDict[str, CaptionMemory] = OrderedDict()  # of the last pasted ones

    def read(self, path: str) -> Image.Image:
        """The photo in an uploaded file. A file that is refused is removed.

        Raises:
            UserError, ValueError: a sentence for the reader, if it has too many pixels, is no image, or is gone.
        """
        name = Path(path).name
        try:
            return read_image(path, name, MAX_PIXELS)
        except FileNotFoundError as error:
            raise UserError(f"the photo {name} is no longer kept here: drop it again") from error
        except (UserError, ValueError):
            Path(path).unlink(missing_ok=True)
            raise

    def sentences(self, text: str | None) -> list[str]:
        """The sentences of a pasted memory, one a line; none: the captioner's own memory is used.

        Raises:
            UserError: if there are too many, or too long ones.
        """
        if len(text or "") > MAX_CHARACTERS:
            raise UserError(f"the memory has {len(text)} characters; at most {MAX_CHARACTERS} are taken here")
        found = [" ".join(line.split()) for line in (text or "").splitlines() if line.strip()]
        if len(found) > MAX_SENTENCES:
            raise UserError(f"the memory has {len(found)} sentences; at most {MAX_SENTENCES} are taken here")
        return found

    def answer(
        self, path: str, beams: int = 5, length: int | None = None, penalty: float = 1.0, memory: str | None = None
    ) -> tuple[Image.Image, dict[str, Any]]:
        """Caption a photo.

        Args:
            path: its file.
            beams: 1 is greedy. Default 5.
            length: most tokens. Default: as trained.
            penalty: length penalty. Default 1.
            memory: sentences to be used instead of the captioner's memory, one a line. Default ``None``.

        Returns:
            The photo with the boxes of the prompt's tags, and the prediction with everything that explains it.

        Raises:
            UserError, ValueError: a sentence for the reader.
        """
        photo = self.read(path)
        sentences = self.sentences(memory)
        options = {
            "num_beams": int(beams),
            "n_best": int(beams),
            "max_length": None if length is None else int(length),
            "length_penalty": float(penalty),
            "explain": True,
        }
        with self._turn:
            item = PhotoInput(Path(path).name, photo)
            if sentences:
                with self.captioner.use_memory(sentences, self._memory(sentences)):
                    (found,) = self.captioner.stream([item], **options)
            else:
                (found,) = self.captioner.stream([item], **options)
        return draw_tags(photo, [Tag(**tag) for tag in found["tags"] if tag["name"] in found["prompt_tags"]]), found

    def _memory(self, sentences: list[str]) -> CaptionMemory:
        key = "\n".join(sentences)
        if key not in self._memories:
            self._memories[key] = self.captioner.encode_memory(sentences)
            while len(self._memories) > 4:
                self._memories.popitem(last=False)
        self._memories.move_to_end(key)
        return self._memories[key]


class Guard:
    """Refuses requests of foreign sites, and those that are too large, with a sentence; ASGI, in front of Gradio.

    A site could otherwise send requests through its reader's browser, and read the answers if its name leads here.

    Args:
        app: what answers the other requests.
        hosts: the page's addresses, as ``name:port``.
    """

    def __init__(self, app: Any, hosts: set[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request."""
        from starlette.responses import JSONResponse

        status, sentence = self._refusal(scope) if scope["type"] == "http" else (200, "")
        answer = JSONResponse({"detail": sentence}, status) if sentence else self.app
        with contextlib.suppress(asyncio.CancelledError):  # the page ends; uvicorn would print a traceback
            await answer(scope, receive, send)

    def _refusal(self, scope: dict[str, Any]) -> tuple[int, str]:
        from starlette.datastructures import Headers

        headers = Headers(scope=scope)
        asked = headers.getlist("host") or [""]
        asked += [origin.partition("://")[2] for origin in headers.getlist("origin")]
        if not self.hosts.issuperset(map(str.lower, asked)):
            known = ", ".join(sorted(self.hosts))
            return 403, f"This page answers at {known} only; start it with --allow-host NAME to allow another name."
        limit = MAX_BYTES + 2**20 if scope["path"].endswith("/upload") else 4 * MAX_CHARACTERS
        if "transfer-encoding" in headers or int(headers.get("content-length", 0)) > limit:
            megabytes = MAX_BYTES >> 20
            return 413, f"A photo may have {megabytes} MB, a memory {MAX_CHARACTERS} characters; send the length first."
        return 200, ""


def addresses(host: str, port: int, allowed: list[str]) -> set[str]:
    """What browsers may call the page, as it stands in their address bar: ``name:port``.

    Args:
        host: address it is served at.
        port: its port.
        allowed: further names, with a port or without.
    """
    names = ["127.0.0.1", "localhost", "[::1]", f"[{host}]" if ":" in host else host, *allowed]
    return {f"{name}:{port}".lower() for name in names} | set(map(str.lower, allowed))


def examples(folder: str | None, place: Path) -> list[str]:
    """Photos to pick from, written to ``place``: the first twelve of a folder, else some of the mini-world's.

    They are shown as the captioner reads them, since no browser shows TIFF or HEIC, and a file that is called ``.png``
    may be anything.
    """
    if folder is not None:
        picked: list[str] = []
        for path in find_images(folder).values():
            with contextlib.suppress(UserError, ValueError, OSError):
                shown = place / f"{len(picked):02}.png"
                read_image(path, path.name, MAX_PIXELS).save(shown, compress_level=1)
                picked.append(str(shown))
            if len(picked) == 12:
                break
        return picked
    from synthcap_mm.miniscenes.sources import MiniScenesPhotos

    photos = MiniScenesPhotos(split="test", num=8)
    for index in range(len(photos)):
        photos.load(index).resize((256, 256), Image.Resampling.NEAREST).save(place / f"{photos.keys[index]}.png")
    return [str(path) for path in sorted(place.glob("*.png"))]


def build(page: Page, picked: list[str], title: str) -> Any:
    """The page's layout.

    Args:
        page: what answers.
        picked: files to pick an example from.
        title: of the page.
    """
    import gradio as gr

    longest = page.captioner.model.data_preprocessor.max_length
    beams_at_first = page.captioner.model.head.generation.get("num_beams", 5)
    has_memory = bool(page.captioner.model.remembering)

    def show(path: str | None, beams: int, length: int, penalty: float, memory: str) -> tuple:
        nothing = ("", None, [], [], [])
        if path is None:
            return "Drop a photo, or pick an example.", *nothing
        try:
            photo, found = page.answer(path, beams, length, penalty, memory)
        except (UserError, ValueError) as error:
            sentence = str(error)
            return f"⚠️ {sentence[:1].upper()}{sentence[1:]}.", *nothing
        about = describe(found, page.captioner.uses_tags)
        # Tags that were found without a detector have no place in the photo.
        label = "What the detector sees" if any(tag["box"] for tag in found["tags"]) else "The photo"
        best = [[c["caption"], round(c["logprob"], 3), round(c["score"], 4)] for c in found["captions"]]
        remembered = [[m["caption"], round(m["weight"], 4)] for m in found["memory"] or []]
        seen = [[t["name"], round(t["score"], 3)] for t in found["tags"]]
        shown = gr.Image(photo, label=label)
        return about, f"## {found['caption'] or '(nothing was written)'}", shown, best, remembered, seen

    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(60, KEPT)) as blocks:
        gr.Markdown(f"# {title}")
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.File(label="Photo", type="filepath", elem_id="photo", height=120)
                gallery = gr.Gallery(
                    picked, label="Examples", columns=4, height=200, allow_preview=False, buttons=[], elem_id="examples"
                )
                beams = gr.Slider(1, 10, beams_at_first, step=1, label="Beams (1: greedy)", elem_id="beams")
                length = gr.Slider(1, longest, longest, step=1, label="Most tokens", elem_id="length")
                penalty = gr.Slider(-2, 2, 1, step=0.25, label="Length penalty (above 0: longer captions)")
                memory = gr.Textbox(
                    label="Memory: your own sentences, one a line (empty: the captioner's own)",
                    lines=5,
                    max_lines=12,
                    visible=has_memory,
                    elem_id="memory",
                )
            with gr.Column(scale=3):
                caption = gr.Markdown(elem_id="caption")
                message = gr.Markdown("Drop a photo, or pick an example.", elem_id="message")
                drawn = gr.Image(
                    label="The photo",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="drawn",
                )
                best = gr.Dataframe(headers=["caption", "log p", "ranked by"], label="Best captions", elem_id="best")
                remembered = gr.Dataframe(
                    headers=["caption of the memory", "weight"],
                    label="Captions of the memory that carried most weight",
                    visible=has_memory,
                    elem_id="remembered",
                )
                seen = gr.Dataframe(
                    headers=["tag", "score"], label="All tags", visible=page.captioner.uses_tags, elem_id="seen"
                )
        inputs, outputs = [photo, beams, length, penalty, memory], [message, caption, drawn, best, remembered, seen]
        # While the user goes on typing or dragging, only the last state is answered.
        gr.on(
            [photo.change, beams.release, length.release, penalty.release, memory.change],
            show,
            inputs,
            outputs,
            trigger_mode="always_last",
            show_progress="minimal",
        )

        def pick(event: gr.SelectData) -> str:
            return picked[event.index]

        gallery.select(pick, None, photo)
    return blocks.queue(max_size=MAX_WAITING, api_open=False)


def serve(blocks: Any, picked: list[str], host: str, port: int, hosts: set[str]) -> None:
    """Serve the page until a signal comes.

    Args:
        blocks: the page's layout.
        picked: files that may be fetched, besides the uploads.
        host: address to serve at.
        port: its port.
        hosts: what browsers may call it.
    """
    import gradio as gr
    import uvicorn  # it and FastAPI come with Gradio
    from fastapi import FastAPI

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        "/",
        allowed_paths=picked,
        max_file_size=MAX_BYTES,
        theme=theme,
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
    )
    # `launch` sets it, mounting does not; without it Gradio takes any path on this machine for an upload.
    blocks.has_launched = True
    sys.addaudithook(_call_nobody)
    server = uvicorn.Server(
        uvicorn.Config(
            Guard(app, hosts), host, port, loop="asyncio", ws="none", access_log=False, timeout_graceful_shutdown=1
        )
    )
    server.handle_exit = lambda *_: setattr(server, "should_exit", True)  # a second signal would end in tracebacks
    server.run()
    signal.raise_signal(signal.SIGINT)  # the one that ended the server, for `stopping_cleanly`


def _call_nobody(event: str, args: tuple) -> None:
    """Gradio would fetch addresses that a request names, of any size; the page itself needs none."""
    if event == "socket.connect" and isinstance(args[1], tuple):
        raise RuntimeError(f"the page fetches nothing, so not {args[1][0]} either")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", help="folder of tools/export.py, or a config (default: what `make demo` trained)"
    )
    parser.add_argument("checkpoint", nargs="?", help="after a config: its checkpoint")
    add_trust(parser)
    parser.add_argument("--examples", metavar="FOLDER", help="photos to pick from (default: the mini-world's)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="name, or NAME:PORT, that browsers reach the page by, besides localhost and the --host; may be repeated",
    )
    parser.add_argument(
        "--import", dest="modules", metavar="MODULE", nargs="+", default=[], help="modules of your own to import first"
    )
    parser.add_argument("--device", help="torch device (default: the GPU if there is one)")
    return parser.parse_args()


def run(args: argparse.Namespace, place: Path) -> None:
    """Run the page.

    Args:
        args: the command line.
        place: the folder of everything that is uploaded or drawn.
    """
    # Read when Gradio is imported: uploads and copies go there, and nothing else is served.
    os.environ |= {"GRADIO_TEMP_DIR": str(place), "GRADIO_EXAMPLES_CACHE": str(place)}
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"the page needs Gradio ({error}): pip install 'synthcap_mm[demo]'") from error
    import_modules(args.modules)
    with trusted_checkpoints(args.trust_checkpoint):
        page = Page(load_captioner(args.model, args.checkpoint, args.device))
    title = "The mini-world's captioner" if args.model is None else f"Captioner {Path(args.model).resolve().name}"
    try:
        picked = examples(args.examples, place)
    except (UserError, OSError) as error:
        raise SystemExit(str(error)) from error
    hosts = addresses(args.host, args.port, args.allow_host)
    serve(build(page, picked, title), picked, args.host, args.port, hosts)


def main() -> None:
    """Run, in a folder that is gone afterwards."""
    args = parse_args()
    with (
        temporary_folder() as place,
        # Answers that are being computed are not waited for.
        stopping_cleanly("The page is closed.", lambda: shutil.rmtree(place, ignore_errors=True)),
    ):
        run(args, place)


if __name__ == "__main__":
    main()
