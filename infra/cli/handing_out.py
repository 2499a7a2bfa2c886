"""`opsd export`, `opsd serve` and `opsd chat`: registered versions for others."""

from pathlib import Path

import click

from infra.cli.command import Command

_version = click.option("--version", "version", metavar="VERSION", help="A number or an alias (default: champion).")
_port = click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Of the server.")


@click.command(cls=Command)
@click.argument("name")
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="The folder to write; it must not exist or be empty."
)
@_version
@click.option("--adapter", "adapters", is_flag=True, help="Also the trained adapters, as a peft folder.")
@click.option("--gguf", "as_gguf", is_flag=True, help="Also one GGUF file, where llama.cpp is installed.")
def export(name: str, to: Path, version: str | None, adapters: bool, as_gguf: bool) -> int:
    """Copy a version to a folder, every byte verified.

    The folder holds weights, tokenizer and chat template as the version was judged with, for transformers, vLLM and others. Of a
    version that is stored as an adapter it is the whole model: adapter and base are merged.

    \b
    Examples:
      opsd export demo --to demo-champion
      opsd export demo/3 --to demo-3 --adapter
    """
    from infra.cli import folders
    from infra.cli.names import named

    found = folders.kept(named(name, version))
    target = to.expanduser().absolute()
    files = folders.copied(found, target)
    click.echo(f"{found.version.name} version {found.version.version}: {len(files)} files, verified\n{target}")
    if adapters:
        click.echo(folders.adapter(found, target))
    if as_gguf:
        click.echo(folders.gguf(target))
    return 0


@click.command(cls=Command)
@click.argument("name")
@_version
@_port
def serve(name: str, version: str | None, port: int) -> int:
    """Serve a version with an OpenAI-compatible API.

    By vLLM where it is installed, else by `transformers serve`; on this machine only (127.0.0.1), until Ctrl-C. Requests to
    /v1/chat/completions get the answers that the gate judged: template, end tokens and greedy decoding are in the folder.

    \b
    Example: opsd serve demo --port 8000
    """
    from infra.cli import folders
    from infra.cli.names import named
    from infra.cli.serving import command, start

    program = command(port)
    found = folders.kept(named(name, version))
    return start(program, found, port)


@click.command(cls=Command)
@click.argument("name")
@_port
@click.option("--system", help="A system message; without it the one that the version was judged with.")
def chat(name: str, port: int, system: str | None) -> int:
    """Talk to a version that `opsd serve` serves.

    An empty line ends it.
    """
    from infra.cli.names import named
    from infra.cli.serving import talk

    return talk(f"http://127.0.0.1:{port}", named(name).name, system)
