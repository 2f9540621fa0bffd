"""A random, very small Llama with its own tokenizer and chat template: a real model folder, made in a moment.

For tests and for the demo in CI. It knows nothing, but it loads, trains, generates and serves like any other.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 512  # as many as the corpus yields: every id the model can utter has a text
CONTEXT = 512
_SPECIAL = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",  # not the end token: padding has no embedding, an adapter could not learn to say it
    "unk_token": "<|endoftext|>",
}

_CORPUS = (
    "A detector reports what it found: a key in a commit, a card number in a log, an address in a form.",
    "The model answers with a category, a subcategory and a band of confidence, as one line of JSON.",
    '{"category":"secret","subcategory":"api_key","confidence":"high"}',
    '{"category":"pii","subcategory":"email_address","confidence":"medium"}',
    "system user assistant tool question answer what where when who why how much how many please thank you",
    "The quick brown fox jumps over the lazy dog while twelve numbers go by: 0 1 2 3 4 5 6 7 8 9 10 11.",
    "Training rows have a prompt and a completion, and only the completion is learned.",
    "Paris is the capital of France, Berlin of Germany, Rome of Italy, and Madrid of Spain.",
)


def make_tiny_model(folder: Path, *, seed: int = 0, template: bool = True) -> Path:
    """Write a random Llama (4 layers, width 128, vocabulary 512, context 512, fp32) into `folder` and return it.

    The same `seed` gives the same weights. `template=False` leaves the chat template out. All widths are multiples of
    64, because 4-bit kernels need that on a CPU.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(template)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.1,  # strong layers: with the usual 0.02 it would repeat its last token for ever
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(template: bool) -> "PreTrainedTokenizerBase":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **_SPECIAL,
        model_max_length=CONTEXT,
    )
    if template:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
