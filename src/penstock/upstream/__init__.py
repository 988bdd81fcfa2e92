"""Who answers: whatever speaks OpenAI's or Anthropic's API over HTTP, local models among them, and Triton."""
