"""The gRPC door of imports: protobuf in, protobuf out; files are worked on behind it."""

# ruff: noqa: N802  (methods bear the names of the contract)

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from troika.tags.v1 import import_service_pb2 as pb
from troika.tags.v1.import_service_pb2_grpc import ImportServiceServicer

from chassis import paging
from chassis.db import Database
from chassis.errors import InvalidArgument
from chassis.rpc import caller_of
from services.tags import events
from services.tags.domain.catalogue import Kind
from services.tags.handlers import TagRules
from services.tags.imports import jobs, mapping, provenance
from services.tags.imports.files import ImportFiles
from services.tags.imports.jobs import Job

Context = grpc.aio.ServicerContext[Any, Any]

_STATES: Final = {
    jobs.QUEUED: pb.IMPORT_STATE_QUEUED,
    jobs.RUNNING: pb.IMPORT_STATE_RUNNING,
    jobs.DONE: pb.IMPORT_STATE_DONE,
    jobs.FAILED: pb.IMPORT_STATE_FAILED,
    jobs.UNDOING: pb.IMPORT_STATE_UNDOING,
    jobs.UNDONE: pb.IMPORT_STATE_UNDONE,
}


class ImportsRpc(ImportServiceServicer):
    """Stores uploads, queues imports, tells what became of them."""

    def __init__(self, database: Database, rules: TagRules, files: ImportFiles) -> None:
        self._database, self._rules, self._files = database, rules, files

    async def UploadPart(self, request: pb.UploadPartRequest, context: Context) -> pb.UploadPartResponse:
        """Raises FailedPrecondition without an import store."""
        size = await asyncio.to_thread(self._files.keep_part, request.upload_id, request.offset, request.content)
        return pb.UploadPartResponse(size=size)

    async def StartImport(self, request: pb.StartImportRequest, context: Context) -> pb.StartImportResponse:
        """Raises InvalidArgument for the mapping with line and column, NotFound or FailedPrecondition for the file."""
        plan = mapping.parse(request.mapping, self._rules.catalogue)
        if request.WhichOneof("source") == "path":
            source, name = await asyncio.to_thread(self._files.of_store, request.path), request.file_name or request.path
        else:
            if not request.file_name:
                raise InvalidArgument("an upload needs the name of its file", reason="FILE_NAME_MISSING", field="file_name")
            source, name = await asyncio.to_thread(self._files.of_upload, request.upload_id), request.file_name
        async with self._database.transaction() as uow:
            job = await jobs.add(
                uow,
                plan,
                text=request.mapping,
                source=source,
                file_name=name,
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
        """Goes on behind the last line shown; a page ends with a whole line."""
        size = paging.size(request.page_size, 1000, 10_000)
        listing = f"errors of import {request.import_id}"
        (line,) = paging.read(listing, request.page_token, (-1,))
        async with self._database.read() as uow:
            await jobs.get(uow, request.import_id)
            found = await jobs.faults_page(uow, request.import_id, line, size)
        return pb.ListImportErrorsResponse(
            errors=[pb.ImportError(line=f.line, column=f.column, reason=f.reason) for f in found],
            next_page_token=paging.token(listing, found[-1].line) if len(found) >= size else "",
        )

    async def UndoImport(self, request: pb.UndoImportRequest, context: Context) -> pb.UndoImportResponse:
        """Raises NotFound. What was undone stays so."""
        async with self._database.transaction() as uow:
            await jobs.get(uow, request.import_id)
            job = await jobs.undo(uow, request.import_id)
        return pb.UndoImportResponse(**{"import": import_message(job)})

    async def ListImportedFacts(self, request: pb.ListImportedFactsRequest, context: Context) -> pb.ListImportedFactsResponse:
        """Empty for entities that no partner said anything of."""
        kind = Kind(request.entity_kind)
        async with self._database.read() as uow:
            found = await provenance.facts_of(uow, self._rules, kind, request.entity_id)
        answer = pb.ListImportedFactsResponse()
        for fact in found:
            line = answer.facts.add(
                tag=fact.tag,
                value=events.to_value(fact.value),
                partner=fact.partner,
                import_id=fact.import_id,
                file_sha256=fact.sha256.hex(),
                line=fact.line,
                anchor_id=fact.anchor_id,
                confidence=fact.confidence,
                counts=fact.counts,
            )
            line.occurred_at.FromMicroseconds(fact.occurred_us)
            if fact.until_us is not None:
                line.expires_at.FromMicroseconds(fact.until_us)
        return answer


def import_message(job: Job) -> pb.Import:
    """An import as protobuf."""
    created = Timestamp()
    created.FromDatetime(job.created_at)
    counts = job.counts
    return pb.Import(
        import_id=job.id,
        partner=job.partner,
        entity_kind=job.entity_kind,  # type: ignore[arg-type]  # the numbers are the contract's
        file=job.file_name,
        file_sha256=job.file_sha256.hex() if job.file_sha256 else "",
        state=_STATES[job.state],
        reason=job.reason,
        message=job.message,
        dry_run=job.dry_run,
        lines=job.lines,
        lines_done=job.lines_done,
        matched=counts.matched,
        unmatched=counts.unmatched,
        refused_lines=counts.refused_lines,
        values_new=counts.values_new,
        values_changed=counts.values_changed,
        values_unchanged=counts.values_unchanged,
        values_refused=counts.values_refused,
        values_repeated=counts.values_repeated,
        created_at=created,
        caller=job.caller,
    )
