"""The gRPC door of imports: protobuf in, protobuf out; files are worked on behind it."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from troika.touchpoints.v1 import imports_service_pb2 as pb
from troika.touchpoints.v1.imports_service_pb2_grpc import ImportServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.moments import stamp
from chassis.rpc import caller_of
from services.touchpoints.imports import jobs, observing
from services.touchpoints.imports.files import ImportFiles
from services.touchpoints.imports.jobs import Job

Context = grpc.aio.ServicerContext[Any, Any]

_STATES: Final = {
    jobs.QUEUED: pb.IMPORT_STATE_QUEUED,
    jobs.RUNNING: pb.IMPORT_STATE_RUNNING,
    jobs.DONE: pb.IMPORT_STATE_DONE,
    jobs.FAILED: pb.IMPORT_STATE_FAILED,
    jobs.CANCELLED: pb.IMPORT_STATE_CANCELLED,
    jobs.INTERRUPTED: pb.IMPORT_STATE_INTERRUPTED,
}


class ImportsRpc(ImportServiceServicer):
    """Queues imports, tells what became of them, stops them."""

    def __init__(self, database: Database, files: ImportFiles) -> None:
        self._database, self._files = database, files

    async def StartImport(self, request: pb.StartImportRequest, context: Context) -> pb.StartImportResponse:
        """Raises InvalidArgument for the mapping with line and column, NotFound or FailedPrecondition for file and source."""
        observing.plan(request.mapping, request.path)
        place = await asyncio.to_thread(self._files.of_store, request.path)
        async with self._database.transaction() as uow:
            await jobs.source_named(uow, request.source)
            job = await jobs.add(
                uow,
                source=request.source,
                place=place,
                file_name=request.path,
                mapping=request.mapping,
                dry_run=request.dry_run,
                caller=caller_of(context),
                own=False,
            )
        return pb.StartImportResponse(**{"import": import_message(job)})

    async def GetImport(self, request: pb.GetImportRequest, context: Context) -> pb.GetImportResponse:
        """Raises NotFound."""
        async with self._database.read() as uow:
            job = await jobs.get(uow, request.import_id)
        return pb.GetImportResponse(**{"import": import_message(job)})

    async def ListImports(self, request: pb.ListImportsRequest, context: Context) -> pb.ListImportsResponse:
        """Goes on behind the number of the last one shown."""
        size = paging.size(request.page_size, 100, 1000)
        (before,) = paging.read("imports", request.page_token, (paging.BIGINT_MAX,))
        async with self._database.read() as uow:
            found = await jobs.page(uow, before, size)
        return pb.ListImportsResponse(
            imports=[import_message(job) for job in found],
            next_page_token=paging.token("imports", found[-1].id) if len(found) == size else "",
        )

    async def ListImportErrors(self, request: pb.ListImportErrorsRequest, context: Context) -> pb.ListImportErrorsResponse:
        """Goes on behind the last line shown. Raises NotFound."""
        size = paging.size(request.page_size, 1000, 10_000)
        listing = f"errors of import {request.import_id}"
        (line,) = paging.read(listing, request.page_token, (-1,))
        async with self._database.read() as uow:
            await jobs.get(uow, request.import_id)
            found = await jobs.faults_page(uow, request.import_id, line, size)
        return pb.ListImportErrorsResponse(
            errors=[pb.ImportError(line=f.line, field=f.field, reason=f.reason) for f in found],
            next_page_token=paging.token(listing, found[-1].line) if len(found) == size else "",
        )

    async def CancelImport(self, request: pb.CancelImportRequest, context: Context) -> pb.CancelImportResponse:
        """Raises NotFound. What has ended stays as it ended."""
        async with self._database.transaction() as uow:
            job = await jobs.cancel(uow, request.import_id)
        return pb.CancelImportResponse(**{"import": import_message(job)})


def import_message(job: Job) -> pb.Import:
    """An import as protobuf."""
    return pb.Import(
        import_id=job.id,
        source=job.source,
        file=job.file_name,
        file_sha256=job.file_sha256.hex() if job.file_sha256 else "",
        state=_STATES[job.state],
        reason=job.reason,
        message=job.message,
        dry_run=job.dry_run,
        lines=job.lines,
        lines_done=job.lines_done,
        taken=job.taken,
        refused=job.refused,
        sample_json=job.sample,
        create_time=stamp(job.created_at),
        caller=job.caller,
    )
