"""Does the folder hold a model that will work? Found out without loading its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from project.contracts.chat import Message
from project.contracts.runs import UserError
from project.modeling import loading, render, weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROMPT = [Message(role="user", content="Is anybody there?")]


def full_model(folder: Path) -> list[str]:
    """Raise UserError unless the weights fill the architecture exactly and the tokenizer fits; returns warnings.

    The model is built on torch's meta device, so that names and shapes are compared and no weight is read.
    """
    warnings = []
    model = skeleton(folder)
    tokenizer = loading.load_tokenizer(folder)
    ids = tokenizer.encode(_PROMPT[0].content)
    if getattr(tokenizer, "chat_template", None):
        ids = render.prompt_ids(tokenizer, _PROMPT)
    else:
        warnings.append("The model has no chat template: it can be trained on prompt and completion rows only.")
    rows = model.get_input_embeddings().weight.shape[0]
    if not ids or max(ids) >= rows:
        raise UserError(
            f"The tokenizer does not fit the model: it uses token {max(ids, default=0)}, the model knows {rows}.",
            hint="Import the tokenizer that belongs to these weights.",
            field="source",
        )
    return warnings


def adapter(folder: Path, base: Path) -> None:
    """Raise UserError unless every layer that the adapter changes exists in the base, in the same width."""
    from peft import PeftConfig, PeftModel

    model = skeleton(base)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        wrapped = PeftModel(model, config, adapter_name="default")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"The adapter does not fit this base model: {error}", field="base") from error
    wanted = {_plain(name): tuple(tensor.shape) for name, tensor in wrapped.state_dict().items()}
    for tensor in weights.tensors(folder):
        name = _plain(tensor.name)
        if tensor.name == "prompt_embeddings":  # PEFT believes the width that the adapter's config names
            fits = tensor.shape[-1] in loading.opening_widths(model)
        else:
            fits = _is_part(tensor.shape, wanted.get(name) or wanted.get(f"{name}.weight"), name)
        if not fits:
            raise UserError(
                f"The adapter was made for another base model: '{tensor.name}' does not fit.",
                hint="Choose the base model that the adapter was trained on.",
                field="base",
            )


def _is_part(shape: tuple[int, ...], whole: tuple[int, ...] | None, name: str) -> bool:
    """Is it the tensor the base has there? AdaLoRA leaves out ranks: rows of A, columns of B."""
    if whole is None or len(shape) != len(whole):
        return False
    if name.endswith("lora_A") or name.endswith("lora_E"):
        return shape[1:] == whole[1:] and shape[0] <= whole[0]
    if name.endswith("lora_B"):
        return shape[:1] == whole[:1] and shape[1] <= whole[1]
    return shape == whole


def skeleton(folder: Path) -> "PreTrainedModel":
    """The model without its weights. Raises UserError when a weight is missing, of another shape, or nobody's."""
    import torch
    from transformers import AutoModelForCausalLM

    weights.check_folder(folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.bfloat16,
            device_map="meta",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"This is not a causal language model we can load: {_first_line(error)}", field="source"
        ) from error
    if found["missing_keys"]:
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(
            f"The weights are incomplete: {len(found['missing_keys'])} are missing, for example {some}.",
            hint="Copy the model again, all of its safetensors files.",
            field="source",
        )
    return model


def _plain(name: str) -> str:
    """A parameter's name without the adapter's name in it."""
    return name.replace(".default.", ".").removesuffix(".default")


def _first_line(error: Exception) -> Any:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
