"""Partners' files and uploads in a bucket of a real S3-compatible server."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from services.tags.imports import jobs, mapping
from services.tags.imports.files import ImportFiles
from services.tags.imports.running import Importer
from services.tags.settings import Settings
from tests.integration.tags.importing import MOBILES, RULES, Partnered, line
from tests.integration.tags.test_lake_s3 import ACCESS, BUCKET, SECRET, bucket
from tests.unit.tags.imports.catalogue import CATALOGUE, HEAD, MAPPING

__all__ = ["bucket"]


async def test_a_file_and_an_upload_in_a_bucket_are_taken_in(both: Partnered, bucket: str) -> None:
    await both.customers(20)
    files = ImportFiles.of(
        Settings.model_construct(
            import_store=f"s3://{BUCKET}/imports",
            lake_s3_endpoint=bucket,
            lake_s3_access_key=SecretStr(ACCESS),
            lake_s3_secret_key=SecretStr(SECRET),
        )
    )
    content = "\n".join([HEAD, *(line(MOBILES[n], "3") for n in range(20))]).encode()
    for start in range(0, len(content), 900):
        size = files.keep_part("upload-1", start, content[start : start + 900])
    assert len(content) == size
    files.keep_part("upload-2", 0, content.replace(b",3,", b",2,"))
    for source in (files.of_upload("upload-1"), files.of_upload("upload-2")):
        async with both.database.transaction() as uow:
            job = await jobs.add(
                uow,
                mapping.parse(MAPPING, CATALOGUE),
                text=MAPPING,
                source=source,
                file_name="june.csv",
                dry_run=False,
                caller="operator",
                own=True,
            )
        await Importer(both.database, RULES, both.matcher, files).work(job)
        done = await both.job(job.id)
        assert (jobs.DONE, 20, "") == (done.state, done.counts.matched, done.reason)
        with pytest.raises(FileNotFoundError):
            files.open(source)
    with pytest.raises(Exception, match="no such file in the import store"):
        files.of_store("june.csv")
