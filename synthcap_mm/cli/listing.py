"""Commands that show what is there: list, print-config."""

from __future__ import annotations

from collections.abc import Sequence

from synthcap_mm.cli.arguments import add_config, command_parser, say
from synthcap_mm.config_files import list_configs, shipped_dir
from synthcap_mm.version import __version__


def list_all(argv: Sequence[str]) -> None:
    """List the registered components, the shipped configs and the tools' folder."""
    command_parser("list", "Registered components and their modules, shipped configs, tools.").parse_args(argv)
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
    say("\n".join(lines))


def print_config(argv: Sequence[str]) -> None:
    """Print a config with its bases merged and its options applied."""
    parser = command_parser("print-config", "The config as it is run: its bases merged, its options applied.")
    add_config(parser)
    parser.add_argument("--save-path", help="write the config to this file (.py, .json or .yaml) as well")
    args = parser.parse_args(argv)
    from synthcap_mm.config_reading import read_config

    cfg = read_config(args.config, args.cfg_options)
    del cfg._cfg_dict["config_name"]
    say(cfg.pretty_text)
    if args.save_path:
        cfg.dump(args.save_path)
