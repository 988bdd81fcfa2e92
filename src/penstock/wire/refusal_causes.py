"""Why a provider refuses a prompt: it is longer than the model takes, or a filter does not let it through.

For these two another model may answer what this one does not.  Few providers have a code for them; the others say it in
words, of which this is the table, each with an example and the place where it was seen.  What no line fits has no cause,
and is the caller's to mend.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

Cause: TypeAlias = Literal["", "context_length", "content_filter"]
"""Empty: none of those for which another model may do."""

CODE_OF: dict[Cause, str] = {"context_length": "context_length_exceeded", "content_filter": "content_filter"}
"""What a caller's program is told where the provider has no code of its own."""


class Words(msgspec.Struct, frozen=True):
    """In which words a provider says it; ``pattern`` is found anywhere in its message, whatever the case."""

    cause: Cause
    pattern: str
    example: str
    source: str


CODES: dict[str, Cause] = {
    # OpenAI, Azure, Groq, DeepSeek and many that are compatible with them
    "context_length_exceeded": "context_length",
    # Azure, for the prompt; https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter
    "content_filter": "content_filter",
    # OpenAI, for images; https://platform.openai.com/docs/guides/image-generation#content-moderation
    "moderation_blocked": "content_filter",
    "content_policy_violation": "content_filter",
    # llama.cpp's server, as the type of the error; github.com/ggml-org/llama.cpp, tools/server
    "exceed_context_size_error": "context_length",
    # Qwen; https://help.aliyun.com/zh/model-studio/error-code
    "data_inspection_failed": "content_filter",
    "DataInspectionFailed": "content_filter",
}
"""Codes, and types of errors, that say it."""

