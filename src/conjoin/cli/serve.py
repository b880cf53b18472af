"""`conjoin serve`: put models behind a URL."""

from typing import Annotated, Any

import typer

from conjoin.cli.options import Dtype
from conjoin.cli.streams import emit
from conjoin.errors import MissingBackend

_LIMITS = "Limits"
_ACCESS = "Access"


def serve_models(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL[=NAME]...", help="Folders or hub ids, each with the name that clients use."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="TOML file with the words of these options.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 8000 by default, 0 for any free one.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Data type of the parameters.")] = None,
    int8: Annotated[bool | None, typer.Option("--int8", help="Keep weights in 8 bits.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.")] = None,
    translate: Annotated[
        list[str] | None,
        typer.Option(metavar="SRC:TGT[=NAME]", help="Serve LibreTranslate's routes for this pair of languages."),
    ] = None,
    ttl: Annotated[float | None, typer.Option(help="Unload models idle for so many seconds; 0 for never.")] = None,
    chat: Annotated[
        str | None, typer.Option(help="Messages that the model cannot read: last leaves them out, strict refuses them.")
    ] = None,
    page: Annotated[bool | None, typer.Option("--page/--no-page", help="Serve the page at /.")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path under which a proxy serves this server.")] = None,
    log: Annotated[str | None, typer.Option(help="Form of the log: text or json.")] = None,
    max_rows: Annotated[
        int | None, typer.Option(help="Hypotheses that run together; measured by default.", rich_help_panel=_LIMITS)
    ] = None,
    max_cache_bytes: Annotated[
        int | None,
        typer.Option(help="Bytes of running requests' caches; a quarter of free memory.", rich_help_panel=_LIMITS),
    ] = None,
    step_ms: Annotated[
        float | None, typer.Option(help="Longest step when rows are measured, in ms.", rich_help_panel=_LIMITS)
    ] = None,
    max_queue: Annotated[
        int | None, typer.Option(help="Sources that wait or run; 256 by default.", rich_help_panel=_LIMITS)
    ] = None,
    max_queue_characters: Annotated[
        int | None, typer.Option(help="Characters of these sources.", rich_help_panel=_LIMITS)
    ] = None,
    max_inputs: Annotated[int | None, typer.Option(help="Sources in one request.", rich_help_panel=_LIMITS)] = None,
    max_beams: Annotated[int | None, typer.Option(help="Beams of a source.", rich_help_panel=_LIMITS)] = None,
    max_results: Annotated[int | None, typer.Option(help="Results of a source.", rich_help_panel=_LIMITS)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of a result.", rich_help_panel=_LIMITS)] = None,
    max_source_tokens: Annotated[
        int | None, typer.Option(help="Tokens of a source; longer ones are cut.", rich_help_panel=_LIMITS)
    ] = None,
    max_body: Annotated[int | None, typer.Option(help="Bytes of a body.", rich_help_panel=_LIMITS)] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds from arrival to the end of a request.", rich_help_panel=_LIMITS)
    ] = None,
    client_timeout: Annotated[
        float | None,
        typer.Option(help="Seconds to send a body, or to read what is sent; 30 by default.", rich_help_panel=_LIMITS),
    ] = None,
    grace: Annotated[
        float | None, typer.Option(help="Seconds that running requests get at the end.", rich_help_panel=_LIMITS)
    ] = None,
    api_key_file: Annotated[str | None, typer.Option(help="File with a key per line.", rich_help_panel=_ACCESS)] = None,
    no_auth: Annotated[
        bool | None,
        typer.Option("--no-auth", help="Listen on a public address without keys.", rich_help_panel=_ACCESS),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Origin whose pages may call the server.", rich_help_panel=_ACCESS),
    ] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings as TOML and exit.")] = False,
) -> None:
    """Serve models over HTTP: OpenAI's, TGI's, Hugging Face's and LibreTranslate's words on one port.

    A page for people is at /. SIGTERM lets running requests finish; SIGHUP
    loads the models' files anew without a gap.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("config", "print_config")}
    from conjoin.serving.settings import ServeSettings, read_toml

    given["dtype"] = dtype.value if dtype else None
    lists = ("models", "translate", "cors")
    given |= {name: given[name] or None for name in lists}
    settings = ServeSettings.of(read_toml(config) if config else {}, given)
    if print_config:
        emit(settings.toml())
        return
    try:
        import fastapi  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import prometheus_client  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import uvicorn  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise MissingBackend("conjoin serve needs an extra: pip install 'conjoin[serve,torch]'") from None
    from conjoin.serving.run import serve

    raise typer.Exit(serve(settings))
