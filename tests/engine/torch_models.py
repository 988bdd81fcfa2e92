"""Little models with weights at random, as Hugging Face has them; making them needs the extra ``transformers``."""

from __future__ import annotations

SIZES = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # large enough for one token to be likelier than the others
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'nobody' %}{{ raise_exception('no such role') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_model(path, kind="llama", *, seed=3, **sizes):
    """A model directory; ``kind`` is one of transformers' own."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"] - 4,  # the model's own is larger, as it often is
        special_tokens=["<begin>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEMPLATE * 3, "the water in the penstock turns the turbine " * 9], trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<end>",
        chat_template=TEMPLATE,
    )
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**SIZES, **sizes})
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    whole.save_pretrained(path)
    return path


def write_readable_model(path, **sizes):
    """One that writes letters only, and no halves of others, which every runtime tells in its own way."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_model(path, **sizes)
    model, tokenizer = (each.from_pretrained(path) for each in (AutoModelForCausalLM, AutoTokenizer))
    with torch.no_grad():
        for token, row in enumerate(model.lm_head.weight):
            text = tokenizer.decode([token])
            if not (text.isascii() and text.isprintable()):
                row.zero_()
    model.save_pretrained(path)
    return path