WORDS: tuple[Words, ...] = (
    Words(
        "context_length",
        r"maximum context length",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 8545 tokens.",
        "OpenAI, DeepSeek, vLLM, OpenRouter, and others in their words",
    ),
    Words(
        "context_length",
        r"exceeds? the context window",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "OpenAI's responses: https://platform.openai.com/docs/guides/error-codes",
    ),
    Words(
        "context_length",
        r"prompt is too long",
        "prompt is too long: 209353 tokens > 199999 maximum",
        "Anthropic: https://github.com/entropy-research/Devon/issues/88",
    ),
    Words(
        "context_length",
        r"exceed context limit",
        "input length and `max_tokens` exceed context limit: 199211 + 20000 > 200000",
        "Anthropic: https://docs.claude.com/en/docs/build-with-claude/context-windows",
    ),
    Words(
        "context_length",
        r"input token count\b.{0,40}\bexceeds the maximum",
        "The input token count (314175) exceeds the maximum number of tokens allowed (131072).",
        "Gemini: https://github.com/google-gemini/gemini-cli/issues/12098",
    ),
    Words(
        "context_length",
        r"input is too long for requested model",
        "Input is too long for requested model.",
        "Bedrock; github.com/badlogic/pi-mono, packages/ai/src/utils/overflow.ts, which quotes it",
    ),
    Words(
        "context_length",
        r"input is too long",
        "Input is too long.",
        "Bedrock, of some of its models",
    ),
    Words(
        "context_length",
        r"maximum prompt length is \d",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "xAI; github.com/badlogic/pi-mono, packages/ai/src/utils/overflow.ts, which quotes it",
    ),
    Words(
        "context_length",
        r"reduce the length of the messages",
        "Please reduce the length of the messages or completion.",
        "Groq; github.com/badlogic/pi-mono, packages/ai/src/utils/overflow.ts, which quotes it",
    ),
    Words(
        "context_length",
        r"too large for model with \d+ maximum",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        "Mistral",
    ),
    Words(
        "context_length",
        r"longer than the model's context length",
        "The input (691793 tokens) is longer than the model's context length (540000 tokens).",
        "SGLang, and who serves with it (Together): github.com/sgl-project/sglang, tokenizer_manager",
    ),
    Words(
        "context_length",
        r"longer than the maximum model length",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "vLLM: github.com/vllm-project/vllm, engine",
    ),
    Words(
        "context_length",
        r"exceeds? the (?:available |model's |maximum )*context|context (?:length|window|size) (?:is )?(?:exceed|of only)",
        "the request exceeds the available context size, try increasing it",
        "llama.cpp: github.com/ggml-org/llama.cpp, tools/server; LM Studio; MiniMax: `context window exceeds limit`",
    ),
    Words(
        "context_length",
        r"input length\b.{0,20}\bexceeds\b.{0,20}\bcontext length",
        "the input length exceeds the context length",
        "Ollama, of embeddings; prompts of chats it cuts without a word: github.com/ollama/ollama, server/routes.go",
    ),
    Words(
        "context_length",
        r"greater than the context length",
        "The number of tokens to keep from the initial prompt is greater than the context length.",
        "LM Studio; github.com/badlogic/pi-mono, packages/ai/src/utils/overflow.ts, which quotes it",
    ),
    Words(
        "context_length",
        r"exceeded model token limit",
        "Invalid request: Your request exceeded model token limit: 8192",
        "Moonshot; github.com/badlogic/pi-mono, packages/ai/src/utils/overflow.ts, which quotes it",
    ),
    Words(
        "context_length",
        r"`inputs`(?: tokens \+ `max_new_tokens`)? must (?:be <=|have less than)",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 and 20",
        "Text Generation Inference: github.com/huggingface/text-generation-inference, router/src/validation.rs",
    ),
    Words(
        "context_length",
        r"prompt token count of \d+ exceeds",
        "prompt token count of 130000 exceeds the limit of 128000",
        "GitHub's models; github.com/badlogic/pi-mono, packages/ai/src/utils/overflow.ts, which quotes it",
    ),
    Words(
        "context_length",
        r"\(\d+\) must be less than max_seq_len",
        "length of prompt_tokens (163280) must be less than max_seq_len (32768).",
        "SiliconFlow: https://github.com/sjzar/chatlog/issues/30",
    ),
    Words(
        "context_length",
        r"range of input length should be",
        "Range of input length should be [1, 30720]",
        "Qwen: https://help.aliyun.com/zh/model-studio/error-code",
    ),
    Words(
        "context_length",
        r"too many tokens: total number of tokens",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081",
        "Cohere: https://docs.cohere.com/reference/errors",
    ),
    Words(
        "context_length",
        r"input tokens exceed the configured limit",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
        "OpenAI; BerriAI/litellm, litellm_core_utils/exception_mapping_utils.py, which lists it",
    ),
    Words(
        "context_length",
        r"current length is \d+ while limit is",
        "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
        "Cerebras; BerriAI/litellm, litellm_core_utils/exception_mapping_utils.py, which lists it",
    ),
    Words(
        "content_filter",
        r"content management policy",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "Azure: https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter",
    ),
    Words(
        "content_filter",
        r"blocked by content filtering policy",
        "Output blocked by content filtering policy",
        "Anthropic: https://docs.claude.com/en/api/errors",
    ),
    Words(
        "content_filter",
        r"content exists risk",
        "Content Exists Risk",
        "DeepSeek, with 400, which its list of errors does not have; as clients that handle it quote it",
    ),
    Words(
        "content_filter",
        r"flagged as potentially violating|(?:as a result of|by) (?:our|the) safety system",
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
        "OpenAI; BerriAI/litellm, litellm_core_utils/exception_mapping_utils.py, which lists it",
    ),
    Words(
        "content_filter",
        r"requires moderation\b.{0,200}\bflagged",
        "Your chosen model requires moderation and your input was flagged for violence.",
        "OpenRouter, with 403: https://openrouter.ai/docs/api-reference/errors",
    ),
    Words(
        "content_filter",
        r"content violates usage guidelines",
        "Content violates usage guidelines.",
        "xAI, with 403; as clients that handle it quote it",
    ),
    Words(
        "content_filter",
        r"may contain inappropriate content",
        "Input or output data may contain inappropriate content.",
        "Qwen: https://help.aliyun.com/zh/model-studio/error-code",
    ),
    Words(
        "content_filter",
        r"rejected because it was considered high risk",
        "The request was rejected because it was considered high risk",
        "Moonshot: https://platform.moonshot.ai/docs/api/errors",
    ),
)
"""The words, by cause."""

_PATTERNS = {
    cause: re.compile("|".join(each.pattern for each in WORDS if each.cause == cause), re.IGNORECASE)
    for cause in CODE_OF
}


def cause_of(code: str, kind: str, message: str) -> Cause:
    """Why a provider refuses; from its error's code, type and message, whichever it has."""
    found = CODES.get(code) or CODES.get(kind)
    if found is not None:
        return found
    for cause, pattern in _PATTERNS.items():
        if pattern.search(message):
            return cause
    return ""
