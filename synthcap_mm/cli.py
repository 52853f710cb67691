"""The console command ``synthcap-mm``: the shipped tools, for those who have no clone."""

from __future__ import annotations

import argparse
import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from synthcap_mm.config_files import list_configs, shipped_dir
from synthcap_mm.installation import check_installation
from synthcap_mm.version import __version__


def find_tools() -> dict[str, Path]:
    """The shipped tools: command (``'encode-images'``) → script (``tools/encode_images.py``), sorted by command."""
    scripts = sorted(shipped_dir("tools").rglob("[!_]*.py"), key=lambda script: script.stem)
    return {script.stem.replace("_", "-"): script for script in scripts}


def list_components() -> str:
    """What is there: registered components by registry with their modules, shipped configs, the tools' folder."""
    # Registering imports all components, and so torch.
    from mmengine.registry import Registry

    from synthcap_mm import registry as registries

    lines = [f"synthcap_mm {__version__}"]
    for registry in vars(registries).values():
        if not isinstance(registry, Registry) or registry.scope != registries.SCOPE:
            continue
        registry.import_from_location()
        lines += ["", f"{registry.name} components:"]
        width = max(map(len, registry.module_dict), default=0)
        lines += [
            f"  {name:<{width}}  {getattr(component, '__module__', '')}"
            for name, component in sorted(registry.module_dict.items())
        ]
    lines += ["", f"configs, in {shipped_dir('configs')}:", *(f"  {name}" for name in list_configs())]
    lines += ["", f"tools, in {shipped_dir('tools')}"]
    return "\n".join(lines)


def _help(tools: dict[str, Path]) -> str:
    """The list of commands, each with the first line of its script's docstring."""
    commands = {name: (ast.get_docstring(ast.parse(script.read_bytes())) or "") for name, script in tools.items()}
    commands["list"] = "Lists the registered components, the shipped configs and the tools' folder."
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {doc.partition(chr(10))[0]}" for name, doc in commands.items()]
    return "commands:\n" + "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command of ``synthcap-mm``.

    Args:
        argv: command and its arguments; those of a tool are passed to it as
            they are. Defaults to ``sys.argv[1:]``.

    Raises:
        RuntimeError: if open-mmlab's and onedl's distributions are installed over each other.
        SystemExit: after ``--help`` and ``--version``, with status 2 for an
            unknown command, and with whatever a tool exits with.
    """
    tools = find_tools()
    parser = argparse.ArgumentParser(
        prog="synthcap-mm",
        description="Trains image captioners from captions alone. `synthcap-mm COMMAND --help` explains a command.",
        epilog=_help(tools)
        + "\n\nA CONFIG is a file, or the name of a shipped config: synthcap-mm train synthcap_mini.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"synthcap_mm {__version__}")
    parser.add_argument("command", choices=[*tools, "list"], metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the command")
    args = parser.parse_args(argv)
    check_installation()  # before anything imports MMEngine: a broken one would hide why
    if args.command == "list":
        if args.arguments:
            parser.error(f"list takes no arguments, not {' '.join(args.arguments)}")
        print(list_components())
        return
    script = tools[args.command]
    # As `python tools/train.py` would have it.
    sys.argv = [str(script), *args.arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
