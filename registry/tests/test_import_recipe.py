"""The import recipe on real folders: what is taken, what is refused and why, and what is said about it."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from project.contracts.runs import RunSpec, StopRequested, UserError
from project.runner.context import Context
from registry import sources
from registry.recipes import import_model as recipe


def run(folder: Path, source: str, *, inputs: dict[str, Path] | None = None, **params: Any) -> Context:
    """Run the recipe in this process, in a run folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    given = recipe.Params(source=source, **params)
    spec = RunSpec(
        job="test",
        attempt=1,
        recipe=recipe.name,
        params=given.model_dump(),
        inputs={name: str(path) for name, path in (inputs or {}).items()},
    )
    context = Context(folder, spec)
    recipe.run(given, context)
    return context


def result(context: Context) -> dict[str, Any]:
    assert context.outcome is not None
    return context.outcome.result


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "source"))


def test_a_folder_is_taken_as_it_is_and_described(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.xlsx").write_bytes(b"not ours")
    done = run(tmp_path / "run", "dir:source", inputs={"folder": folder})
    facts = result(done)["facts"]
    assert result(done)["kind"] == "full"
    assert facts["family"] == "llama"
    assert facts["has_template"] is True
    assert (facts["layers"], facts["hidden_size"], facts["dtype"]) == (4, 128, "float32")
    names = {path.name for path in done.artifact.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert "notes.xlsx" not in names
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "notes.xlsx" in events
    assert '"phase":"copy"' in events


def test_stored_as_bfloat16_it_is_half_as_big_and_loads(folder: Path, tmp_path: Path) -> None:
    from project.modeling import loading

    done = run(tmp_path / "run", "dir:source", inputs={"folder": folder}, dtype="bfloat16")
    facts = result(done)["facts"]
    assert facts["dtype"] == "bfloat16"
    assert facts["bytes"] < 0.55 * (folder / "model.safetensors").stat().st_size
    assert json.loads((done.artifact / "config.json").read_text())["dtype"] == "bfloat16"
    loading.load_base(done.artifact)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lie(folder: Path) -> None:
    """The header says the first tensor is twice as long as its data."""
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    header[first]["shape"][0] *= 2
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def pickled(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def own_code(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModel": "evil.Model"})


def own_tokenizer_code(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoTokenizer": ["evil.T", None]}}))


def link_outside(folder: Path) -> None:
    secret = folder.parent / "secret.json"
    secret.write_text("{}")
    (folder / "vocab.json").symlink_to(secret)


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_layers(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.2." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=512)


def unknown_family(folder: Path) -> None:
    change_config(folder, model_type="blorp", architectures=["BlorpForCausalLM"])


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def small_vocabulary(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:10].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, vocab_size=10, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "model.safetensors: holds .* bytes of data where its header declares"),
        (lie, "declares a size for .* that is not the size of its shape"),
        (pickled, "pytorch_model.bin: is in a format that can run code"),
        (own_code, "config.json: asks to run the model's own code"),
        (own_tokenizer_code, "tokenizer_config.json: asks to run the model's own code"),
        (link_outside, "vocab.json: is a link to a place outside"),
        (lose_weights, "has no safetensors weights"),
        (lose_layers, "weights are incomplete: 9 are missing"),
        (other_shape, "not a causal language model we can load"),
        (unknown_family, "not a causal language model we can load"),
        (no_config, "not a causal language model we can load"),
        (small_vocabulary, "tokenizer does not fit the model"),
    ],
)
def test_what_is_refused(folder: Path, tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=words):
        run(tmp_path / "run", "dir:source", inputs={"folder": folder})


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    from project.modeling import loading

    model = get_peft_model(loading.load_base(tiny_base), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"]))
    target = tmp_path_factory.mktemp("adapter") / "adapter"
    model.save_pretrained(target)
    return target


def test_an_adapter_is_checked_against_its_base(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "run", "dir:adapter", inputs={"folder": adapter, "base": tiny_base})
    found = result(done)
    assert (found["kind"], found["facts"]["method"], found["facts"]["settings"]["r"]) == ("adapter", "lora", 4)
    assert found["facts"]["parameters"] == 4 * (4 * 128 + 128 * 4)
    with pytest.raises(UserError, match="This is an adapter") as caught:
        run(tmp_path / "again", "dir:adapter", inputs={"folder": adapter})
    assert caught.value.field == "base"


def test_an_adapter_of_another_base_is_refused(adapter: Path, tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    tensors = load_file(other / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = tensors[name][:, :64].clone()
    save_file(tensors, other / "adapter_model.safetensors")
    with pytest.raises(UserError, match="made for another base model"):
        run(tmp_path / "run", "dir:other", inputs={"folder": other, "base": tiny_base})


def test_a_full_model_has_no_base(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="full model, which has no base"):
        run(tmp_path / "run", "dir:x", inputs={"folder": tiny_base, "base": tiny_base})


def test_a_model_without_a_chat_template_is_taken_with_a_warning(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "chat_template"}))
    done = run(tmp_path / "run", "dir:source", inputs={"folder": folder})
    assert result(done)["facts"]["has_template"] is False
    assert "no chat template" in (tmp_path / "run" / "events.jsonl").read_text()


def test_a_stop_is_obeyed(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "stop_requested", True)
    monkeypatch.setattr(Context, "check_stop", _stop)
    with pytest.raises(StopRequested):
        run(tmp_path / "run", "dir:x", inputs={"folder": tiny_base})


def _stop(self: Context) -> None:
    raise StopRequested


def test_a_package_without_a_model_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no safetensors weights"):
        run(tmp_path / "run", "pip:iniconfig")
    with pytest.raises(UserError, match="'llm-smollm9' is not installed"):
        run(tmp_path / "again", "pip:llm-smollm9")


# --- the Hub


class Hub:
    """A small Hub on loopback: one repository, its files, one commit."""

    sha = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        if path.startswith("/api/models/acme/tiny"):
            if "/revision/" in path and not path.endswith(("/revision/main", "/revision/v1")):
                return self.send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"}, with_body)
            return self.send(request, 200, json.dumps(self.info()).encode(), {}, with_body)
        if path.startswith(f"/acme/tiny/resolve/{self.sha}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            headers = {"X-Repo-Commit": self.sha, "ETag": f'"{hash(content):x}"'}
            return self.send(request, 200, content, headers, with_body)
        code = "GatedRepo" if "gated" in path else "RepoNotFound"
        return self.send(request, 403 if "gated" in path else 404, b"", {"X-Error-Code": code}, with_body)

    def info(self) -> dict[str, Any]:
        files = [{"rfilename": f.name, "size": f.stat().st_size} for f in self.folder.iterdir()]
        return {"id": "acme/tiny", "modelId": "acme/tiny", "sha": self.sha, "siblings": files, "tags": []}

    def send(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], with_body: bool
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")  # hubs have both; only safetensors are fetched
    made = Hub(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    yield made
    made.server.shutdown()


def test_a_repository_of_the_hub_is_pinned_to_a_commit(hub: Hub, tmp_path: Path) -> None:
    done = run(tmp_path / "run", "hub:acme/tiny@v1")
    assert result(done)["revision"] == Hub.sha
    assert result(done)["facts"]["layers"] == 4
    assert not any(path.endswith("pytorch_model.bin") for path in hub.asked)
    assert all(f"/resolve/{Hub.sha}/" in path for path in hub.asked if "/resolve/" in path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hub:acme/nothing", "There is no model acme/nothing on the Hub, or it is private"),
        ("hub:acme/tiny@v9", "acme/tiny has no revision 'v9'"),
        ("hub:acme/gated", "acme/gated is gated"),
    ],
)
def test_what_the_hub_does_not_give(hub: Hub, tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tmp_path / "run", source)


def test_a_repository_with_pickles_only(hub: Hub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no safetensors weights \(it has pytorch_model\.bin\)"):
        run(tmp_path / "run", "hub:acme/tiny")


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be reached from this host") as caught:
        run(tmp_path / "run", "hub:acme/tiny")
    assert "MODEL_DIR_ROOT" in caught.value.hint


# --- sources


@pytest.mark.parametrize(
    "text",
    ["", "smollm", "pip:", "pip:os.path", "pip:../x", "hub:tiny", "hub:a/b/c", "hub:a/../b", "dir:", "hub:a/b@../x"],
)
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(UserError) as caught:
        sources.parse(text)
    assert caught.value.field == "source"


def test_a_misspelt_kind_is_suggested() -> None:
    with pytest.raises(UserError, match="Did you mean 'hub:'"):
        sources.parse("hubb:acme/tiny")


@pytest.mark.parametrize("name", ["..", "../outside", "a/../../outside", "/etc", ".", "link", "a\0b"])
def test_a_folder_outside_the_root_is_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="not inside the folder"):
        sources.folder_below(str(root), name)


def test_a_folder_that_is_not_there_and_no_root_at_all(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    with pytest.raises(UserError, match="Did you mean 'llama'"):
        sources.folder_below(str(tmp_path), "lama")
    with pytest.raises(UserError, match="switched off"):
        sources.folder_below("", "llama")


@pytest.mark.full
def test_the_base_model_that_comes_along(tmp_path: Path) -> None:
    done = run(tmp_path / "run", sources.BASE_PACKAGE)
    found = result(done)
    assert found["kind"] == "full"
    assert found["revision"]
    assert found["facts"]["parameters"] == 134_515_008
    assert found["facts"]["bytes"] < 270_000_000
    assert found["facts"]["has_template"] is True
    assert found["facts"]["context"] == 8192
