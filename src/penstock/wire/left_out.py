"""What a translation leaves out without a word, and why it may.

The rule: what cannot be translated is refused.  These are the exceptions; none of them can change the
text, the calls or the cost class of the answer that the caller asked for.  Everything else that has no
counterpart raises ``Untranslatable``.
"""

from __future__ import annotations

CHAT_REQUEST = {
    "prompt_cache_options": "a cache changes cost and delay, never the answer",
    "prompt_cache_retention": "a cache changes cost and delay, never the answer",
    "prediction": "speeds an answer up, does not change it",
}
"""Members of a chat completion's body."""

CHAT_STREAM_OPTIONS = {
    "include_obfuscation": "pads frames so that their length tells nothing",
    "continuous_usage_stats": "usage in each chunk (vLLM); the last one tells the same",
}

CHAT_MESSAGE = {
    "annotations": "what a provider's search added to its own answer, sent back with the history",
    "parsed": "the SDK's own reading of the content that stands beside it",
}
"""Members of an assistant message of a chat completion."""

CHAT_TOOL_MESSAGE = {"name": "the call's id already says which tool it was"}

CHAT_PART = {"prompt_cache_breakpoint": "a cache changes cost and delay, never the answer"}
"""Members of a content part of a chat completion."""

CHAT_TOOL_CALL = {"index": "left over from a stream; the order of the calls says the same"}

MESSAGES_REQUEST = {
    "cache_control": "a cache changes cost and delay, never the answer",
    "diagnostics": "asks why a cache missed",
    "workspace_id": "whose bill at Anthropic; the gateway has its own credentials",
    "user_profile_id": "whose bill at Anthropic; the gateway has its own credentials",
}
"""Members of a Messages body."""

MESSAGES_TOOL = {
    "eager_input_streaming": "how arguments are cut into frames",
}
"""Members of a tool of a Messages body."""

NEUTRAL_TO_ANTHROPIC = {
    "prompt_cache_key": "a cache changes cost and delay, never the answer",
    "metadata": "labels for the provider's own dashboard",
    "user": "over 256 characters Anthropic takes none; serves to find abusers",
    "output.name": "a label of the schema",
    "output.strict": "Anthropic always holds to the schema, which is what strict asks for at most",
    "image.detail": "auto, high, original: Anthropic always looks at the whole image; low is refused",
    "verbosity": "medium is the default of models that know the setting; others are refused",
    "service_tier": "auto is the default",
    "temperature": "1 is the default, and models since Opus 4.7 refuse that it be said",
    "top_p": "1 is the default, and models since Opus 4.7 refuse that it be said",
    "thinking": "reasoning without a signature, another model's, is accepted by no Anthropic model; "
    "providers themselves drop past reasoning from their prompts",
}
"""Parts of the neutral form that an Anthropic request does not carry."""

NEUTRAL_TO_CHAT = {
    "cache": "a cache changes cost and delay, never the answer; OpenAI's works without marks",
    "metadata": "labels for the provider's own dashboard",
    "user": "over 64 characters OpenAI takes none; serves to find abusers",
    "prompt_cache_key": "sent to OpenAI's own models only: strict servers refuse what they do not know",
    "service_tier": "auto is the default",
    "citations": "of past answers: where a sentence came from, not what it says",
}
"""Parts of the neutral form that a chat completion's request does not carry."""

NEUTRAL_TO_CONVERSE = {
    "cache": "towards models that keep no prompts: they would refuse the mark, and a cache never changes the answer",
    "prompt_cache_key": "a cache changes cost and delay, never the answer",
    "metadata": "labels for the provider's own dashboard",
    "user": "serves to find abusers, and Converse has no place for it",
    "output.strict": "Converse always holds to the schema, which is what strict asks for at most",
    "image.detail": "auto, high, original: Converse has nothing like it; low is refused",
    "verbosity": "medium is the default of models that know the setting; others are refused",
    "service_tier": "auto is the default",
    "citations": "of past answers: where a sentence came from, not what it says",
    "thinking": "past reasoning without a signature is refused by some models and dropped by the others; and that a "
    "model shall not think, for those that have to be told to think (Anthropic's are told)",
}
"""Parts of the neutral form that a request to Converse does not carry."""
