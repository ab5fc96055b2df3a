"""/jobs: the answers to calls that were made with `Prefer: respond-async`, for their callers only."""

import json
from datetime import UTC, datetime

from flask import Response, g, jsonify

from api import jobs
from api.errors import ApiError
from api.openapi import GuardedBlueprint
from api.schemas.jobs import JobSchema
from api.services import services
from moodreel.storage.job_store import DONE
from moodreel.storage.timestamps import format_timestamp

FAILED = "failed"

blueprint = GuardedBlueprint("jobs", __name__, description="Calls that are answered later", dated=False)


@blueprint.route("/jobs/<job_id>", methods=["GET"])
@blueprint.doc(operationId="getJob")
@blueprint.response(200, JobSchema)
@blueprint.alt_response(
    202, schema=JobSchema, headers=jobs.RETRY_HEADER, description="It is not done yet.", success=True
)
@blueprint.error_responses("not_found", "storage_unavailable")
def job(job_id: str) -> Response:
    """Return a job of mine: 202 while it waits or runs, then 200 with the answer, or with the error as a problem."""
    state = _runner().store.get(g.caller.owner, job_id)
    if state is None:
        raise _not_found()
    body: dict[str, object] = {"id": job_id, "status": state.status}
    body["created"] = format_timestamp(datetime.fromtimestamp(state.created, UTC))
    if state.status != DONE or state.answer is None or state.answer_status is None:
        response = jsonify(body)
        response.status_code = 202
        response.headers["Retry-After"] = str(jobs.RETRY_AFTER_SECONDS)
        return response
    failed, answer = state.answer_status >= 400, json.loads(state.answer)
    if jobs.HISTORY_ID in answer:
        body["history_id"] = answer.pop(jobs.HISTORY_ID)
    return jsonify(
        body
        | {"status": FAILED if failed else DONE, "answer_status": state.answer_status}
        | {"error" if failed else "answer": answer}
    )


@blueprint.route("/jobs/<job_id>", methods=["DELETE"])
@blueprint.doc(operationId="deleteJob")
@blueprint.response(204)
@blueprint.error_responses("not_found", "storage_unavailable", "forbidden")
def delete(job_id: str) -> Response:
    """Cancel a job of mine, or forget its answer. What was sent is deleted at once."""
    if not _runner().store.delete(g.caller.owner, job_id):
        raise _not_found()
    return Response(status=204)


def _runner() -> jobs.JobRunner:
    runner = services().jobs
    if runner is None:
        raise ApiError("not_found", "This service does not answer calls later. Its operator can set JOBS=on.")
    return runner


def _not_found() -> ApiError:
    return ApiError("not_found", "You have no such job. Answers are kept for a limited time: make the call again.")
