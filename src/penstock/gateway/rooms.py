"""What is kept for callers is put together: files, batches, uploads, blocks, and the rooms in which they are asked for."""

from __future__ import annotations

from collections.abc import Callable

from penstock.batches.runner import Runner
from penstock.config.model import Config
from penstock.gateway import parts
from penstock.gateway.kept.batches import OpenAIBatchRoom
from penstock.gateway.kept.blocks import BlockRoom
from penstock.gateway.kept.by_path import Kept
from penstock.gateway.kept.files import FileRoom
from penstock.gateway.kept.in_pieces import InPieces
from penstock.gateway.kept.message_batches import MessageBatchRoom
from penstock.gateway.kept.told_files import ToldFiles
from penstock.gateway.kept.upload_parts import PartsRoom
from penstock.gateway.kept.uploads import Answer, UploadRoom
from penstock.net.clock import Clock
from penstock.upload.files import FileStore
from penstock.upload.uploads import UploadStore


class Rooms:
    """All of it; nothing, where the configuration names no directory.

    :param runner: makes of the files what runs batches
    :param answer: answers a call that came in pieces
    :ivar kept: the rooms by their paths
    :ivar pieces: who takes what is not sent whole; None: nobody
    :raises penstock.errors.ConfigError: an extra is missing, or a store cannot be used as it is configured
    """

    def __init__(
        self, config: Config, clock: Clock, runner: Callable[[FileStore], Runner], answer: Answer
    ) -> None:
        self.kept = Kept({})
        self.pieces: InPieces | None = None
        self.files = parts.file_store(config)
        self.uploads = parts.upload_store(config)
        self.batches: Runner | None = None
        self._told_files: ToldFiles | None = None
        self._clock = clock
        if self.files is not None and self.uploads is not None:
            self.batches = runner(self.files)
            self._furnish(config, self.files, self.uploads, self.batches, answer)

    def _furnish(
        self, config: Config, files: FileStore, uploads: UploadStore, batches: Runner, answer: Answer
    ) -> None:
        file_room = FileRoom(files)
        upload_room = UploadRoom(uploads, files, file_room, answer, config)
        self._told_files = ToldFiles(uploads, files, config.files.max_file_bytes)
        block_room = BlockRoom(uploads, self._told_files, answer, config.listener.max_body_bytes)
        self.pieces = InPieces(upload_room, block_room)
        self.kept = Kept(
            {
                "/v1/files": file_room,
                "/v1/batches": OpenAIBatchRoom(batches, config.batches),
                "/v1/messages/batches": MessageBatchRoom(batches, config.batches),
                "/v1/uploads": PartsRoom(uploads, files, upload_room),
                "/v1/blocks": block_room,
            }
        )

    def __repr__(self) -> str:
        return f"<Rooms {self.kept}>"

    async def open(self) -> None:
        """Find what is there, or make the places where it shall be.

        :raises penstock.errors.ConfigError: what is kept on disk cannot be
        """
        if self.files is not None:
            await self.files.start()
        if self.uploads is not None:
            await self.uploads.start()
            self._clock.add(self.uploads)

    async def start(self) -> None:
        """Go on with the batches that are there; whoever is told of their ends can be."""
        if self.batches is not None:
            await self.batches.start()

    def stop(self) -> None:
        """Begin with no further line of a batch."""
        if self.batches is not None:
            self.batches.stop()

    async def close(self) -> None:
        """What is under way has ended: let go of all stores."""
        if self.batches is not None:
            await self.batches.close()
        if self._told_files is not None:
            await self._told_files.close()
        if self.files is not None:
            await self.files.close()
        if self.uploads is not None:
            self._clock.remove(self.uploads)
            await self.uploads.close()
