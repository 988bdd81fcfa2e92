"""What is known of hosted providers: where they are, what their variables and models are called."""

from __future__ import annotations

from typing import Literal

import msgspec


class Provider(msgspec.Struct, frozen=True):
    """One hosted provider; ``models`` are the patterns of names that only it would mean."""

    name: str
    base_url: str
    key_variables: tuple[str, ...]
    models: tuple[str, ...] = ()
    kind: Literal["openai", "anthropic"] = "openai"
    url_variables: tuple[str, ...] = ()
    header_variables: tuple[tuple[str, str], ...] = ()  # (variable, header that carries it)
    responses: bool = False


PROVIDERS = (
    Provider(
        "openai",
        "https://api.openai.com/v1",
        ("OPENAI_API_KEY",),
        (
            *("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "codex-*", "ft:gpt-*", "text-embedding-*"),
            *("whisper-*", "tts-*", "dall-e-*", "omni-moderation-*", "text-moderation-*"),
        ),
        url_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        header_variables=(("OPENAI_ORG_ID", "OpenAI-Organization"), ("OPENAI_PROJECT_ID", "OpenAI-Project")),
        responses=True,
    ),
    Provider(
        "anthropic",
        "https://api.anthropic.com",
        ("ANTHROPIC_API_KEY",),
        ("claude-*",),
        kind="anthropic",
        url_variables=("ANTHROPIC_BASE_URL",),
    ),
    Provider(
        "deepseek",
        "https://api.deepseek.com/v1",
        ("DEEPSEEK_API_KEY",),
        ("deepseek-*",),
        url_variables=("DEEPSEEK_BASE_URL",),
    ),
    Provider(
        "mistral",
        "https://api.mistral.ai/v1",
        ("MISTRAL_API_KEY",),
        (
            "mistral-*",
            "codestral-*",
            "ministral-*",
            "magistral-*",
            "devstral-*",
            "pixtral-*",
            "open-mistral-*",
            "open-mixtral-*",
        ),
        url_variables=("MISTRAL_BASE_URL",),
    ),
    Provider(
        "qwen",
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        ("DASHSCOPE_API_KEY",),
        ("qwen*", "qwq-*", "qvq-*"),
        url_variables=("DASHSCOPE_BASE_URL",),
    ),
    Provider(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        ("gemini-*",),
        url_variables=("GEMINI_BASE_URL",),
    ),
    Provider(
        "groq",
        "https://api.groq.com/openai/v1",
        ("GROQ_API_KEY",),
        url_variables=("GROQ_BASE_URL",),
    ),
    Provider(
        "openrouter",
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_KEY",),
        url_variables=("OPENROUTER_BASE_URL",),
    ),
    Provider("xai", "https://api.x.ai/v1", ("XAI_API_KEY",), ("grok-*",), url_variables=("XAI_BASE_URL",)),
    Provider(
        "moonshot",
        "https://api.moonshot.ai/v1",
        ("MOONSHOT_API_KEY",),
        ("kimi-*", "moonshot-*"),
        url_variables=("MOONSHOT_BASE_URL",),
    ),
    Provider(
        "perplexity",
        "https://api.perplexity.ai",
        ("PERPLEXITY_API_KEY", "PERPLEXITYAI_API_KEY"),
        ("sonar*",),
        url_variables=("PERPLEXITY_BASE_URL",),
    ),
    Provider(
        "together",
        "https://api.together.xyz/v1",
        ("TOGETHER_API_KEY", "TOGETHERAI_API_KEY"),
        url_variables=("TOGETHER_BASE_URL",),
    ),
    Provider(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"),
        ("accounts/fireworks/*",),
        url_variables=("FIREWORKS_BASE_URL",),
    ),
    Provider(
        "cerebras",
        "https://api.cerebras.ai/v1",
        ("CEREBRAS_API_KEY",),
        url_variables=("CEREBRAS_BASE_URL",),
    ),
    Provider(
        "nvidia",
        "https://integrate.api.nvidia.com/v1",
        ("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY"),
        url_variables=("NVIDIA_BASE_URL",),
    ),
)

DEFAULT_BASE_URLS = {
    "openai": PROVIDERS[0].base_url,
    "anthropic": PROVIDERS[1].base_url,
    "sim": "",
    "local": "",
    "triton": "http://127.0.0.1:8001",  # its gRPC port
    "bedrock": "",  # the region stands in it
    "vertex": "",  # the project, too
}
"""Where an upstream of each kind is, when the configuration does not say."""

_OPENAI_COMPATIBLE = frozenset(
    {"azure", "llama.cpp", "llamacpp", "lmstudio", "ollama", "sglang", "tgi", "vllm"}
)


def how_to_ask(name: str) -> str:
    """What ``kind`` and ``base_url`` an upstream has that somebody calls by its own name; empty: nobody knows."""
    for provider in PROVIDERS:
        if provider.name == name.lower():
            return f" ({name} is of kind {provider.kind}, with base_url {provider.base_url})"
    return f" ({name} is of kind openai, with a base_url)" if name.lower() in _OPENAI_COMPATIBLE else ""
