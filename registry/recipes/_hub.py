"""Fetching a model's files from the Hugging Face Hub, pinned to one commit."""

from collections.abc import Callable
from pathlib import Path

from project.contracts.runs import UserError
from project.modeling import hub
from registry.recipes._files import is_wanted, require_space
from registry.sources import Source

_WITHOUT_NETWORK = "copy the model's folder below MODEL_DIR_ROOT and import dir:NAME."


def download(source: Source, target: Path, *, tick: Callable[[int, int], None], check_stop: Callable[[], None]) -> str:
    """Fetch safetensors, config and tokenizer of `source` into `target`; returns the commit's sha.

    Weights in other formats are not fetched. Raises UserError when the Hub has no such model or can't be reached.
    """
    repository = hub.look_up("model", source.name, source.revision, path=_WITHOUT_NETWORK)
    names = _wanted_files(repository)
    require_space(target, 2 * sum(repository.files[name] for name in names))  # the download and its copy
    hub.fetch(repository, names, target, tick=tick, check_stop=check_stop, path=_WITHOUT_NETWORK)
    return repository.sha


def _wanted_files(repository: hub.Repository) -> list[str]:
    files = [name for name in repository.files if "/" not in name and is_wanted(name)]
    if not any(name.endswith(".safetensors") for name in files):
        others = sorted(name for name in repository.files if name.endswith((".bin", ".pt", ".pth", ".gguf")))
        has = f" (it has {', '.join(others[:3])})" if others else ""
        raise UserError(
            f"{repository.name} has no safetensors weights{has}.",
            hint="Pickled weights can run code when they are opened, so they are refused. Choose another repository.",
            field="source",
        )
    return files
