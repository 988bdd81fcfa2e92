"""What callers do with a store of uploads."""

from penstock.upload.asked import MAX_BLOCK, Concat, UploadDialect
from penstock.upload.index import Upload, new_upload_id
from penstock.upload.offsets import Phase


async def new_upload(
    store,
    owner="t",
    *,
    name=None,
    length=None,
    max_size=1 << 30,
    fingerprint="",
    concat=Concat.NONE,
    parent="",
):
    upload = Upload(
        new_upload_id(), owner, UploadDialect.RUFH, b"", store.now(), store.now() + store.kept_for, max_size,
        length, 0, Phase.OPEN, 0, name, fingerprint, concat, "", parent,
    )  # fmt: skip
    return (await store.create(upload))[0]


async def send(store, upload, offset, content, *, closes=False, digest=None, step=100_000):
    _, writer = await store.append(upload.owner, upload.id, lambda: None)
    try:
        writer.offsets.begin(offset, closes=closes)
        writer.expect(digest, MAX_BLOCK)
        for start in range(0, len(content), step):
            await writer.write(content[start : start + step])
        return await writer.finish()
    finally:
        await writer.close()


async def content_of(store, upload):
    return b"".join([piece async for piece in store.pieces(upload.id)])
