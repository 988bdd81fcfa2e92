"""The gateway inside a FastAPI application, beside its own routes.

Start it, and ask it for its models::

    uvicorn --app-dir examples mounted_in_fastapi:app --port 8000
    curl http://127.0.0.1:8000/llm/v1/models
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from penstock.asgi import create_app

gateway = create_app(Path(__file__).with_name("sim.yaml"))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await gateway.start()  # else it begins with its first request
    yield
    await gateway.close()  # lets answers under way end, then writes the ledger's last rows


app = FastAPI(lifespan=lifespan)
app.mount("/llm", gateway)


@app.get("/")
def index() -> dict[str, str]:
    return {"llm": "base URL of OpenAI's SDK: /llm/v1, of Anthropic's: /llm"}
