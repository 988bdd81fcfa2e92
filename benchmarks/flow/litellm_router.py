"""LiteLLM's router behind a socket: run by an interpreter that has LiteLLM, for ``benchmarks.flow.overload``.

A connection is a call: a line of JSON with ``content`` and ``priority`` comes in, ``first`` goes out with the first piece
of text, ``done`` with the end, ``failed`` and why otherwise.  Closing the connection cancels the call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

import litellm


def main() -> None:
    """Arguments: the port to listen on, the upstream's, and how many calls it gets at once; 0: as many as come."""
    port, upstream, places = map(int, sys.argv[1:])
    litellm.suppress_debug_info = True
    parameters = {
        "model": "openai/m",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "sk-upstream",
    }
    if places:
        parameters["max_parallel_requests"] = places
    router = litellm.Router(
        model_list=[{"model_name": "m", "litellm_params": parameters}],
        num_retries=10 if places else 0,
        timeout=600,
        disable_cooldowns=True,
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        answering = asyncio.ensure_future(answer(asked, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (answering, leaving):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering
        writer.close()

    async def answer(asked: dict[str, object], writer: asyncio.StreamWriter) -> None:
        first = True
        try:
            stream = await router.acompletion(
                model="m",
                messages=[{"role": "user", "content": asked["content"]}],
                stream=True,
                priority=asked["priority"],
            )
            async for chunk in stream:
                if first and chunk.choices and chunk.choices[0].delta.content:
                    first = False
                    writer.write(b"first\n")
        except Exception as error:
            writer.write(f"failed {type(error).__name__}\n".encode())
        else:
            writer.write(b"done\n")

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port, limit=2**20)
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(run())


if __name__ == "__main__":
    main()
