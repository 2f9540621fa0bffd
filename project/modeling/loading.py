"""Loading a base model, its tokenizer and adapters from checked folders. Nothing is fetched, no code is run."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from project.contracts.runs import UserError
from project.modeling import weights

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]
Bits = Literal[4, 8]
BLOCK = 64  # widths that 4-bit kernels can take are multiples of this


class ModelFacts(BaseModel):
    """What a model folder says about itself, read without loading it. `context` in tokens, `bytes` of weights."""

    model_config = ConfigDict(frozen=True)

    family: str
    layers: int = Field(ge=0)
    hidden_size: int = Field(ge=0)
    heads: int = Field(ge=0)
    vocabulary: int = Field(ge=0)
    context: int = Field(ge=0)
    parameters: int = Field(ge=0)
    bytes: int = Field(ge=0)
    dtype: str
    has_template: bool


def describe(folder: Path) -> ModelFacts:
    """Facts of a full model, from its config and the headers of its weights. Raises UserError for another folder."""
    config = _json(folder / "config.json")
    text: dict[str, Any] = config.get("text_config") or config
    tensors = list(weights.tensors(folder))
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.count
    return ModelFacts(
        family=str(config.get("model_type", "unknown")),
        layers=_number(text, "num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=_number(text, "hidden_size", "n_embd", "d_model"),
        heads=_number(text, "num_attention_heads", "n_head", "num_heads"),
        vocabulary=_number(text, "vocab_size"),
        context=_number(text, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        parameters=sum(sizes.values()),
        bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        dtype=_DTYPES.get(max(sizes, key=lambda name: sizes[name], default=""), "unknown"),
        has_template=_has_template(folder),
    )


def fast_dtype(device: str) -> Dtype:
    """The number format in which `device` computes a frozen model fastest.

    bfloat16 on a GPU and on CPUs that multiply it in hardware. On other CPUs it is emulated, about nine times slower
    than float32 (measured on AVX2).
    """
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"


def load_tokenizer(base: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder, with a padding token. Raises UserError."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The model's tokenizer can't be loaded: {error}", field="base") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    base: Path,
    *,
    device: str = "cpu",
    dtype: Dtype = "float32",
    attention: str | None = None,
    bits: Bits | None = None,
) -> "PreTrainedModel":
    """A causal language model in evaluation mode on `device`, in `dtype` whatever it was saved in. Raises UserError.

    `attention` is the name of an attention implementation of transformers, built in or registered; None takes the best
    that the architecture has. `bits` holds the linear layers in 8 or 4 bits (bitsandbytes; 4 is NF4 with double
    quantisation) and computes in `dtype`.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a log file is no terminal
    weights.check_folder(base)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            str(base),
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            **({} if bits is None else _quantised(bits, dtype, device)),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The model can't be loaded: {error}", field="base") from error
    restore_cache(model)
    if bits is None:
        model.to(device)
    else:
        _check_quantised(model)
    return model.eval()


def _quantised(bits: Bits, dtype: Dtype, device: str) -> dict[str, Any]:
    import logging

    import torch
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # warns at every product
    number = getattr(torch, dtype)
    config = BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=number,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _check_quantised(model: "PreTrainedModel") -> None:
    """Raise UserError for widths that can't be held in 4 bits, and keep weights as they were saved.

    On CPUs with bfloat16 instructions bitsandbytes lays weights out anew at the first forward in evaluation mode: what
    follows is another computation, and a checkpoint saved after it may hold garbage.
    """
    for name, module in model.named_modules():
        if getattr(module, "quant_state", None) is not None or hasattr(module, "support_avx512bf16_for_cpu"):
            width = getattr(module, "in_features", BLOCK)
            if width % BLOCK:
                raise UserError(
                    f"Weights in 4 bits need widths that are multiples of {BLOCK}; {name} has {width}.",
                    hint="Leave bits empty, or choose 8.",
                    field="method.bits",
                )
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_adapter(model: "PreTrainedModel | PeftModel", adapter: Path, name: str) -> "PeftModel":
    """Put the adapter in the folder `adapter` on `model` as `name`, beside those already there. Raises UserError."""
    from peft import PeftModel

    weights.check_folder(adapter)
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter.name} is not an adapter: it has no adapter_config.json.", field="adapter")
    _check_fit(model, adapter)
    device = str(model.device)
    try:
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, str(adapter), adapter_name=name, torch_device=device).eval()
        model.load_adapter(str(adapter), adapter_name=name, torch_device=device)
    except RuntimeError as error:
        if "size mismatch" in str(error):
            raise _foreign("its weights have other sizes") from error
        raise
    return model.eval()


def restore_cache(model: "PreTrainedModel") -> None:
    """Switch the key-value cache on again: trainers switch it off and save that, and serving would crawl."""
    model.config.use_cache = True
    if model.generation_config is not None:
        model.generation_config.use_cache = True


def _check_fit(model: "PreTrainedModel | PeftModel", adapter: Path) -> None:
    """Raise UserError for an adapter of another base, before PEFT has put half of it into this one."""
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    opening = opening_widths(base)
    widths = {
        name.replace(".base_layer", ""): (module.out_features, module.in_features)
        for name, module in base.named_modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    }
    for tensor in weights.tensors(adapter):
        if tensor.name == "prompt_embeddings" and tensor.shape[-1] not in opening:
            raise _foreign(f"it puts vectors of {tensor.shape[-1]} before every row")
        name, _, part = tensor.name.removeprefix("base_model.model.").partition(".lora_")
        if not part.startswith(("A.", "B.")):
            continue
        shape = widths.get(name)
        side = 1 if part.startswith("A.") else 0  # A reads what the layer reads, B writes what it writes
        if shape is None or shape[side] != tensor.shape[side]:
            what = "has no such layer" if shape is None else f"has width {shape[side]} there"
            raise _foreign(f"it changes {name} {tensor.shape}, this model {what}")


def opening_widths(base: "PreTrainedModel") -> tuple[int, int]:
    """How wide a learned position before a row is in this model: as an embedding, and as keys and values."""
    text = base.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return text.hidden_size, 2 * text.num_hidden_layers * heads * head


def _foreign(why: str) -> UserError:
    return UserError(
        f"The adapter was made for another base model: {why}.",
        hint="Choose the base model that the adapter was trained on.",
        field="adapter",
    )


_DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16", "U8": "uint8", "I8": "int8"}


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file.parent.name} is not a model folder: it has no readable {file.name}.", field="model")
    return content


def _number(config: dict[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(_json(file).get("chat_template"))
